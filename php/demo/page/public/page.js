// The page of `make serve`: a chat, and what its connection goes through.
import { Lifeline } from '/lifeline.js';
import { $, put } from './tools.js';
import { startBoard } from './board.js';

const SPAN = 60_000;
const now = () => Date.now();

/** Storage may be forbidden; then nothing is kept. */
const keep = (storage, key, value) => {
  try {
    if (value !== undefined) window[storage].setItem(key, value);
    return window[storage].getItem(key);
  } catch {
    return null;
  }
};

// What is drawn: states with the time at which they began, and round trips.
const link = [{ at: now(), kind: 'wait' }];
const php = [{ at: now(), kind: 'none' }];
const trips = [];
const enter = (lane, kind) => {
  if (lane.at(-1).kind !== kind) lane.push({ at: now(), kind });
};

// The wire. While `offline` nothing comes through and nobody is told, as after a change of networks; what was under way
// arrives later, as TCP has it.

let offline = false;
const held = [];
const pass = (what) => (offline ? held.push(what) : what());
/** When the question was sent whose answer is awaited. */
let asked = 0;

class Wire {
  constructor(url, protocols) {
    if (offline) {
      setTimeout(() => this.onclose?.({ code: 1006, reason: '' }), 150);
      return;
    }
    const socket = (this.socket = new WebSocket(url, protocols));
    socket.onopen = (event) => pass(() => this.onopen?.(event));
    socket.onclose = (event) => pass(() => this.onclose?.(event));
    socket.onmessage = (event) =>
      pass(() => {
        if (asked && typeof event.data === 'string' && event.data.startsWith('O ')) {
          trips.push({ at: now(), ms: performance.now() - asked });
          asked = 0;
        }
        this.onmessage?.(event);
      });
  }
  set binaryType(type) {
    if (this.socket) this.socket.binaryType = type;
  }
  get protocol() {
    return this.socket?.protocol ?? '';
  }
  get bufferedAmount() {
    return this.socket?.bufferedAmount ?? 0;
  }
  send(data) {
    if (typeof data === 'string' && data.startsWith('I ')) asked = performance.now();
    pass(() => this.socket?.send(data));
  }
  close(code, reason) {
    pass(() => this.socket?.close(code, reason));
  }
}

const client = new Lifeline('/', { WebSocket: Wire, reconnect: { base: 500, max: 10_000 } });
const send = (what, options) => client.send(JSON.stringify(what), options);

// What happened, latest first.

const clock = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' });
function happened(text, mood = '') {
  const line = document.createElement('li');
  const time = document.createElement('time');
  const at = new Date();
  time.dateTime = at.toISOString();
  time.textContent = `${clock.format(at)}.${String(at.getMilliseconds()).padStart(3, '0')}`;
  const what = document.createElement('span');
  what.textContent = text;
  what.className = mood;
  line.append(time, what);
  $('events').prepend(line);
  while ($('events').childElementCount > 80) $('events').lastElementChild.remove();
}

// The connection.

const NAMES = { disconnected: 'Not connected', connecting: 'Connecting', connected: 'Connected', reconnecting: 'Reconnecting', closed: 'Closed' };
const KINDS = { connecting: 'wait', connected: 'up' };
let next = 0;
let opened = 0;
let replayed = 0;
let harm = false;
let epoch;
let blockedUntil = 0;
/** What the server said last of its PHP; unknown without a connection. */
const phpNow = () => (client.state !== 'connected' ? 'none' : blockedUntil > now() ? 'wait' : 'up');

client.on('state', ({ from, to, code, reason, attempt, delay }) => {
  enter(link, KINDS[to] ?? 'down');
  enter(php, phpNow());
  asked = 0;
  next = to === 'reconnecting' && delay !== undefined ? now() + delay : 0;
  if (to === 'reconnecting') {
    const why = from === 'connected' ? `The link was lost${code ? ` (${code}${reason ? ` ${reason}` : ''})` : ''}` : 'No connection';
    happened(`${why}: try ${attempt} ${delay < 50 ? 'at once' : `in ${((delay ?? 0) / 1000).toFixed(2)} s`}`, 'bad');
  }
  if (to === 'closed') happened(`Closed for good (${code} ${reason})`, 'bad');
  show();
});
client.on('open', ({ resumed, why }) => {
  opened++;
  happened(resumed ? 'Connected: the session goes on' : `Connected: a new session${why ? ` (${why})` : ''}`, 'good');
});
client.on('resume', (event) => {
  replayed += event.replayed;
  if (event.replayed) happened(`What was missed has come: ${event.replayed}`, 'good');
});
client.on('gap', ({ channel, why }) => happened(`A gap in ${channel ?? 'the session'}: ${why}`, 'bad'));
client.on('reject', ({ data, reason, edit }) => edit || giveUp(data, `refused: ${reason}`));
client.on('overflow', ({ data, why, edit }) => edit || giveUp(data, why));
client.on('error', ({ message }) => happened(message, 'bad'));

client.on('message', ({ data }) => receive(JSON.parse(data)));
client.on('snapshot', ({ data }) => receive(JSON.parse(data)));

function receive(message) {
  switch (message.type) {
    case 'welcome':
      if (epoch && epoch !== message.epoch) happened('Another server process answers', 'good');
      ({ harm, epoch, who: me } = message);
      $('harmless').hidden = harm;
      // It does not know of what another process was blocked by.
      blockedUntil = 0;
      break;
    case 'history':
      for (const item of message.items) add(item);
      break;
    case 'said':
      add(message.item);
      break;
    case 'people':
      showPeople(message.people);
      break;
    case 'blocked':
      blockedUntil = now() + message.seconds * 1000 + 2000;
      happened(`PHP is blocked for ${message.seconds} s by ${message.by}`, 'bad');
      break;
    case 'unblocked':
      blockedUntil = 0;
      happened('PHP is back', 'good');
      break;
    case 'restarting':
      happened(`The server is killed by ${message.by}`, 'bad');
      break;
  }
  enter(php, phpNow());
  show();
}

// The chat. Each message has a number of the server's, and a key of its sender's.

const said = new Map();
const waiting = new Map(Object.entries(JSON.parse(keep('sessionStorage', 'waiting') ?? '{}')));
let me = '';
let redraw = false;

function add(item) {
  if (waiting.delete(item.key)) keepWaiting();
  if (said.has(item.n)) return;
  said.set(item.n, item);
  redraw = true;
}
function giveUp(data, why) {
  const { type, key, text } = JSON.parse(data);
  happened(`Not sent (${why}): ${text ?? type}`, 'bad');
  if (waiting.delete(key)) keepWaiting();
  show();
}
function keepWaiting() {
  keep('sessionStorage', 'waiting', JSON.stringify(Object.fromEntries(waiting)));
  redraw = true;
}
/** Numbers that nobody has shown us. */
function missing() {
  const numbers = [...said.keys()];
  return numbers.length ? Math.max(...numbers) - Math.min(...numbers) + 1 - numbers.length : 0;
}

const bubble = ({ from, text, at, who }, isWaiting) => {
  const line = document.createElement('li');
  line.classList.toggle('own', isWaiting || who === me);
  line.classList.toggle('waiting', isWaiting);
  const head = document.createElement('span');
  head.className = 'from';
  const name = document.createElement('b');
  name.textContent = from;
  const when = document.createElement(isWaiting ? 'i' : 'time');
  when.textContent = isWaiting ? 'waiting' : clock.format(at).slice(0, 5);
  if (!isWaiting) when.dateTime = new Date(at).toISOString();
  head.append(name, when);
  line.append(head, text);
  return line;
};
function drawLog() {
  redraw = false;
  const log = $('log');
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const items = [...said.values()].sort((a, b) => a.n - b.n).slice(-200);
  // What is there stays, so that a screen reader hears only what is new.
  const keys = new Map([...log.children].map((line) => [line.dataset.key, line]));
  const wanted = [...items.map((item) => [`${item.n} ${item.who === me}`, item, false]), ...[...waiting].map(([key, item]) => [key, { ...item, from: $('name').value }, true])];
  let place = log.firstElementChild;
  for (const [key, item, isWaiting] of wanted) {
    const line = keys.get(key) ?? bubble(item, isWaiting);
    keys.delete(key);
    line.dataset.key = key;
    if (line === place) place = place.nextElementSibling;
    else log.insertBefore(line, place);
  }
  for (const line of keys.values()) line.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function showPeople(people) {
  const lines = people.map(({ who, name, here }) => {
    const line = document.createElement('li');
    line.classList.toggle('away', !here);
    line.textContent = `${name}${who === me ? ' (you)' : ''}${here ? '' : ', link lost'}`;
    return line;
  });
  $('people').replaceChildren(...lines);
}

$('say').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('text').value.trim();
  if (!text) return;
  const key = Math.random().toString(36).slice(2) + now().toString(36);
  waiting.set(key, { text });
  keepWaiting();
  send({ type: 'say', text, key });
  $('text').value = '';
  drawLog();
  $('log').scrollTop = $('log').scrollHeight;
  show();
});

const ANIMALS = ['Badger', 'Crane', 'Dolphin', 'Fox', 'Heron', 'Lynx', 'Marten', 'Otter', 'Puffin', 'Raven', 'Seal', 'Stoat'];
$('name').value = keep('sessionStorage', 'name') ?? `${ANIMALS[Math.floor(Math.random() * ANIMALS.length)]} ${10 + Math.floor(Math.random() * 90)}`;
function hello() {
  keep('sessionStorage', 'name', $('name').value);
  send({ type: 'hello', name: $('name').value });
}
$('name').addEventListener('change', hello);
$('rename').addEventListener('submit', (event) => {
  event.preventDefault();
  $('text').focus();
});
hello();

const drawBoard = startBoard(client, happened);

// What breaks it. Nothing of this is made up for later.

for (const type of ['cut', 'block', 'restart']) $(type).addEventListener('click', () => send({ type }, { ttl: 1500 }));
$('offline').addEventListener('click', () => {
  offline = !offline;
  if (!offline) for (const what of held.splice(0)) what();
  $('offline').setAttribute('aria-pressed', String(offline));
  $('offline').textContent = offline ? 'Go online' : 'Go offline';
  happened(offline ? 'Offline: nothing comes through' : 'Online again');
  // What the browser says when it knows.
  dispatchEvent(new Event(offline ? 'offline' : 'online'));
  show();
});

// Showing it.

function show() {
  const { state, stats } = client;
  const up = state === 'connected';
  const blocked = up && blockedUntil > now();
  $('pill').dataset.state = up ? 'up' : KINDS[state] ?? 'down';
  put('state', NAMES[state]);
  $('countdown').hidden = !next;
  put('seconds', (Math.max(0, next - now()) / 1000).toFixed(1));
  put('rtt', trips.length ? trips.at(-1).ms.toFixed(1) : '–');
  put('queue', stats.unacknowledged);
  put('reconnects', Math.max(0, opened - 1));
  put('resumed', stats.resumed);
  put('replayed', replayed);
  put('duplicates', stats.duplicates);
  put('gaps', stats.gaps);
  put('missing', missing());
  put('note', blocked ? 'PHP is blocked: messages wait, beats go on.' : up ? 'Kept until the server has it.' : 'No connection: what you say is sent once it is back, in order.');
  $('note').classList.toggle('wait', blocked || !up);
  for (const id of ['cut', 'block', 'restart']) $(id).disabled = !harm || !up || offline || blocked;
  if (redraw) drawLog();
  drawBoard();
}

// The plot: 600 by 190 units, of which round trips have the upper 120, and each lane 14.

const NS = 'http://www.w3.org/2000/svg';
const [TOP, BASE] = [20, 120];

function drawLane(group, lane, y, height, className) {
  const t = now();
  while (lane.length > 1 && lane[1].at < t - SPAN) lane.shift();
  const shapes = lane.flatMap(({ at, kind }, index) => {
    const from = Math.max(0, 600 * (1 - (t - at) / SPAN));
    const to = index + 1 < lane.length ? 600 * (1 - (t - lane[index + 1].at) / SPAN) : 600;
    if (to <= 0) return [];
    const shape = document.createElementNS(NS, 'rect');
    for (const [name, value] of Object.entries({ x: from, y, width: Math.max(to - from, 1.5), height, class: `${className} ${kind}` })) shape.setAttribute(name, value);
    return [shape];
  });
  group.replaceChildren(...shapes);
}

/** Round figures above the largest of what is shown. */
function scale(most) {
  for (let power = 1; ; power *= 10) for (const step of [1, 2, 5]) if (step * power >= most) return step * power;
}

function draw() {
  const t = now();
  while (trips.length && trips[0].at < t - SPAN) trips.shift();
  const top = scale(Math.max(1, ...trips.map(({ ms }) => ms)));
  put('top', `${top} ms`);
  put('mid', `${top / 2} ms`);
  let [line, area, start, last] = ['', '', 0, 0];
  let before;
  for (const { at, ms } of trips) {
    const x = (600 * (1 - (t - at) / SPAN)).toFixed(1);
    const y = (BASE - ((BASE - TOP) * ms) / top).toFixed(1);
    // A line would be made up where there was no answer.
    const joined = before && at - before.at < 2500;
    if (!joined) {
      if (before) area += `L${last} ${BASE}Z`;
      start = x;
      area += `M${start} ${BASE}`;
    }
    line += joined ? `L${x} ${y}` : `M${x} ${y}h.1`;
    area += `L${x} ${y}`;
    last = x;
    before = { at };
  }
  $('line').setAttribute('d', line);
  $('area').setAttribute('d', area && `${area}L${last} ${BASE}Z`);
  drawLane($('bands'), link.map((part) => (part.kind === 'up' ? { ...part, kind: 'clear' } : part)), 0, 130, 'band');
  drawLane($('link-lane'), link, 140, 14, 'lane');
  drawLane($('php-lane'), php, 166, 14, 'lane');
}

// A question each second; while there is no connection the client has its own plan.
setInterval(() => {
  if (client.state === 'connected') client.wake();
}, 1000);
setInterval(() => {
  enter(php, phpNow());
  show();
  if (!document.hidden) draw();
}, 200);
happened('The page was loaded');
show();
draw();
