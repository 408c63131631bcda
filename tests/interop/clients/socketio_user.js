// One user of a chat on Socket.IO, in Node as well as in a page: talks without a pause and keeps a diary.
'use strict';

/**
 * `options` are those of the client, which says everything again until it is acknowledged; `silence` is the time between
 * two messages, in milliseconds.
 */
function socketioUser(io, url, { silence = 100, ...options }) {
  // Nobody is upgraded who asked for polling alone.
  const diary = { servers: [], upgrades: options.transports ? null : 0, disconnects: [], refusals: [] };
  Object.assign(diary, { said: 0, tries: 0, acked: 0, strays: 0 });
  const socket = io(url, { forceNew: true, retries: 20, ackTimeout: 3000, reconnectionDelay: 500, ...options });
  let talks = true;

  socket.on('served by', (name) => diary.servers.push(name));
  // Before the namespace is joined, which the upgrade may overtake.
  socket.io.on('open', () => socket.io.engine.once('upgrade', () => { diary.upgrades += 1; }));
  socket.on('disconnect', (reason) => diary.disconnects.push(reason));
  socket.on('connect_error', (error) => diary.refusals.push(String(error.description ?? error.message)));
  socket.onAnyOutgoing(() => { diary.tries += 1; });

  const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });
  async function talk() {
    while (talks) {
      const text = `${diary.said += 1}`;
      try {
        const [name, heard] = await new Promise((resolve, reject) => {
          socket.emit('say', text, (error, ...answer) => (error ? reject(error) : resolve(answer)));
        });
        diary.acked += 1;
        if (name !== diary.servers.at(-1) || heard !== text) diary.strays += 1;
      } catch (error) {
        diary.refusals.push(String(error.message));
      }
      await pause(silence * (0.5 + Math.random()));
    }
  }
  const end = talk();

  return {
    /** What has happened so far, and how things are. */
    read: () => ({ ...structuredClone(diary), connected: socket.connected, transport: socket.connected ? socket.io.engine.transport.name : '' }),
    /** Says nothing more; kept when the last word is acknowledged. */
    hush: () => { talks = false; return end; },
    close: () => socket.disconnect(),
  };
}

// A page has no modules.
if (typeof module === 'object') module.exports = { socketioUser };
