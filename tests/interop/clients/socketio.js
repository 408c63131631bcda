// The Socket.IO client through the gateway: PORT CA. Prints a line per fact; any surprise ends it with code 1.
'use strict';
const assert = require('assert');
const fs = require('fs');
const https = require('https');
const { once } = require('events');
const { io } = require('socket.io-client');

const [port, ca] = process.argv.slice(2);
const lookup = (_, { all }, done) => (all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4));
const agent = new https.Agent({ ca: fs.readFileSync(ca), keepAlive: true, lookup });

function open(transports, origin) {
  return io(`https://gate.test:${port}`, { transports, agent, extraHeaders: { Origin: origin }, reconnection: false, forceNew: true });
}

async function connected(socket) {
  socket.once('connect_error', (error) => { throw error; });
  const greeting = once(socket, 'greeting');
  await once(socket, 'connect');
  assert.deepStrictEqual(await greeting, ['welcome']);
  socket.off('connect_error');
}

async function upgrades() {
  const socket = open(['polling', 'websocket'], 'https://app.test');
  await connected(socket);
  if (socket.io.engine.transport.name !== 'websocket') await once(socket.io.engine, 'upgrade');
  assert.strictEqual(socket.io.engine.transport.name, 'websocket');
  assert.strictEqual(await socket.timeout(10000).emitWithAck('echo', 'over a tunnel'), 'over a tunnel');
  console.log('polling, then websocket ok');
  socket.disconnect();
}

async function polls() {
  const socket = open(['polling'], 'https://app.test');
  await connected(socket);
  const big = Buffer.alloc(1_500_000, 7);
  assert.ok(big.equals(await socket.timeout(15000).emitWithAck('echo', big)));
  const now = once(socket, 'now');
  socket.emit('later', 300);
  assert.deepStrictEqual(await now, ['now']);
  assert.strictEqual(socket.io.engine.transport.name, 'polling');
  console.log('polling alone with 1.5 MB ok');
  socket.disconnect();
}

async function goesStraight() {
  const socket = open(['websocket'], 'https://app.test');
  await connected(socket);
  assert.strictEqual(await socket.timeout(10000).emitWithAck('echo', 'x'.repeat(1_200_000)), 'x'.repeat(1_200_000));
  console.log('websocket alone ok');
  socket.disconnect();
}

async function isRefused() {
  const socket = open(['websocket'], 'https://evil.test');
  socket.once('connect', () => { throw new Error('a foreign origin opened a tunnel'); });
  const [error] = await once(socket, 'connect_error');
  assert.match(String(error.description && error.description.message), /403/);
  console.log('foreign origin refused with 403');
}

upgrades()
  .then(polls)
  .then(goesStraight)
  .then(isRefused)
  .then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
