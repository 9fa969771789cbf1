// node ws as client, measured from inside as lifeline.php is: MODE receive|send, URL, SECONDS.
'use strict';
const WebSocket = require('ws');
require('bufferutil');

const [, , mode, url, seconds] = process.argv;
const socket = new WebSocket(url, { perMessageDeflate: false });
const report = (count, before, start) => {
  const use = process.cpuUsage(before);
  const took = Number(process.hrtime.bigint() - start) / 1e9;
  console.log(JSON.stringify({
    messages: count,
    seconds: took,
    messages_per_second: count / took,
    cpu_seconds_per_million: (use.user + use.system) / Math.max(1, count),
  }));
  process.exit(0);
};

socket.on('open', () => {
  if (mode === 'receive') {
    let count = 0;
    socket.on('message', () => { count++; });
    setTimeout(() => {
      count = 0;
      const before = process.cpuUsage();
      const start = process.hrtime.bigint();
      setTimeout(() => report(count, before, start), seconds * 1000);
    }, 500);
    return;
  }
  const message = Buffer.alloc(32, 'x');
  let count = 0;
  const before = process.cpuUsage();
  const start = process.hrtime.bigint();
  // In batches that are waited for, as flush() does.
  const batch = () => {
    if (Number(process.hrtime.bigint() - start) / 1e9 >= seconds) return report(count, before, start);
    for (let n = 0; n < 9999; n++) socket.send(message);
    socket.send(message, () => {
      count += 10000;
      setImmediate(batch);
    });
  };
  batch();
});
