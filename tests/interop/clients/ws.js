// The `ws` client through the gateway: PORT CA. Prints a line per fact; any surprise ends it with code 1.
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const fs = require('fs');
const { once } = require('events');
const WebSocket = require('ws');

const [port, ca] = process.argv.slice(2);

function open(path, origin, options = {}) {
  return new WebSocket(`wss://gate.test:${port}${path}`, [], {
    ca: fs.readFileSync(ca),
    origin,
    maxPayload: 0,
    // Every name is this machine; newer Node asks for all addresses at once.
    lookup: (_, { all }, done) => (all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4)),
    ...options,
  });
}

async function echo(socket, sent) {
  socket.send(sent);
  const [data, isBinary] = await once(socket, 'message');
  assert.strictEqual(isBinary, typeof sent !== 'string');
  assert.ok(Buffer.from(sent).equals(data), `sent ${sent.length}, got ${data.length}`);
}

async function compressed() {
  const socket = open('/ws?compressed', 'https://app.test', { perMessageDeflate: { threshold: 0 } });
  await once(socket, 'open');
  assert.match(socket.extensions, /permessage-deflate/);
  const before = socket._socket.bytesWritten;
  await echo(socket, 'compress me '.repeat(400_000));
  const written = socket._socket.bytesWritten - before;
  assert.ok(written < 500_000, `${written} bytes for a message that compresses well`);
  await echo(socket, crypto.randomBytes(2 * 1024 * 1024));
  await echo(socket, '');
  console.log(`compressed ok, extensions ${socket.extensions}`);
  socket.close(4004, 'compressed and done');
  const [code, reason] = await once(socket, 'close');
  assert.strictEqual(`${code} ${reason}`, '4004 compressed and done');
  console.log('close ok');
}

async function uncompressed() {
  const socket = open('/ws?plain', 'https://app.test', { perMessageDeflate: false });
  await once(socket, 'open');
  assert.strictEqual(socket.extensions, '');
  await echo(socket, crypto.randomBytes(1024 * 1024 + 1));
  socket.ping('knock');
  const [payload] = await once(socket, 'pong');
  assert.strictEqual(payload.toString(), 'knock');
  socket.terminate();
  await once(socket, 'close');
  console.log('uncompressed ok');
}

async function refused() {
  const socket = open('/ws?foreign', 'https://evil.test');
  const [, response] = await once(socket, 'unexpected-response');
  console.log(`foreign origin ${response.statusCode} ${response.headers['x-portcullis-reason']}`);
  assert.strictEqual(response.statusCode, 403);
  response.destroy();
}

compressed()
  .then(uncompressed)
  .then(refused)
  .then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
