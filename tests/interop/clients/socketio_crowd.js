// A crowd of Socket.IO users before three servers of which one dies and comes back, whatever the users run in.
//
// The servers are killed and started by whoever started this, and waits for the lines `settled` and `moved`.
'use strict';
const assert = require('assert');
const net = require('net');

/** Who gets upgraded, and who is kept to polling, by a proxy on the way perhaps. */
const UPGRADED = 30;
const POLLING = 6;
const USERS = UPGRADED + POLLING;
const PATIENCE = 60_000;
const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** Waits until `holds`, looking again and again; `tell` says how far it got. */
async function until(what, look, holds, patience = PATIENCE) {
  const deadline = Date.now() + patience;
  for (;;) {
    const seen = await look();
    if (holds(seen)) return seen;
    assert.ok(Date.now() < deadline, `${what}: not in time, but ${JSON.stringify(seen, null, 1)}`);
    await pause(100);
  }
}

const on = (server) => (user) => user.servers.at(-1) === server;
const works = (user) => user.connected && user.servers.length > 0 && user.transport === (user.upgrades === null ? 'polling' : 'websocket');
const sum = (users, of) => users.reduce((total, user) => total + of(user), 0);

function spread(users, servers) {
  return Object.fromEntries(servers.map((server) => [server, users.filter(on(server)).length]));
}

function accepting(address) {
  const [host, port] = address.split(':');
  return new Promise((resolve) => {
    const socket = net.connect(Number(port), host, () => resolve(true));
    socket.on('error', () => resolve(false)).on('connect', () => socket.destroy());
  });
}

/**
 * `open(count, options)` adds users, `read()` has their diaries in the order in which they came, `hush()` lets them say
 * their last words. `victim` is the server that dies, under `address`.
 */
async function lives({ open, read, hush }, { servers, victim, address }) {
  const begun = Date.now();
  const talked = async (count) => {
    const before = await read();
    await until(`${count} more messages of each`, read, (now) => before.every(({ acked }, at) => now[at].acked >= acked + count));
  };

  await open(UPGRADED, {});
  await open(POLLING, { transports: ['polling'] });
  const settled = await until('all are connected and upgraded', read, (users) => users.every(works));
  await talked(5);
  const before = spread(settled, servers);
  for (const server of servers) assert.ok(before[server] > 0, `nobody is with ${server}: ${JSON.stringify(before)}`);
  const acked = sum(await read(), (user) => user.acked);
  console.log('settled');

  const died = await until('the end is noticed', read, (users) => users.some((user) => user.disconnects.length > 0));
  const at = Date.now();
  assert.ok(died.every((user, at) => user.disconnects.length === 0 || on(victim)(settled[at])), 'somebody else was cut off');
  const moved = await until('all are back', read, (users) => users.every((user) => works(user) && !on(victim)(user)));
  const took = Date.now() - at;
  await talked(5);
  const during = spread(moved, servers);
  console.log('moved');

  await until(`${victim} is back`, () => accepting(address), (yes) => yes);
  let newcomers = 0;
  while (newcomers < 2 * USERS && (await read()).slice(USERS).filter(on(victim)).length < 5) {
    await open(3, {});
    newcomers += 3;
    await until('newcomers work', read, (users) => users.every(works));
    await pause(200);
  }
  await talked(5);
  await hush();
  const users = await read();
  const after = spread(users, servers);
  assert.ok(after[victim] >= 5, `newcomers do not get to ${victim}: ${JSON.stringify(after)}`);

  users.forEach((user, at) => {
    const was = at < USERS && on(victim)(settled[at]);
    const told = `user ${at}: ${JSON.stringify(user)}`;
    assert.strictEqual(user.disconnects.length, was ? 1 : 0, told);
    assert.strictEqual(user.servers.length, was ? 2 : 1, told);
    if (user.upgrades !== null) assert.strictEqual(user.upgrades, was ? 2 : 1, told);
    assert.strictEqual(user.strays, 0, told);
    assert.deepStrictEqual(user.refusals, [], told);
    assert.strictEqual(user.acked, user.said, told);
  });
  const said = sum(users, (user) => user.said);
  console.log(JSON.stringify({
    users: users.length,
    polling: POLLING,
    before,
    during,
    after,
    moved: before[victim],
    moved_within_ms: took,
    acked_before: acked,
    said,
    acked: sum(users, (user) => user.acked),
    said_again: sum(users, (user) => user.tries) - said,
    lost: said - sum(users, (user) => user.acked),
    seconds: Math.round((Date.now() - begun) / 1000),
  }));
}

module.exports = { lives, until, pause };
