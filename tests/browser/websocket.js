// The browser's WebSocket API through the gateway: PORT CA PROTOCOL, where PROTOCOL is what the tunnels must run over.
'use strict';
const assert = require('assert');
const { main, pageOf, watchHandshakes } = require('./browser');

const [port, ca, spoken] = process.argv.slice(2);
const base = `gate.test:${port}`;

// Runs in the page: small helpers on its `window`.
function helpers() {
  window.dial = (url, protocols) => new Promise((resolve) => {
    const events = [];
    const socket = new WebSocket(url, protocols);
    socket.binaryType = 'arraybuffer';
    const before = socket.readyState;
    for (const name of ['open', 'error', 'close']) {
      socket.addEventListener(name, (event) => {
        events.push(name === 'close' ? `close ${event.code} ${event.reason} ${event.wasClean}` : name);
        if (name !== 'error') resolve({ socket, events, before });
      });
    }
  });
  window.opened = async (url) => {
    const { socket, events } = await dial(url);
    if (events[0] !== 'open') throw new Error(`${url}: ${events}`);
    return socket;
  };
  window.next = (socket) => new Promise((resolve, reject) => {
    socket.addEventListener('message', (event) => resolve(event.data), { once: true });
    socket.addEventListener('close', (event) => reject(new Error(`closed with ${event.code}`)), { once: true });
  });
  window.ended = (socket) => new Promise((resolve) => {
    socket.addEventListener('close', (event) => {
      resolve({ code: event.code, reason: event.reason, clean: event.wasClean, state: socket.readyState });
    });
  });
}

async function opens(page, answers) {
  const url = `wss://${base}/ws?opens`;
  const seen = await page.evaluate(async (url) => {
    const { socket, events, before } = await dial(url, ['not-allowed', 'chat.v2']);
    const seen = { before, events, after: socket.readyState, protocol: socket.protocol, url: socket.url, extensions: socket.extensions };
    socket.close();
    return seen;
  }, url);
  assert.deepStrictEqual(seen, { before: 0, events: ['open'], after: 1, protocol: 'chat.v2', url, extensions: 'permessage-deflate' });
  const { status } = await answers(url);
  assert.strictEqual(status, spoken === 'h2' ? 200 : 101, `the handshake went over something else than ${spoken}`);
  console.log(`${spoken}: the handshake was answered with ${status}`);
  console.log('opens: CONNECTING, open event, OPEN, subprotocol chat.v2');
}

async function carries(page) {
  await page.evaluate(async (url) => {
    const socket = await opened(url);
    const same = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);
    for (const text of ['', 'Grüße 🏰', 'x'.repeat(1048577)]) {
      const back = next(socket);
      socket.send(text);
      if (await back !== text) throw new Error(`text of ${text.length} characters differs`);
    }
    const bytes = new Uint8Array(1500000);
    for (let at = 0; at < bytes.length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
    for (const type of ['arraybuffer', 'blob']) {
      socket.binaryType = type;
      for (const sent of [bytes.buffer, bytes, new Blob([bytes])]) {
        const back = next(socket);
        socket.send(sent);
        const data = await back;
        if (!(data instanceof (type === 'blob' ? Blob : ArrayBuffer))) throw new Error(`not a ${type}`);
        const got = new Uint8Array(data instanceof Blob ? await data.arrayBuffer() : data);
        if (!same(got, bytes)) throw new Error(`${type} of ${got.length} bytes differs`);
      }
    }
    socket.close();
  }, `wss://${base}/ws?carries`);
  console.log('text, ArrayBuffer and Blob come back as they went');
}

async function buffers(page) {
  const seen = await page.evaluate(async (url) => {
    const socket = await opened(url);
    const back = next(socket);
    const idle = socket.bufferedAmount;
    socket.send(new Uint8Array(8000000));
    const waiting = socket.bufferedAmount;
    await back;
    const seen = { idle, waiting, after: socket.bufferedAmount };
    socket.close();
    return seen;
  }, `wss://${base}/ws?buffers`);
  assert.deepStrictEqual(seen, { idle: 0, waiting: 8000000, after: 0 });
  console.log('bufferedAmount counts what waits and falls to zero');
}

async function closes(page) {
  const mine = await page.evaluate(async (url) => {
    const socket = await opened(url);
    const end = ended(socket);
    socket.close(4001, 'bye');
    return { during: socket.readyState, ...await end };
  }, `wss://${base}/ws?closes`);
  assert.deepStrictEqual(mine, { during: 2, code: 4001, reason: 'bye', clean: true, state: 3 });
  console.log('close(4001, bye): CLOSING, clean close event with 4001 bye, CLOSED');
  const theirs = await page.evaluate(async (url) => {
    const socket = await opened(url);
    const end = ended(socket);
    socket.send('please close 4002 that is all');
    return end;
  }, `wss://${base}/ws?closed`);
  assert.deepStrictEqual(theirs, { code: 4002, reason: 'that is all', clean: true, state: 3 });
  console.log('the server\'s close arrives: 4002 that is all');
}

async function opensMany(page, answers) {
  await page.evaluate(async (url) => {
    await Promise.all(Array.from({ length: 20 }, async (_, number) => {
      const socket = await opened(`${url}${number}`);
      const back = next(socket);
      socket.send(`number ${number}`);
      if (await back !== `number ${number}`) throw new Error(`socket ${number} got another's message`);
      socket.close();
    }));
  }, `wss://${base}/ws?many`);
  for (let number = 0; number < 20; number += 1) {
    assert.strictEqual((await answers(`wss://${base}/ws?many${number}`)).status, spoken === 'h2' ? 200 : 101);
  }
  console.log('twenty sockets at once echo');
}

async function leaves(context) {
  const page = await pageOf(context, 'https://app.test');
  await page.evaluate(helpers);
  await page.evaluate(async (url) => { window.kept = await opened(url); }, `wss://${base}/ws?leaves`);
  await page.goto('about:blank');
  console.log('a page that goes away leaves 1001');
}

async function isRefused(context, origin, headers) {
  const page = await pageOf(context, origin, headers);
  const answers = await watchHandshakes(context, page);
  await warm(page);
  await page.evaluate(helpers);
  const url = `wss://${base}/ws?foreign`;
  const seen = await page.evaluate(async (url) => {
    const { socket, events } = await dial(url);
    return { origin: self.origin, events, state: socket.readyState };
  }, url);
  assert.deepStrictEqual(seen.events, ['error', 'close 1006  false']);
  assert.strictEqual(seen.state, 3);
  const answer = await answers(url);
  assert.ok(answer.status === 403 || /403/.test(answer.error), JSON.stringify(answer));
  if (answer.headers) assert.strictEqual(answer.headers['x-portcullis-reason'], 'origin-not-allowed');
  await page.close();
  return seen.origin;
}

/** With an HTTP/2 connection to the gateway open, the browser takes it for WebSockets too; without one it never asks. */
async function warm(page) {
  await page.evaluate((url) => fetch(url, { mode: 'no-cors', credentials: 'include' }), `https://${base}/`);
}

main(ca, {}, async (context) => {
  const page = await pageOf(context, 'https://app.test');
  const answers = await watchHandshakes(context, page);
  await warm(page);
  await page.evaluate(helpers);
  await opens(page, answers);
  await carries(page);
  await buffers(page);
  await closes(page);
  await opensMany(page, answers);
  await leaves(context);
  assert.strictEqual(await isRefused(context, 'https://evil.test'), 'https://evil.test');
  console.log('a foreign page gets error, then close 1006; the answer is 403 origin-not-allowed');
  const sandbox = { 'content-security-policy': 'sandbox allow-scripts' };
  assert.strictEqual(await isRefused(context, 'https://app.test', sandbox), 'null');
  console.log('a sandboxed page (Origin null) is refused the same way');
});
