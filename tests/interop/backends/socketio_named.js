// One of several Socket.IO servers that know nothing of each other: NAME HOST PORT. A session lives in this process only, and
// whoever comes with a session of another one is told 400 "Session ID unknown".
'use strict';
const http = require('http');
const { Server } = require('socket.io');

const [name, host, port] = process.argv.slice(2);
const server = http.createServer();
const io = new Server(server, { cors: { origin: ['https://app.test', 'https://www.gate.test'], credentials: true } });
io.on('connection', (socket) => {
  socket.emit('served by', name);
  socket.on('say', (text, answer) => answer(name, text));
});
server.listen(Number(port), host, () => console.log(`listening on ${server.address().port}`));
