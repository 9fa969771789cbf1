// node ws with bufferutil: the reference. The same paths as lifeline.php; PORT.
'use strict';
const http = require('http');
const { WebSocketServer } = require('ws');
require('bufferutil');

const server = http.createServer();
const sockets = new WebSocketServer({ server, perMessageDeflate: false });
const subscribers = new Set();
let opened = 0;
let closed = 0;

sockets.on('connection', (socket, request) => {
  opened++;
  socket.on('error', () => {});
  socket.on('close', () => closed++);
  // The heartbeat of the package's README.
  socket.isAlive = true;
  socket.on('pong', function () { this.isAlive = true; });
  if (request.url === '/subscribe') {
    subscribers.add(socket);
    socket.on('close', () => subscribers.delete(socket));
  } else if (request.url === '/publish') {
    socket.on('message', (data, binary) => {
      for (const subscriber of subscribers) subscriber.send(data, { binary });
    });
  } else {
    socket.on('message', (data, binary) => socket.send(data, { binary }));
  }
});
setInterval(() => {
  for (const socket of sockets.clients) {
    if (!socket.isAlive) socket.terminate();
    else {
      socket.isAlive = false;
      socket.ping();
    }
  }
}, 25000);
server.listen({ port: Number(process.env.PORT || 0), host: '127.0.0.1', backlog: 4096 }, () => {
  console.log(`listening ws://127.0.0.1:${server.address().port}`);
});
process.on('SIGTERM', () => process.exit(0));
