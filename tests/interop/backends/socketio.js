// Socket.IO with its two transports under one path, echoing with an acknowledgement and greeting each new socket.
'use strict';
const http = require('http');
const { Server } = require('socket.io');

const server = http.createServer();
const io = new Server(server, { maxHttpBufferSize: 8e6, pingInterval: 1000, cors: { origin: 'https://app.test' } });
io.on('connection', (socket) => {
  console.log(`socket ${socket.id} by ${socket.conn.transport.name}`);
  socket.conn.once('upgrade', (transport) => console.log(`socket ${socket.id} upgraded to ${transport.name}`));
  socket.emit('greeting', 'welcome');
  socket.on('echo', (value, answer) => answer(value));
  // Sent on request only, so that a client can show that it waits in a long poll and is not kept waiting.
  socket.on('later', (milliseconds) => setTimeout(() => socket.emit('now', 'now'), milliseconds));
  socket.on('disconnect', (reason) => console.log(`socket ${socket.id} gone: ${reason}`));
});
server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
