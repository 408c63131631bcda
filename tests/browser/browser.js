// What the scripts share: a Chromium with a fresh profile that trusts one CA and takes every `.test` name for this machine.
'use strict';
const { execFileSync } = require('child_process');
const fs = require('fs');
const os = require('os');
const path = require('path');
const { chromium } = require('playwright-core');

const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--host-resolver-rules=MAP *.test 127.0.0.1',
];
const PATIENCE = 15000;

/** A home folder whose certificate store trusts `ca`, which is where Chromium looks on Linux. */
function trustingHome(ca) {
  const home = fs.mkdtempSync(path.join(os.tmpdir(), 'portcullis-browser-'));
  const store = path.join(home, '.pki', 'nssdb');
  fs.mkdirSync(store, { recursive: true });
  execFileSync('certutil', ['-d', `sql:${store}`, '-N', '--empty-password'], { stdio: 'pipe' });
  execFileSync('certutil', ['-d', `sql:${store}`, '-A', '-t', 'C,,', '-n', 'test CA', '-i', ca], { stdio: 'pipe' });
  return home;
}

/** Runs `scenario(home)` with such a home and ends the process with what came of it. */
async function atHome(ca, scenario) {
  const home = trustingHome(ca);
  let code = 1;
  try {
    await scenario(home);
    code = 0;
  } catch (error) {
    console.error(error);
  } finally {
    fs.rmSync(home, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }
  process.exit(code);
}

function launching(home) {
  return {
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    headless: true,
    args: FLAGS,
    env: { ...process.env, HOME: home, XDG_DATA_HOME: path.join(home, 'share'), XDG_CONFIG_HOME: home, XDG_CACHE_HOME: home },
  };
}

async function prepare(context) {
  context.setDefaultTimeout(PATIENCE);
  // Pages without a server count as public, and those must ask before they talk to this machine.
  await context.grantPermissions(['local-network-access']);
}

/** Runs `scenario(context)` in a browser of its own and ends the process with what came of it. */
function main(ca, options, scenario) {
  return atHome(ca, async (home) => {
    const context = await chromium.launchPersistentContext(path.join(home, 'profile'), { ...launching(home), ...options });
    try {
      await prepare(context);
      await scenario(context);
    } finally {
      await context.close();
    }
  });
}

/** The same with `scenario(person)`, where each `await person()` is a context with cookies and connections of its own. */
function people(ca, scenario) {
  return atHome(ca, async (home) => {
    const browser = await chromium.launch(launching(home));
    try {
      await scenario(async () => {
        const context = await browser.newContext();
        await prepare(context);
        return context;
      });
    } finally {
      await browser.close();
    }
  });
}

/** An empty page of this origin, without a server: only the origin matters. */
async function pageOf(context, origin, headers = {}) {
  const page = await context.newPage();
  await page.route(`${origin}/**`, (route) => route.fulfill({
    status: 200,
    headers: { 'content-type': 'text/html', ...headers },
    body: '<!doctype html><title>empty</title>',
  }));
  await page.goto(`${origin}/`);
  return page;
}

/** A function that waits for the gateway's answer to this page's handshake: URL → { status, headers, error }. */
async function watchHandshakes(context, page) {
  const answers = new Map();
  const urls = new Map();
  const session = await context.newCDPSession(page);
  const of = (url) => {
    if (!answers.has(url)) answers.set(url, deferred());
    return answers.get(url);
  };
  session.on('Network.webSocketCreated', ({ requestId, url }) => urls.set(requestId, url));
  session.on('Network.webSocketHandshakeResponseReceived', ({ requestId, response }) => {
    const headers = Object.fromEntries(Object.entries(response.headers).map(([name, value]) => [name.toLowerCase(), value]));
    of(urls.get(requestId)).resolve({ status: response.status, headers });
  });
  session.on('Network.webSocketFrameError', ({ requestId, errorMessage }) => {
    of(urls.get(requestId)).resolve({ error: errorMessage });
  });
  await session.send('Network.enable');
  return (url) => of(url).promise;
}

/** A promise to be kept from outside. */
function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

module.exports = { main, people, pageOf, watchHandshakes, PATIENCE };
