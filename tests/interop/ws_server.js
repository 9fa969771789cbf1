// A server of another make (ws): echoes, and closes with 4010 when told `close`.
'use strict';
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: process.argv[2] === 'deflate' });
server.on('listening', () => console.log(JSON.stringify({ event: 'ready', address: `ws://127.0.0.1:${server.address().port}` })));
server.on('connection', (peer) => {
  peer.on('message', (data, binary) => {
    if (!binary && data.toString() === 'close') peer.close(4010, 'enough');
    else if (!binary && data.toString() === 'terminate') peer.terminate();
    else if (!binary && data.toString() === 'ping') peer.ping('probe');
    else peer.send(data, { binary });
  });
  peer.on('pong', (data) => peer.send(`pong ${data}`));
  peer.on('close', (code, reason) => console.log(JSON.stringify({ event: 'close', code, reason: reason.toString() })));
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
