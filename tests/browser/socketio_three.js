// A crowd of browsers with Socket.IO through the gateway: PORT CA VICTIM ADDRESS. Each user has cookies and
// connections apart; the page is of the gateway's own origin, so that Socket.IO needs no options for its cookies.
'use strict';
const path = require('path');
const { people } = require('./browser');
const { lives } = require('../interop/clients/socketio_crowd');

const [port, ca, victim, address] = process.argv.slice(2);
const url = `https://gate.test:${port}`;
const bundle = path.join(path.dirname(require.resolve('socket.io-client/package.json')), 'dist', 'socket.io.min.js');
const user = require.resolve('../interop/clients/socketio_user.js');

async function visit(person, options) {
  const context = await person();
  const page = await context.newPage();
  // Only this one page is without a server.
  await page.route(`${url}/page`, (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html><title>chat</title>' }));
  await page.goto(`${url}/page`);
  await page.addScriptTag({ path: bundle });
  await page.addScriptTag({ path: user });
  // Forty pages of a browser have two cores, so they talk less.
  await page.evaluate(([url, options]) => { window.user = socketioUser(io, url, { silence: 500, ...options }); }, [url, options]);
  return page;
}

people(ca, async (person) => {
  const pages = [];
  await lives({
    open: async (count, options) => {
      for (let at = 0; at < count; at += 1) pages.push(await visit(person, options));
    },
    read: () => Promise.all(pages.map((page) => page.evaluate(() => window.user.read()))),
    hush: () => Promise.all(pages.map((page) => page.evaluate(() => window.user.hush()))),
  }, { servers: ['alpha', 'beta', 'gamma'], victim, address });
});
