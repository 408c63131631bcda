// Pages that are harder to keep with a server: PORT CA. Of another host of the gateway's site, of another site, and three
// tabs that one person opens at the same moment, before there is a cookie. All in private windows, where browsers are at their
// strictest with cookies.
'use strict';
const assert = require('assert');
const path = require('path');
const { people, pageOf } = require('./browser');
const { until } = require('../interop/clients/socketio_crowd');

const [port, ca] = process.argv.slice(2);
const url = `https://gate.test:${port}`;
const bundle = path.join(path.dirname(require.resolve('socket.io-client/package.json')), 'dist', 'socket.io.min.js');
const user = require.resolve('../interop/clients/socketio_user.js');

async function visit(context, origin) {
  const page = await pageOf(context, origin);
  await page.addScriptTag({ path: bundle });
  await page.addScriptTag({ path: user });
  return page;
}

// Of another origin, cookies need `withCredentials` here and CORS with credentials at the server.
const begin = (page) => page.evaluate((url) => { window.user = socketioUser(io, url, { withCredentials: true }); }, url);
const read = (page) => page.evaluate(() => window.user.read());
const works = ({ connected, transport, acked }) => connected && transport === 'websocket' && acked > 3;
const upgraded = (page) => until('a user is upgraded', () => read(page), works, 20_000);

/** Users who come one after the other, as one person in one browser: all on the first one's server, without a hitch. */
async function follows(context, origin, count) {
  const homes = new Set();
  for (let at = 0; at < count; at += 1) {
    const page = await visit(context, origin);
    await begin(page);
    const { servers, disconnects, refusals } = await upgraded(page);
    assert.deepStrictEqual([disconnects, refusals], [[], []]);
    servers.forEach((server) => homes.add(server));
    await page.close();
  }
  assert.strictEqual(homes.size, 1, [...homes].join());
}

people(ca, async (person) => {
  await follows(await person(), 'https://www.gate.test', 4);
  console.log('pages of another host stay with their server');
  await follows(await person(), 'https://app.test', 4);
  console.log('pages of another site stay with their server');

  const context = await person();
  const tabs = [];
  for (let at = 0; at < 3; at += 1) tabs.push(await visit(context, 'https://app.test'));
  await Promise.all(tabs.map(begin));
  // Each first answer brings another cookie, and the last one stays. Who still polls with a session of another server then
  // hears 400 and begins anew; who has his tunnel keeps it.
  await Promise.all(tabs.map(upgraded));
  await follows(context, 'https://app.test', 3);
  console.log('tabs that open at once all work, and the next ones stay with one server');
});
