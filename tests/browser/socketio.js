// Socket.IO's browser client through the gateway: PORT CA.
'use strict';
const assert = require('assert');
const path = require('path');
const { main, pageOf } = require('./browser');

const [port, ca] = process.argv.slice(2);
const url = `https://gate.test:${port}`;

async function clientOn(context, origin) {
  const page = await pageOf(context, origin);
  // The package does not export its bundle by name; it lies beside what it does export.
  const bundle = path.join(path.dirname(require.resolve('socket.io-client/package.json')), 'dist', 'socket.io.min.js');
  await page.addScriptTag({ path: bundle });
  return page;
}

main(ca, {}, async (context) => {
  const page = await clientOn(context, 'https://app.test');
  const transports = await page.evaluate((url) => new Promise((resolve, reject) => {
    const socket = window.socket = io(url, { reconnection: false });
    const { engine } = socket.io;
    const first = engine.transport.name;
    socket.on('connect_error', reject);
    engine.on('upgrade', () => resolve([first, engine.transport.name]));
  }), url);
  assert.deepStrictEqual(transports, ['polling', 'websocket']);
  console.log('polling, then websocket');
  const echoed = await page.evaluate(() => window.socket.timeout(10000).emitWithAck('echo', 'x'.repeat(1200000)));
  assert.strictEqual(echoed.length, 1200000);
  console.log('echo over the tunnel');
  const alone = await page.evaluate((url) => new Promise((resolve, reject) => {
    const socket = io(url, { reconnection: false, transports: ['websocket'], forceNew: true });
    socket.on('connect_error', reject);
    socket.on('greeting', resolve);
  }), url);
  assert.strictEqual(alone, 'welcome');
  console.log('websocket alone');

  const foreign = await clientOn(context, 'https://evil.test');
  const outcome = await foreign.evaluate((url) => new Promise((resolve) => {
    const socket = io(url, { reconnection: false, transports: ['websocket'], forceNew: true });
    socket.on('connect_error', () => resolve('refused'));
    socket.on('connect', () => resolve('open'));
  }), url);
  assert.strictEqual(outcome, 'refused');
  console.log('a foreign page is refused its tunnel');
});
