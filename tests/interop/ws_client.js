// A client of another make (ws). Visits the URL, plays the steps of a conversation and prints one
// line of JSON with what it saw.
'use strict';
const { WebSocket } = require('ws');

const [url, protocol] = process.argv.slice(2);
const messages = ['hello', '', 'zażółć 🦊', Buffer.from([0, 255, 128]), 'x'.repeat(70000), Buffer.alloc(300000, 7)];
const socket = new WebSocket(url, protocol ? [protocol] : []);
const seen = { echoed: 0, pings: 0, pongs: 0 };
let next = 0;

socket.on('open', () => {
  seen.protocol = socket.protocol;
  seen.extensions = socket.extensions;
  socket.ping('probe');
  // In three frames, as ws sends fragments.
  socket.send('frag', { fin: false });
  socket.send('men', { fin: false });
  socket.send('ted', { fin: true });
});
socket.on('ping', () => { seen.pings += 1; });
socket.on('pong', (data) => { seen.pongs += data.toString() === 'probe' ? 1 : 0; });
socket.on('message', (data, binary) => {
  if (seen.fragmented === undefined) {
    seen.fragmented = data.toString();
  } else {
    const sent = messages[next - 1];
    const same = Buffer.isBuffer(sent) === binary && Buffer.from(sent).equals(data);
    seen.echoed += same ? 1 : 0;
  }
  if (next < messages.length) {
    socket.send(messages[next]);
    next += 1;
  } else {
    socket.send('close 4010 enough');
  }
});
socket.on('close', (code, reason) => {
  seen.code = code;
  seen.reason = reason.toString();
  console.log(JSON.stringify({ event: 'done', expected: messages.length, ...seen }));
});
socket.on('error', (e) => console.log(JSON.stringify({ event: 'error', message: e.message })));
