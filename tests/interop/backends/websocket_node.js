// The echo server of WebSocket-Node's README: a check of the origin, then `accept('echo-protocol', …)`, which throws
// where the client has not offered that subprotocol, and nothing catches it.
'use strict';
const http = require('http');
const { server: WebSocketServer } = require('websocket');

const server = http.createServer((request, response) => {
  response.writeHead(404);
  response.end();
});
const echo = new WebSocketServer({
  httpServer: server,
  autoAcceptConnections: false,
  maxReceivedFrameSize: 4 * 1024 * 1024,
  maxReceivedMessageSize: 4 * 1024 * 1024,
  keepaliveInterval: Number(process.env.PING_EVERY || 20000),
});

function originIsAllowed(origin) {
  return origin === 'https://app.test';
}

echo.on('request', (request) => {
  console.log(`request ${request.resource} from ${request.remoteAddress} offering ${request.requestedProtocols}`);
  if (!originIsAllowed(request.origin)) {
    request.reject();
    return;
  }
  const connection = request.accept('echo-protocol', request.origin);
  connection.on('message', (message) => {
    if (message.type === 'binary') {
      connection.sendBytes(message.binaryData);
      return;
    }
    const asked = /^please close (\d+) (.*)$/.exec(message.utf8Data);
    if (asked) connection.close(Number(asked[1]), asked[2]);
    else connection.sendUTF(message.utf8Data);
  });
  connection.on('close', (code, reason) => console.log(`closed ${request.resource} with ${code} ${reason}`));
});
server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
