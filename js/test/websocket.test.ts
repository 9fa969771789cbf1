import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, test } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { ReconnectingWebSocket, type ReconnectingWebSocketOptions } from '../src/websocket.js';
import { Served, until } from './serve.js';

let wss: WebSocketServer;
let url: string;
let received: string[];
let offered: (string | undefined)[];
const sockets = new Set<ReconnectingWebSocket>();

beforeEach(async () => {
  received = [];
  offered = [];
  wss = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await new Promise((resolve) => wss.once('listening', resolve));
  url = `ws://127.0.0.1:${(wss.address() as AddressInfo).port}/`;
  wss.on('connection', (socket, request) => {
    offered.push(request.headers['sec-websocket-protocol']);
    socket.on('message', (data, binary) => {
      received.push(binary ? `[${[...(data as Buffer)].join()}]` : String(data));
      socket.send(data, { binary });
    });
  });
});
afterEach(() => {
  for (const socket of sockets) socket.close();
  sockets.clear();
  for (const client of wss.clients) client.terminate();
  wss.close();
});

function connect(options: ReconnectingWebSocketOptions = {}, protocols?: string | string[], to = url): ReconnectingWebSocket {
  const constructor = WebSocket as unknown as NonNullable<ReconnectingWebSocketOptions['WebSocket']>;
  const socket = new ReconnectingWebSocket(to, protocols, { WebSocket: constructor, reconnectInterval: 10, reconnect: { first: 5 }, ...options });
  sockets.add(socket);
  return socket;
}

test('code for WebSocket finds what it expects', async () => {
  const socket = connect();
  const events: string[] = [];
  assert.deepEqual([socket.readyState, socket.CONNECTING, ReconnectingWebSocket.OPEN, socket.CLOSING, ReconnectingWebSocket.CLOSED], [0, 0, 1, 2, 3]);
  assert.deepEqual([socket.url, socket.protocol, socket.extensions, socket.binaryType], [url, '', '', 'blob']);
  socket.onopen = (event): void => void events.push(event.type);
  socket.addEventListener('open', { handleEvent: () => events.push('listener') });
  socket.onmessage = ({ data }): void => void events.push(typeof data === 'string' ? data : (data as object).constructor.name);
  socket.onclose = ({ code, reason, wasClean }): void => void events.push(`close ${code} ${reason} ${wasClean}`);
  socket.onerror = (): void => void events.push('error');
  socket.send('before open');
  assert.equal(socket.bufferedAmount, 11);
  await until(() => received.length === 1);
  assert.equal(socket.readyState, 1);
  socket.send(new Uint8Array([1]));
  await until(() => events.includes('Blob'));
  socket.binaryType = 'arraybuffer';
  socket.send(new Uint8Array([2]).buffer);
  await until(() => events.includes('ArrayBuffer'));
  await until(() => socket.bufferedAmount === 0);
  socket.close(4321, 'done');
  assert.equal(socket.readyState, 2);
  await until(() => socket.readyState === 3);
  socket.send('nowhere');
  assert.deepEqual(events, ['open', 'listener', 'before open', 'Blob', 'ArrayBuffer', 'close 4321 done true']);
  assert.deepEqual(received, ['before open', '[1]', '[2]']);
  assert.deepEqual(offered, [undefined]);
  assert.throws(() => connect().close(999), RangeError);
});

test('blobs keep their place', async () => {
  const socket = connect();
  socket.send('a');
  socket.send(new Blob(['bcd']));
  socket.send('e');
  assert.equal(socket.bufferedAmount, 1);
  socket.close();
  await until(() => socket.readyState === 3);
  assert.equal(received.length, 0);
  const second = connect();
  await until(() => second.readyState === 1);
  second.send('a');
  second.send(new Blob(['bcd']));
  second.send('e');
  await until(() => received.length === 3);
  assert.deepEqual(received, ['a', '[98,99,100]', 'e']);
});

test('it comes back, and what was sent meanwhile is sent then', async () => {
  const socket = connect();
  const events: string[] = [];
  for (const name of ['connecting', 'open', 'close', 'error'] as const) socket.addEventListener(name, (event) => events.push(name + ((event as CloseEvent).code ?? '')));
  for (let round = 0; round < 4; round++) {
    await until(() => socket.readyState === 1);
    socket.send(`round ${round}`);
    await until(() => received.includes(`round ${round}`) && socket.bufferedAmount === 0);
    // It may be back before anybody looks.
    socket.addEventListener('close', () => socket.send(`down ${round}`), { once: true });
    for (const client of wss.clients) client.terminate();
    await until(() => received.includes(`down ${round}`));
  }
  await until(() => received.length === 8);
  assert.deepEqual(received, [0, 1, 2, 3].flatMap((round) => [`round ${round}`, `down ${round}`]));
  assert.deepEqual(events, ['connecting', 'open', ...[0, 1, 2, 3].flatMap(() => ['close1006', 'connecting', 'open'])]);
});

test('a server that is not there, then is', async () => {
  const port = (wss.address() as AddressInfo).port;
  wss.close();
  const socket = connect();
  let errors = 0;
  socket.onerror = (): void => void errors++;
  socket.send('patience');
  await until(() => errors > 2);
  assert.equal(socket.readyState, 0);
  wss = new WebSocketServer({ port, host: '127.0.0.1' });
  wss.on('connection', (socket) => socket.on('message', (data) => received.push(String(data))));
  await until(() => received.length === 1);
});

test('options: attempts, opening by hand, the handshake in time, protocols', async () => {
  const limited = connect({ maxReconnectAttempts: 2 }, [], 'ws://127.0.0.1:1');
  let errors = 0;
  limited.onerror = (): void => void errors++;
  await until(() => limited.readyState === 3);
  assert.equal(errors, 3);

  const manual = connect({ automaticOpen: false });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(wss.clients.size, 0);
  manual.open();
  await until(() => manual.readyState === 1);
  manual.close();
  await until(() => manual.readyState === 3);
  manual.open();
  await until(() => manual.readyState === 1);
  manual.refresh();
  await until(() => offered.length === 3);

  const silent = createServer(() => undefined);
  silent.on('upgrade', () => undefined);
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const slow = connect({ timeoutInterval: 50 }, [], `ws://127.0.0.1:${(silent.address() as AddressInfo).port}`);
  let timeouts = 0;
  slow.onerror = (): void => void timeouts++;
  await until(() => timeouts > 1);
  silent.closeAllConnections();
  silent.close();

  const chat = connect({}, ['chat', 'v2']);
  await until(() => chat.readyState === 1);
  assert.equal(chat.protocol, 'chat');
  assert.equal(offered.at(-1), 'chat,v2');
});

test('terminal codes end it, others do not', async () => {
  for (const [code, ends] of [[1009, true], [4500, false], [1000, false]] as const) {
    const socket = connect();
    let closed: number | undefined;
    socket.onclose = (event): void => void (closed = event.code);
    await until(() => socket.readyState === 1);
    for (const client of wss.clients) client.close(code);
    await until(() => closed === code);
    assert.equal(socket.readyState === 3, ends);
    socket.close();
  }
});

test('a handler that throws stops nothing', async () => {
  const socket = connect();
  const thrown: unknown[] = [];
  const listeners = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', (error) => thrown.push(error));
  socket.onopen = (): void => {
    throw new Error('of the application');
  };
  socket.send('x');
  await until(() => received.length && thrown.length);
  process.removeAllListeners('uncaughtException');
  for (const listener of listeners) process.on('uncaughtException', listener);
  assert.match(String(thrown), /of the application/);
});

test('with lifeline: true nothing is lost or doubled over cuts', async () => {
  const served = await Served.start();
  const socket = connect({ lifeline: true }, [], served.url);
  const got: string[] = [];
  socket.onmessage = ({ data }): void => void got.push(data as string);
  await until(() => socket.readyState === 1);
  for (let i = 0; i < 100; i++) {
    socket.send(`${i}`);
    served.broadcast(`${i}`);
    if (i % 25 === 10) {
      served.cut();
      await until(() => served.sockets.size);
    }
  }
  await until(() => socket.bufferedAmount === 0 && got.length === 100);
  const expected = Array.from({ length: 100 }, (_, i) => `${i}`);
  assert.deepEqual([served.handled, got, served.errors, socket.protocol], [expected, expected, [], '']);
  socket.close();
  served.stop();
});
