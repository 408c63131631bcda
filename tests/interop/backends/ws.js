// A plain `ws` server with compression, as its README shows it: no check of the origin, no pings, no policy at all; not
// even its own bounds on how many fragments a message may have.
'use strict';
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  perMessageDeflate: { threshold: 0 },
  maxFragments: 0,
  maxBufferedChunks: 0,
});
server.on('listening', () => console.log(`listening on ${server.address().port}`));
server.on('connection', (socket, request) => {
  console.log(`tunnel ${request.url} extensions ${JSON.stringify(socket.extensions)}`);
  socket.on('error', (error) => console.log(`error ${request.url} ${error.code}`));
  socket.on('close', (code, reason) => console.log(`closed ${request.url} with ${code} ${reason}`));
  socket.on('message', (data, isBinary) => {
    const asked = !isBinary && data.length < 200 && /^please close (\d+) (.*)$/.exec(data.toString());
    if (asked) socket.close(Number(asked[1]), asked[2]);
    else socket.send(data, { binary: isBinary });
  });
});
