// The demo's page, used as a visitor would: PORT CA WIDTH, where WIDTH is `desktop` or `phone`.
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const { main } = require('./browser');

const [port, ca, width] = process.argv.slice(2);
const phone = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
const desktop = { viewport: { width: 1280, height: 900 } };

async function fits(page) {
  const { page: content, window } = await page.evaluate(() => ({
    page: document.documentElement.scrollWidth,
    window: document.documentElement.clientWidth,
  }));
  assert.ok(content <= window, `the page is ${content} pixels wide in a window of ${window}`);
}

const on = (page, id) => page.getByTestId(id);

/** Waits until the event log has a line of this kind that matches. */
async function logged(page, kind, pattern) {
  await page.locator(`#log li[data-kind="${kind}"]`, { hasText: pattern }).first().waitFor();
}

async function visits(context) {
  const page = await context.newPage();
  const problems = [];
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('response', (response) => { if (response.status() >= 400) problems.push(`${response.status()} ${response.url()}`); });
  await page.goto(`https://localhost:${port}/`, { waitUntil: 'load' });
  await fits(page);
  assert.deepStrictEqual(problems, []);
  return { page, problems };
}

async function exchanges(page) {
  await on(page, 'clear-log').click();
  await on(page, 'message').fill('Grüße through the gate 🏰');
  await on(page, 'send').click();
  await logged(page, 'message', 'Grüße through the gate 🏰');
  await logged(page, 'message', 'identical');
  console.log('text comes back identical');

  await on(page, 'clear-log').click();
  await on(page, 'tab-binary').click();
  await on(page, 'random-size').selectOption('1048576');
  await on(page, 'send-random').click();
  await logged(page, 'message', /ArrayBuffer, 1 MiB.*identical/s);
  console.log('one mebibyte comes back identical');

  await on(page, 'tab-file').click();
  const file = { name: 'random.bin', mimeType: 'application/octet-stream', buffer: crypto.randomBytes(300001) };
  await on(page, 'file').setInputFiles(file);
  await page.locator('#file-result[data-result="good"]', { hasText: 'every byte equal' }).waitFor();
  console.log('a file comes back with every byte equal');

  await on(page, 'clear-log').click();
  await on(page, 'tab-text').click();
  await on(page, 'ask-handshake').click();
  await logged(page, 'message', /GET \/echo[\s\S]*x-forwarded-proto: https/i);
  console.log('the backend saw the gateway\'s handshake');
}

async function triesOrigins(page) {
  await on(page, 'origin-run').click();
  await page.locator('#origin-summary[data-result]').waitFor();
  const results = [];
  for (const id of ['origin-same', 'origin-foreign', 'origin-null']) results.push(await on(page, id).getAttribute('data-result'));
  assert.deepStrictEqual(results, ['opened', 'refused', 'refused']);
  assert.match(await on(page, 'origin-summary').textContent(), /^1 of 3 handshakes reached the backend/);
  console.log('three Origins: opened, refused, refused; one handshake reached the backend');
}

async function chats(context, first) {
  const { page: second } = await visits(context);
  for (const [page, name] of [[first, 'Ada'], [second, 'Grace']]) {
    await page.bringToFront();
    await on(page, 'chat-name').fill(name);
    await on(page, 'chat-join').click();
    await on(page, 'chat-members').getByText(name).waitFor();
  }
  await on(second, 'chat-text').fill('Is the gate open?');
  await on(second, 'chat-send').click();
  await on(first, 'chat-log').getByText('Is the gate open?').waitFor();
  await fits(first);
  await second.close();
  console.log('two pages talk in the chat');
}

main(ca, width === 'phone' ? phone : desktop, async (context) => {
  const { page, problems } = await visits(context);
  console.log('the page loads without errors and fits the window');
  await on(page, 'connect').click();
  await page.locator('#state[data-ready-state="1"]').waitFor();
  assert.strictEqual(await on(page, 'state').textContent(), 'OPEN');
  console.log('connects: state OPEN');
  await exchanges(page);
  await on(page, 'close-code').fill('4001');
  await on(page, 'close-reason').fill('enough');
  await on(page, 'disconnect').click();
  await logged(page, 'close', /4001, “enough”, clean/);
  assert.strictEqual(await on(page, 'state').textContent(), 'CLOSED');
  console.log('disconnects with 4001');
  await triesOrigins(page);
  await chats(context, page);
  assert.deepStrictEqual(problems, []);
});
