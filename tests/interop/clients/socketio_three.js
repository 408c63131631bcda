// A crowd of Node's Socket.IO clients through the gateway: PORT CA VICTIM ADDRESS, or PORT CA `without` where
// the gateway keeps nobody with a server.
'use strict';
const assert = require('assert');
const fs = require('fs');
const https = require('https');
const { once } = require('events');
const { io } = require('socket.io-client');
const { lives, pause } = require('./socketio_crowd');
const { socketioUser } = require('./socketio_user');

const [port, ca, victim, address] = process.argv.slice(2);
const url = `https://gate.test:${port}`;
const lookup = (_, { all }, done) => (all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4));
const agent = new https.Agent({ ca: fs.readFileSync(ca), keepAlive: true, lookup });
// `withCredentials` is what makes the client keep cookies outside a browser: for the life of one session, and through it
// from polling to WebSocket.
const options = { agent, withCredentials: true };

async function crowd() {
  const users = [];
  await lives({
    open: async (count, more) => {
      for (let at = 0; at < count; at += 1) users.push(socketioUser(io, url, { ...options, ...more }));
    },
    read: async () => users.map((user) => user.read()),
    hush: () => Promise.all(users.map((user) => user.hush())),
  }, { servers: ['alpha', 'beta', 'gamma'], victim, address });
  for (const user of users) user.close();
}

function get(path) {
  return new Promise((resolve, reject) => {
    https.get(`${url}${path}`, { agent }, async (answer) => {
      let body = '';
      for await (const piece of answer) body += piece;
      resolve({ status: answer.statusCode, body });
    }).on('error', reject);
  });
}

/** What Socket.IO does where a session's requests reach other servers than its own. */
async function isUnknown() {
  const { status, body } = await get('/socket.io/?EIO=4&transport=polling');
  assert.strictEqual(status, 200);
  const { sid } = JSON.parse(body.slice(1));
  const answers = [];
  // Of three requests in turn two get to others; the one at home would wait until there is something to say.
  for (let at = 0; at < 2; at += 1) answers.push(await get(`/socket.io/?EIO=4&transport=polling&sid=${sid}`));
  for (const answer of answers) {
    assert.strictEqual(answer.status, 400);
    assert.deepStrictEqual(JSON.parse(answer.body), { code: 1, message: 'Session ID unknown' });
  }
  console.log('400 Session ID unknown');

  const ends = await Promise.all(Array.from({ length: 30 }, async () => {
    const socket = io(url, { ...options, forceNew: true, reconnection: false });
    const end = await Promise.race([
      once(socket, 'connect_error').then(([error]) => String(error.description)),
      once(socket, 'disconnect').then(([reason]) => reason),
      once(socket, 'connect').then(() => once(socket.io.engine, 'upgrade')).then(() => 'works'),
      // By luck a poll waits at the right server while the upgrade was refused at another, of which nobody is told.
      pause(8_000).then(() => 'limps'),
    ]);
    socket.disconnect();
    return end;
  }));
  const works = ends.filter((end) => end === 'works').length;
  assert.ok(works < 5, `${works} of 30 are upgraded nevertheless`);
  assert.ok(ends.includes('400'), ends.join());
  console.log('clients are not upgraded');
}

(victim === 'without' ? isUnknown() : crowd()).then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
