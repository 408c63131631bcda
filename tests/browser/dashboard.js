// The dashboard as an operator uses it: PORT (not used) CA PROGRAM FILE TOKEN WIDTH. Starts the gateway with FILE, opens
// tunnels through it, and goes through the page; WIDTH is `desktop` or `phone`.
'use strict';
const assert = require('assert');
const { spawn } = require('child_process');
const fs = require('fs');
const tls = require('tls');
const { WebSocket } = require('ws');
const { main } = require('./browser');

const [, ca, program, file, token, width] = process.argv.slice(2);
const text = fs.readFileSync(file, 'utf8');
const [adminPort, port] = [...text.matchAll(/^address = "127\.0\.0\.1:(\d+)"/gm)].map((found) => Number(found[1]));
const page_url = `http://127.0.0.1:${adminPort}/`;
const phone = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2, colorScheme: 'dark' };
const desktop = { viewport: { width: 1280, height: 900 } };

/** The gateway, which does not outlive this script. */
function start() {
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', program, 'run', '--config', file], { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  child.stderr.on('data', (data) => { said += data; });
  return new Promise((resolve, reject) => {
    child.stdout.on('data', (data) => {
      said += data;
      if (said.includes(`listening on http://127.0.0.1:${adminPort}`)) resolve(child);
    });
    child.on('exit', (code) => reject(new Error(`the gateway has ended with ${code}:\n${said}`)));
  });
}

function stop(child) {
  return new Promise((resolve) => {
    child.on('exit', resolve);
    child.kill('SIGKILL');
  });
}

/** An open tunnel; `closed` is kept when it has closed. */
function tunnel(route) {
  const socket = new WebSocket(`wss://localhost:${port}/${route}`, ['chat.v2'], { origin: 'https://app.test', ca: fs.readFileSync(ca) });
  const closed = new Promise((resolve) => socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() })));
  return new Promise((resolve, reject) => {
    socket.on('open', () => resolve({ socket, closed }));
    socket.on('error', reject);
  });
}

const tunnels = (route, count) => Promise.all(Array.from({ length: count }, () => tunnel(route)));

/** A handshake byte by byte, which no client library would send. */
function knock(lines) {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ port, host: '127.0.0.1', servername: 'localhost', ca: fs.readFileSync(ca) }, () => {
      socket.write(`${lines.join('\r\n')}\r\n\r\n`);
    });
    let answer = '';
    socket.on('data', (data) => {
      answer += data;
      socket.end();
    });
    socket.on('close', () => resolve(answer));
    socket.on('error', reject);
  });
}

async function fits(page) {
  const [content, window] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(content <= window, `the page is ${content} pixels wide in a window of ${window}`);
}

/** Everything that must not happen; answers of the API that say no are told by the browser as well, and are none of it. */
async function watch(context) {
  const problems = [];
  const page = await context.newPage();
  page.on('pageerror', (error) => problems.push(`error: ${error}`));
  page.on('dialog', (dialog) => {
    problems.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on('console', (message) => {
    const isAnswer = message.text().startsWith('Failed to load resource') && message.location().url.includes('/api/v1/');
    if (['error', 'warning'].includes(message.type()) && !isAnswer) problems.push(`console: ${message.text()}`);
  });
  page.on('request', (request) => {
    if (!request.url().startsWith(page_url)) problems.push(`asked for ${request.url()}`);
  });
  await page.addInitScript(() => {
    addEventListener('securitypolicyviolation', (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  return { page, problems };
}

async function logsIn(context, page) {
  await page.goto(page_url);
  await page.locator('#login').waitFor();
  assert.ok(await page.locator('#main').isHidden());
  assert.strictEqual(await page.evaluate(() => document.activeElement.id), 'token');
  await page.fill('#token', 'nonsense');
  await page.keyboard.press('Enter');
  await page.locator('#token-error', { hasText: 'not the token' }).waitFor();
  await fits(page);
  await page.fill('#token', token);
  await page.keyboard.press('Enter');
  await page.locator('#main').waitFor();
  await page.reload();
  await page.locator('#main').waitFor();
  const kept = await page.evaluate(() => ({ local: { ...localStorage }, cookies: document.cookie, session: Object.values(sessionStorage) }));
  assert.deepStrictEqual(kept, { local: {}, cookies: '', session: [token] });
  const other = await context.newPage();
  await other.goto(page_url);
  await other.locator('#login').waitFor();
  await other.close();
  console.log('asks for a token, refuses a wrong one, and keeps the right one in its tab');
}

const rows = (page) => page.locator('#tunnels-table tbody tr');

async function showsNumbers(page, talking) {
  const timer = setInterval(() => talking.socket.send('hello'), 50);
  const messages = page.locator('#numbers article', { hasText: 'Messages' });
  await page.waitForFunction(() => [...document.querySelectorAll('#numbers article')].some((tile) => /Messages/.test(tile.textContent) && parseFloat(tile.querySelector('output').textContent) > 5));
  await messages.locator('svg').focus();
  await page.keyboard.press('ArrowLeft');
  assert.match(await messages.textContent(), /10 s ago/);
  await page.keyboard.press('Escape');
  assert.match(await messages.textContent(), /last 1 min/);
  clearInterval(timer);
  console.log('shows live numbers, and looks back at them');
}

async function pagesAndSorts(page) {
  await page.locator('#page-where', { hasText: '1 to 50 of 60' }).waitFor();
  assert.strictEqual(await rows(page).count(), 50);
  await page.click('#page-after');
  await page.locator('#page-where', { hasText: '51 to 60 of 60' }).waitFor();
  assert.ok(await page.locator('#page-after').isDisabled());
  await page.click('#page-before');
  await page.locator('#page-where', { hasText: '1 to 50 of 60' }).waitFor();
  await page.selectOption('#sort', 'messages');
  await page.locator('#tunnels-table th[aria-sort="descending"]', { hasText: 'Messages' }).waitFor();
  // The one that has talked comes first.
  await rows(page).first().locator('td', { hasText: /[1-9]\d* \/ \d+/ }).first().waitFor();
  await page.selectOption('#sort', 'id');
  await page.locator('#tunnels-table th[aria-sort="ascending"]', { hasText: 'ID' }).waitFor();
  await fits(page);
  console.log('pages through the tunnels, and sorts them');
}

async function explainsFilters(page) {
  await page.fill('#filter', 'rout=chat');
  await page.locator('#filter-error', { hasText: 'did you mean `route`?' }).waitFor();
  assert.strictEqual(await page.getAttribute('#filter', 'aria-invalid'), 'true');
  assert.ok(await page.locator('#close-all').isDisabled(), 'nothing is closed by a filter that is none');
  await page.fill('#filter', 'route=feed');
  await page.locator('#tunnels-sum', { hasText: '10 tunnels match' }).waitFor();
  assert.strictEqual(await page.textContent('#filter-error'), '');
  assert.strictEqual(await page.getAttribute('#filter', 'aria-invalid'), null);
  assert.strictEqual(await rows(page).count(), 10);
  console.log('says what is wrong with a filter');
}

async function closesOne(page, feeds) {
  const row = rows(page).first();
  const id = (await row.locator('th').textContent()).trim();
  await row.getByRole('button', { name: `Close tunnel ${id}` }).click();
  const dialog = page.getByRole('dialog', { name: `Close tunnel ${id}?` });
  await dialog.getByText('chat.v2').waitFor();
  await dialog.getByLabel('Code').fill('4999');
  await fits(page);
  await dialog.getByRole('button', { name: 'Keep open' }).click();
  await dialog.waitFor({ state: 'hidden' });
  await row.getByRole('button').click();
  await dialog.getByLabel('Code').fill('2000');
  await dialog.getByRole('button', { name: 'Close', exact: true }).click();
  await dialog.getByRole('alert').filter({ hasText: '1008' }).waitFor();
  await dialog.getByLabel('Code').fill('4001');
  await dialog.getByLabel('Reason').fill('enough <b>now</b>');
  await dialog.getByRole('button', { name: 'Close', exact: true }).click();
  const ended = await Promise.race(feeds.map(({ closed }) => closed));
  assert.deepStrictEqual(ended, { code: 4001, reason: 'enough <b>now</b>' });
  await page.locator('#tunnels-sum', { hasText: '9 tunnels match' }).waitFor();
  await page.locator('#news', { hasText: '1 tunnel closed' }).waitFor({ state: 'attached' });
  console.log('closes a real tunnel, with a code and a reason');
}

async function closesMany(page, feeds) {
  await page.click('#close-all');
  const dialog = page.getByRole('dialog', { name: 'Close 9 tunnels?' });
  await dialog.getByText('route=feed').waitFor();
  await dialog.getByRole('button', { name: 'Close', exact: true }).click();
  const codes = (await Promise.all(feeds.map(({ closed }) => closed))).map(({ code }) => code);
  assert.deepStrictEqual(codes.sort(), [...Array(9).fill(1008), 4001]);
  await page.locator('#tunnels-table .empty').waitFor();
  await page.fill('#filter', '');
  await page.locator('#tunnels-sum', { hasText: /^50 tunnels$/ }).waitFor();
  console.log('closes all that a filter means');
}

const EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script>';

async function showsStrangersAsText(page) {
  const answer = await knock([
    'GET /chat/<script>alert(3)</script>?token=secret HTTP/1.1', 'Host: localhost', 'Connection: Upgrade', 'Upgrade: websocket',
    'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==', `Sec-WebSocket-Protocol: ${EVIL}`,
    `Origin: https://${EVIL}`, `User-Agent: \u202e${EVIL}`,
  ]);
  assert.match(answer, /^HTTP\/1\.1 4/);
  const encoded = await knock([
    'GET /chat/%3Cimg%20src=x%20onerror=alert(4)%3E HTTP/1.1', 'Host: localhost', 'Connection: Upgrade', 'Upgrade: websocket',
    'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==', `Origin: https://${EVIL}`, `User-Agent: ${EVIL}`,
  ]);
  assert.match(encoded, /^HTTP\/1\.1 403/);
  const table = page.locator('#refusals-table tbody tr');
  await table.filter({ hasText: `https://${EVIL}` }).filter({ hasText: 'origin-malformed' }).first().waitFor();
  const shown = await table.filter({ hasText: 'onerror=alert(4)' }).first().textContent();
  assert.ok(shown.includes(`https://${EVIL}`) && shown.includes('%3Cimg'), shown);
  const made = await page.evaluate(() => [document.images.length, document.scripts.length, document.querySelectorAll('main img, main script, main [onerror]').length]);
  assert.deepStrictEqual(made, [1, 1, 0]);
  assert.ok(!(await page.textContent('#refusals-table')).includes('secret'));
  await fits(page);
  console.log('shows what strangers have sent as text');
}

async function drains(page) {
  const row = page.locator('#upstreams-list tbody tr', { hasText: 'feed' });
  await row.getByRole('button', { name: /^Drain ws:/ }).click();
  const dialog = page.getByRole('dialog', { name: /^Drain ws:/ });
  await dialog.getByText('nothing new in feed').waitFor();
  await dialog.getByRole('button', { name: 'Cancel' }).click();
  await dialog.waitFor({ state: 'hidden' });
  await row.getByRole('button', { name: /^Drain/ }).click();
  await dialog.getByRole('button', { name: 'Drain', exact: true }).click();
  await row.getByText('draining').waitFor();
  assert.match(await page.locator('#upstreams-list tbody tr', { hasText: 'chat' }).textContent(), /up/);
  await row.getByRole('button', { name: /^Resume/ }).click();
  await row.getByText('● up').waitFor();
  console.log('drains a server and lets it work again');
}

async function reloads(page) {
  const dialog = page.locator('#outcome');
  fs.writeFileSync(file, text.replace('name = "feed"', 'nam = "feed"'));
  await page.click('#reload');
  await dialog.getByText('Not reloaded').waitFor();
  assert.match(await page.textContent('#outcome-report'), /nam = "feed"[\s\S]*did you mean `name`/);
  await fits(page);
  await dialog.getByRole('button', { name: 'Done' }).click();
  fs.writeFileSync(file, text);
  await page.click('#reload');
  await dialog.getByText('Reloaded: generation 2').waitFor();
  await page.keyboard.press('Escape');
  await page.locator('#facts', { hasText: 'generation 2, 1 reload refused' }).waitFor();
  await page.locator('#configuration summary').filter({ hasText: 'portcullis.toml' }).waitFor();
  const shown = await page.textContent('#configuration pre');
  assert.ok(shown.includes('[[route]]') && shown.includes('token_file = "token"') && !shown.includes(token), shown);
  console.log('shows the configuration, and a reload\'s problems as check shows them');
}

async function setsLevel(page) {
  await page.selectOption('#level', 'debug');
  await page.locator('#news', { hasText: 'level is debug' }).waitFor({ state: 'attached' });
  await page.selectOption('#level', 'info');
  await page.locator('#news', { hasText: 'level is info' }).waitFor({ state: 'attached' });
  console.log('sets the log\'s level');
}

async function holdsStill(page) {
  await page.click('#pause');
  assert.strictEqual(await page.getAttribute('#pause', 'aria-pressed'), 'true');
  const more = await tunnel('feed');
  await page.locator('#numbers article', { hasText: 'Tunnels' }).locator('output', { hasText: '51' }).waitFor();
  assert.match(await page.textContent('#tunnels-sum'), /^50 tunnels/);
  await page.click('#pause');
  await page.locator('#tunnels-sum', { hasText: '51 tunnels' }).waitFor();
  more.socket.close();
  await page.locator('#tunnels-sum', { hasText: '50 tunnels' }).waitFor();
  console.log('holds its tables still');
}

async function findsAgain(page, gateway) {
  await stop(gateway);
  await page.locator('#outage', { hasText: 'does not answer' }).waitFor();
  assert.strictEqual(await page.textContent('#phase'), 'no answer');
  const again = await start();
  await page.locator('#outage').waitFor({ state: 'hidden' });
  await page.locator('#news', { hasText: 'was started again' }).waitFor({ state: 'attached' });
  await page.locator('#tunnels-table .empty').waitFor();
  console.log('says that the gateway is away, and finds it again');
  return again;
}

/** What has the focus: its name, and whether one sees that it has it. */
const focused = (page) => page.evaluate(() => {
  const element = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  const named = element.getAttribute('aria-label') ?? element.labels?.[0]?.textContent ?? element.textContent;
  return { id: element.id, tag: element.tagName, name: named.trim(), isSeen: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2 };
});

async function worksByKeys(page) {
  const one = await tunnel('chat');
  await page.locator('#tunnels-sum', { hasText: '1 tunnel' }).waitFor();
  await page.focus('.skip');
  const seen = [];
  const walk = async (until) => {
    for (let step = 0; step < 200; step += 1) {
      await page.keyboard.press('Tab');
      const now = await focused(page);
      assert.ok(now.name, `what has the focus has no name: ${JSON.stringify(now)}`);
      assert.ok(now.isSeen, `nobody sees the focus at ${JSON.stringify(now)}`);
      seen.push(now.id || now.name);
      if (until(now)) return;
    }
    assert.fail(`not reached: ${seen.join(', ')}`);
  };
  await walk(({ id }) => id === 'filter');
  assert.ok(['level', 'pause', 'reload'].every((id) => seen.includes(id)), seen.join(', '));
  assert.ok(seen.some((name) => name.startsWith('Drain ws:')), seen.join(', '));
  await page.keyboard.type('route=chat');
  await page.keyboard.press('Enter');
  await page.locator('#tunnels-sum', { hasText: '1 tunnel matches' }).waitFor();
  await walk(({ name }) => name.startsWith('Close tunnel'));
  const button = await focused(page);
  // Its row changes every other second, and the focus stays.
  await page.waitForTimeout(4500);
  assert.deepStrictEqual(await focused(page), button);
  await page.keyboard.press('Enter');
  await page.locator('#closing[open]').waitFor();
  assert.strictEqual((await focused(page)).id, 'closing-code');
  await page.keyboard.press('Escape');
  await page.locator('#closing').waitFor({ state: 'hidden' });
  assert.deepStrictEqual(await focused(page), button);
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  await page.keyboard.type('by keys');
  await page.keyboard.press('Enter');
  assert.deepStrictEqual(await one.closed, { code: 1008, reason: 'by keys' });
  await page.locator('#tunnels-table .empty').waitFor();
  await walk(({ id, tag }) => id !== 'filter' && tag === 'PRE');
  console.log('everything can be done with keys alone');
}

main(ca, width === 'phone' ? phone : desktop, async (context) => {
  const gateway = await start();
  const { page, problems } = await watch(context);
  await logsIn(context, page);
  const chats = await tunnels('chat', 50);
  const feeds = await tunnels('feed', 10);
  await showsNumbers(page, chats[7]);
  await pagesAndSorts(page);
  await explainsFilters(page);
  await closesOne(page, feeds);
  await closesMany(page, feeds);
  await showsStrangersAsText(page);
  await drains(page);
  await reloads(page);
  await setsLevel(page);
  await holdsStill(page);
  const again = await findsAgain(page, gateway);
  await worksByKeys(page);
  await fits(page);
  assert.deepStrictEqual(problems, []);
  await stop(again);
});
