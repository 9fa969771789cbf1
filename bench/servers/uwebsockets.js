// uWebSockets.js where it is installed; the same paths as lifeline.php. PORT.
'use strict';
const uws = require('uWebSockets.js');

const manner = (path) => ({
  idleTimeout: 120,
  sendPingsAutomatically: true,
  compression: uws.DISABLED,
  maxPayloadLength: 1 << 20,
  maxBackpressure: 64 << 20,
  open: (socket) => { if (path === '/subscribe') socket.subscribe('news'); },
  message: (socket, message, binary) => {
    if (path === '/publish') socket.publish('news', message, binary);
    else if (path !== '/subscribe') socket.send(message, binary);
  },
  close: () => {},
});
const port = Number(process.env.PORT);
uws.App()
  .ws('/subscribe', manner('/subscribe'))
  .ws('/publish', manner('/publish'))
  .ws('/*', manner('/'))
  .listen('127.0.0.1', port, (bound) => {
    if (!bound) process.exit(1);
    console.log(`listening ws://127.0.0.1:${port}`);
  });
