// A gateway that has something to show: servers of which some are sick, talking clients, refusals. PROGRAM FOLDER PORT;
// prints `serving`, and goes on until it is ended. The admin listener is at PORT.
'use strict';
const { execFileSync, spawn } = require('child_process');
const fs = require('fs');
const https = require('https');
const path = require('path');
const { WebSocket, WebSocketServer } = require('ws');

const [program, folder, adminPort] = process.argv.slice(2);
const NAME = 'app.example.com';
const ORIGIN = `https://${NAME}`;
const TUNNELS = Number(process.env.TUNNELS ?? 140);
/** Milliseconds between two tunnels of the second half. */
const PAUSE = Number(process.env.PAUSE ?? 900);
const file = (name) => path.join(folder, name);

/** Addresses of loopback, so that nothing has to be anywhere. */
const SERVERS = ['127.0.0.5:9000', '127.0.0.6:9000', '127.0.0.7:9000', '127.0.0.21:9100', '127.0.0.22:9100'];

function serve(address) {
  const [host, port] = address.split(':');
  const server = new WebSocketServer({ host, port: Number(port), handleProtocols: (offered) => [...offered][0] ?? false });
  server.on('connection', (socket) => {
    socket.on('error', () => {});
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
  return new Promise((resolve, reject) => server.on('listening', () => resolve(server)).on('error', reject));
}

const configuration = () => `
[server]
workers = 2
drain_timeout = "1s"

[log]
access = "${file('access.log')}"

[admin]
address = "127.0.0.1:${adminPort}"

[[listener]]
name = "public"
address = "127.0.0.1:0"
tls = { cert = "${file('certs')}/${NAME}.pem", key = "${file('certs')}/${NAME}.key" }

[[route]]
name = "chat"
hosts = ["${NAME}"]
path = "/chat"
upstream = "chat"
[route.websocket]
origins = ["same-origin", "https://*.example.com"]
subprotocols = { allow = ["chat.v2"] }
ping_interval = "2s"
max_tunnels = 5000

[[route]]
name = "feed"
hosts = ["${NAME}"]
path = "/feed"
upstream = "feed"
websocket = { origins = ["${ORIGIN}"], ping_interval = "2s" }

[[route]]
name = "site"
respond = { status = 200, body = "hello" }

[upstream.chat]
servers = ["ws://127.0.0.5:9000", "ws://127.0.0.6:9000", "ws://127.0.0.7:9000"]
drain_rate = 50

[upstream.feed]
servers = ["ws://127.0.0.21:9100", "ws://127.0.0.22:9100", "ws://127.0.0.23:9100"]
health = { tcp = true, interval = "1s", timeout = "1s" }
`;

async function start() {
  execFileSync(program, ['cert', NAME, '--dir', file('certs')], { stdio: 'ignore' });
  fs.writeFileSync(file('portcullis.toml'), process.env.SCENE_CONFIG ?? configuration());
  const gateway = spawn(program, ['run', '--config', file('portcullis.toml')], { stdio: ['ignore', 'pipe', 'pipe'] });
  process.on('exit', () => gateway.kill());
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => process.exit(0));
  let said = '';
  return new Promise((resolve, reject) => {
    gateway.stdout.on('data', (data) => {
      said += data;
      const found = said.match(/listening on https:\/\/127\.0\.0\.1:(\d+) \(public\)/);
      if (found) resolve(Number(found[1]));
    });
    gateway.stderr.on('data', (data) => { said += data; });
    gateway.on('exit', (code) => reject(new Error(`the gateway has ended with ${code}:\n${said}`)));
  });
}

const agents = ['Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0', 'Mozilla/5.0 (Macintosh) Safari/605.1.15', 'chat-client/2.4'];
const pick = (list, at) => list[at % list.length];

function connect(port, where, { origin = ORIGIN, client = 1, protocols = [], agent = agents[0] } = {}) {
  const socket = new WebSocket(`wss://127.0.0.1:${port}${where}`, protocols, {
    origin, ca: fs.readFileSync(file('certs/ca.pem')), servername: NAME, headers: { host: NAME, 'user-agent': agent },
    localAddress: `127.0.${7 + (client >> 7)}.${10 + (client & 127)}`,
  });
  socket.on('error', () => {});
  return socket;
}

/** Talks at a pace of its own. */
function talk(socket, number) {
  const pause = [90, 240, 700, 1900, 5000, 60_000][number % 6];
  const size = [40, 180, 900, 64, 4000][number % 5];
  socket.on('open', () => {
    const timer = setInterval(() => socket.send('x'.repeat(1 + Math.floor(size * (0.5 + Math.random())))), pause * (0.7 + 0.6 * Math.random()));
    socket.on('close', () => clearInterval(timer));
  });
}

function knock(port, number) {
  const foreign = ['https://evil.example', 'https://app.example.com.evil.test', 'null'];
  const where = pick(['/chat', '/feed', '/admin', '/chat'], number);
  connect(port, where, { origin: pick(foreign, number), client: 200 + number % 50, agent: pick(agents, number) });
}

(async () => {
  for (const address of SERVERS) await serve(address);
  const port = await start();
  console.log('serving');
  let turn = 0;
  setInterval(() => { if (Math.random() < 0.3) knock(port, turn += 1); }, 300);
  setInterval(() => {
    const options = { host: '127.0.0.1', port, servername: NAME, ca: fs.readFileSync(file('certs/ca.pem')), headers: { host: NAME }, path: '/', agent: false };
    for (let more = 0; more < 1 + Math.random() * 4; more += 1) https.get(options, (answer) => answer.resume()).on('error', () => {});
  }, 150);
  for (let number = 0; number < TUNNELS; number += 1) {
    const isChat = number % 3 !== 0;
    talk(connect(port, isChat ? '/chat' : '/feed', { client: number, protocols: isChat ? ['chat.v2'] : [], agent: pick(agents, number) }), number);
    // Most at once, the rest one after the other, so that there is something to see in a plot.
    await new Promise((resolve) => setTimeout(resolve, number < TUNNELS / 2 ? 5 : PAUSE));
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
