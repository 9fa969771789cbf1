import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Core, CoreOptions, Events } from '../src/core.js';
import { type Output, TestCore } from './core.js';

const WELCOME = { sid: 's1', tok: 't1', resumed: false, s0: 1, heartbeat: { interval: 25, timeout: 10 }, spread: 2, limits: { maxMessage: 100, window: 1000 } };

/** A core and what came out of it. */
class Bench {
  now = 1e6;
  core: Core;
  test: TestCore;

  constructor(options: CoreOptions = {}) {
    this.test = new TestCore({ random: () => 0.5, ...options });
    this.core = this.test.core;
    this.core.restore({ outbox: 'o1', gen: 1, next: 1 });
    this.core.connect(this.now);
  }

  /** What came out since the last call. */
  take(): Output[] {
    return this.test.outputs.splice(0);
  }

  open(welcome: object = {}): this {
    this.core.opened(this.now, true, 'jwt');
    this.core.message(this.now, `W ${JSON.stringify({ ...WELCOME, ...welcome })}`);
    this.take();
    return this;
  }

  at(ms: number): this {
    this.now += ms;
    this.core.timeout(this.now);
    return this;
  }

  /** Lets the timer run whenever it wants to, for so long. */
  run(ms: number): this {
    const end = this.now + ms;
    for (let deadline; (deadline = this.core.deadline()) <= end; ) {
      this.now = Math.max(this.now, deadline);
      this.core.timeout(this.now);
    }
    this.now = end;
    return this;
  }

  writes(): string[] {
    return this.take().flatMap((output) => (output.type === 'write' ? [String(output.data)] : []));
  }
}

function emitted<K extends keyof Events>(outputs: Output[], name: K): Events[K][] {
  return outputs.flatMap((output) => (output.type === 'emit' && output.name === name ? [output.value as Events[K]] : []));
}
const has = (outputs: Output[], type: Output['type']): boolean => outputs.some((output) => output.type === type);

test('silence is death after interval and timeout, with a question before', () => {
  const bench = new Bench().open();
  bench.run(29_999);
  assert.deepEqual(bench.writes(), []);
  bench.run(1);
  assert.deepEqual(bench.writes(), ['I 1']);
  bench.run(4_999);
  assert.equal(bench.core.state(), 'connected');
  bench.run(1);
  const out = bench.take();
  assert.equal(bench.core.state(), 'reconnecting');
  assert.deepEqual(emitted(out, 'close'), [{ code: 4001, reason: 'no answer', final: false }]);
});

test('any frame is a sign of life', () => {
  const bench = new Bench().open();
  for (let i = 1; i < 20; i++) {
    bench.run(24_000);
    bench.core.message(bench.now, i % 2 ? `I ${i}` : 'LATER 1');
  }
  assert.equal(bench.core.state(), 'connected');
  assert.equal(bench.writes().join(), Array.from({ length: 10 }, (_, i) => `O ${2 * i + 1}`).join());
});

test('a timer that runs too late asks before it judges', () => {
  const bench = new Bench().open();
  // A background tab: timers once a minute, frames are received in between.
  bench.at(90_000);
  assert.deepEqual(bench.writes(), ['I 1']);
  assert.equal(bench.core.state(), 'connected');
  bench.core.message(bench.now + 50, 'O 1');
  assert.equal(bench.core.stats().rtt, 50);
  // The answer waited behind the timer of a frozen page.
  bench.at(90_000);
  assert.deepEqual(bench.writes(), ['I 2']);
  bench.at(3_600_000);
  assert.deepEqual(bench.writes(), ['I 3']);
  bench.core.message(bench.now, 'O 2');
  bench.at(10_000);
  assert.equal(bench.core.state(), 'connected');
  // But not for ever.
  bench.at(90_000);
  bench.at(90_000);
  assert.equal(bench.core.state(), 'connected');
  bench.at(90_000);
  assert.equal(bench.core.state(), 'reconnecting');
});

test('doubt has an answer within 5 s', () => {
  const bench = new Bench().open();
  bench.run(1000);
  bench.core.doubt(bench.now);
  bench.core.wake(bench.now);
  assert.deepEqual(bench.writes(), ['I 1']);
  bench.run(40);
  bench.core.message(bench.now, 'O 1');
  assert.equal(bench.core.stats().rtt, 40);
  bench.run(10_000);
  bench.core.wake(bench.now);
  assert.deepEqual(bench.writes(), ['I 2']);
  bench.run(4_999);
  assert.equal(bench.core.state(), 'connected');
  bench.run(1);
  assert.equal(bench.core.state(), 'reconnecting');
});

test('without a heartbeat silence says nothing', () => {
  const bench = new Bench().open({ heartbeat: undefined });
  bench.run(1e9);
  assert.equal(bench.core.state(), 'connected');
  bench.core.doubt(bench.now);
  bench.run(5000);
  assert.equal(bench.core.state(), 'reconnecting');
});

test('first the spread, then windows; a stable connection begins anew', () => {
  const bench = new Bench().open();
  const delays = (): (number | undefined)[] => emitted(bench.take(), 'state').flatMap(({ to, delay }) => (to === 'reconnecting' ? [delay] : []));
  bench.core.lost(bench.now, 1006, '');
  assert.deepEqual(delays(), [1000]);
  bench.run(999);
  assert.equal(bench.core.state(), 'reconnecting');
  bench.run(1);
  assert.equal(bench.core.state(), 'connecting');
  bench.core.lost(bench.now, 1006, '');
  assert.deepEqual(delays(), [275]);
  bench.run(275).open();
  bench.run(4999);
  bench.core.lost(bench.now, 1006, '');
  assert.deepEqual(delays(), [525]);
  bench.run(525).open();
  bench.run(5000);
  bench.core.lost(bench.now, 1006, '');
  assert.deepEqual(delays(), [1000]);
  assert.equal(bench.core.stats().attempt, 0);
});

test('wake dials at once', () => {
  const bench = new Bench().open();
  bench.core.lost(bench.now, 1006, '');
  bench.take();
  bench.core.wake(bench.now);
  assert.ok(has(bench.take(), 'dial'));
});

test('a WELCOME that does not come is a failed attempt', () => {
  const bench = new Bench();
  bench.core.opened(bench.now, true);
  bench.run(29_999);
  assert.equal(bench.core.state(), 'connecting');
  bench.run(1);
  assert.equal(bench.core.state(), 'reconnecting');
  bench.run(50).take();
  assert.equal(bench.core.state(), 'connecting');
  bench.run(10_000);
  const out = bench.take();
  assert.ok(has(out, 'drop'));
  assert.deepEqual(emitted(out, 'state').map(({ to }) => to), ['reconnecting']);
});

test('close codes: who comes back and who does not', () => {
  const stays = [1002, 1003, 1007, 1009, 1010, 4500, 4501, 4502, 4503, 4504, 4505, 4600, 4999];
  for (const code of [...stays, 1000, 1001, 1005, 1006, 1008, 1011, 1012, 1013, 3000, 4000, 4001, 4002, 4003, 4004, 4005, 4100, 4499]) {
    for (const greeted of [true, false]) {
      const bench = new Bench();
      if (greeted) bench.open();
      else bench.core.opened(bench.now, true);
      bench.take();
      bench.core.lost(bench.now, code, 'why');
      const out = bench.take();
      assert.equal(bench.core.state(), stays.includes(code) ? 'closed' : 'reconnecting', `${code}`);
      const final = stays.includes(code);
      assert.deepEqual(emitted(out, 'close'), greeted || final ? [{ code, reason: 'why', final }] : [], `${code}`);
      assert.equal(emitted(out, 'error').length, final ? 1 : 0);
    }
  }
  // lifeline's own mean nothing where it is not spoken.
  const plain = new Bench({ mode: 'plain' });
  plain.core.opened(plain.now, false);
  plain.core.lost(plain.now, 4500, '');
  assert.equal(plain.core.state(), 'reconnecting');
});

test('4003 asks for fresh credentials, once', () => {
  const bench = new Bench().open();
  const fresh = (): boolean[] => bench.take().flatMap((output) => (output.type === 'dial' ? [output.fresh] : []));
  bench.core.lost(bench.now, 4003, '');
  bench.run(1000);
  assert.deepEqual(fresh(), [true]);
  bench.core.lost(bench.now, 1006, '');
  bench.run(1000);
  assert.deepEqual(fresh(), [false]);
});

test('4006: until there is something to say', () => {
  for (const say of [(core: Core, now: number): unknown => core.send(now, 'x'), (core: Core, now: number): unknown => core.subscribe(now, 'c'), (core: Core, now: number): unknown => core.wake(now)]) {
    const bench = new Bench().open();
    bench.core.lost(bench.now, 4006, 'idle');
    assert.equal(emitted(bench.take(), 'state')[0]?.delay, undefined);
    bench.run(1e6);
    assert.equal(bench.core.state(), 'reconnecting');
    say(bench.core, bench.now);
    assert.equal(bench.core.state(), 'connecting');
  }
  // Not before the delay is over.
  const bench = new Bench().open();
  bench.core.lost(bench.now, 4006, 'idle');
  bench.core.send(bench.now, 'x');
  assert.equal(bench.core.state(), 'reconnecting');
  bench.run(1000);
  assert.equal(bench.core.state(), 'connecting');
});

test('attempts run out', () => {
  const bench = new Bench({ reconnect: { maxAttempts: 2 } });
  for (let i = 0; i < 3; i++) {
    bench.core.lost(bench.now, 1006, 'refused');
    bench.run(1000);
  }
  assert.equal(bench.core.state(), 'closed');
  assert.match(String(emitted(bench.take(), 'error')[0]), /refused attempts exhausted/);
});

test('a server that does not know lifeline.v1 is found out, and one that was away is not taken for such', () => {
  const dials = (bench: Bench): string => bench.take().flatMap((output) => (output.type === 'dial' ? [output.plain ? 'plain' : 'lifeline'] : [])).join(' ');
  const foreign = new Bench();
  assert.equal(dials(foreign), 'lifeline');
  foreign.core.lost(foreign.now, 1006, '');
  foreign.run(100);
  assert.equal(dials(foreign), 'plain');
  foreign.core.opened(foreign.now, false);
  assert.equal(dials(foreign), 'lifeline');
  foreign.core.lost(foreign.now, 1006, '');
  assert.equal(dials(foreign), 'plain');
  foreign.core.opened(foreign.now, false);
  assert.equal(foreign.core.state(), 'connected');
  foreign.core.lost(foreign.now, 1006, '');
  foreign.run(1000);
  assert.equal(dials(foreign), 'plain');

  const away = new Bench();
  for (const expected of ['lifeline', 'plain', 'lifeline', 'plain']) {
    assert.equal(dials(away), expected);
    away.core.lost(away.now, 1006, '');
    away.run(away.core.deadline() - away.now);
  }
  away.core.lost(away.now, 1006, '');
  away.run(away.core.deadline() - away.now);
  away.open();
  away.core.lost(away.now, 1006, '');
  away.run(away.core.deadline() - away.now);
  assert.equal(dials(away), 'lifeline');
  away.core.lost(away.now, 1006, '');
  away.run(away.core.deadline() - away.now);
  assert.equal(dials(away), 'lifeline', 'never plain once it was known');

  const lenient = new Bench();
  lenient.core.opened(lenient.now, false);
  assert.equal(lenient.core.state(), 'connected');

  const strict = new Bench({ mode: 'lifeline' });
  strict.core.lost(strict.now, 1006, '');
  strict.run(100);
  assert.equal(dials(strict), 'lifeline lifeline');
});

test('items wait for the store, and acknowledgements for what was handled', () => {
  const bench = new Bench({ durable: true }).open();
  assert.equal(bench.core.send(bench.now, 'a'), 1);
  assert.equal(bench.core.send(bench.now, 'b'), 2);
  const out = bench.take();
  assert.deepEqual(out.map(({ type }) => type), ['store', 'store']);
  bench.core.stored(bench.now, 1);
  assert.deepEqual(bench.writes(), ['P 1\na']);
  bench.core.message(bench.now, 'M 1\nx');
  const [deliver] = bench.take();
  assert.ok(deliver?.type === 'deliver' && deliver.stream && deliver.sequence === 1);
  bench.run(2000);
  assert.deepEqual(bench.writes(), [], 'not handled');
  bench.core.handled(deliver.stream, deliver.sequence);
  assert.equal(bench.core.saved()?.s, 1);
  bench.run(2000);
  assert.deepEqual(bench.writes(), [], 'handled and not saved');
  bench.core.settled(1);
  assert.deepEqual(bench.writes(), ['A 1']);
  bench.core.message(bench.now, 'M 1\nx');
  assert.deepEqual(bench.writes(), ['A 1'], 'told again, not handed out again');
});

test('acknowledged when it was settled, once, or with an item', () => {
  const bench = new Bench().open();
  for (let s = 1; s <= 3; s++) {
    bench.core.message(bench.now, `M ${s}\nx`);
    for (const output of bench.take()) if (output.type === 'deliver') bench.core.handled(output.stream, output.sequence);
  }
  bench.core.settled(2);
  assert.deepEqual(bench.writes(), ['A 2']);
  bench.core.settled(2);
  bench.core.settled(4);
  assert.deepEqual(bench.writes(), []);
  bench.core.lost(bench.now, 1006, '');
  bench.core.settled(3);
  bench.run(1000).open({ resumed: true, s0: 4 });
  bench.core.settled(3);
  assert.deepEqual(bench.writes(), [], 'WELCOME has told it');
});

test('the window, and what is too big for the server', () => {
  const bench = new Bench().open({ limits: { maxMessage: 100, window: 200 } });
  for (const length of [36, 36, 1, 101, 1]) bench.core.send(bench.now, 'x'.repeat(length));
  let out = bench.take();
  assert.equal(out.filter(({ type }) => type === 'write').length, 2);
  bench.core.message(bench.now, 'A 1');
  out = bench.take();
  assert.deepEqual(emitted(out, 'overflow').map(({ sequence, why }) => [sequence, why]), [[4, 'too big']]);
  bench.core.message(bench.now, 'A 2');
  assert.deepEqual(bench.writes(), ['E 4 from=4', 'P 5\nx']);
  // One item may always be under way.
  const narrow = new Bench().open({ limits: { maxMessage: 100, window: 1 } });
  narrow.core.send(narrow.now, 'x');
  narrow.core.send(narrow.now, 'y');
  assert.deepEqual(narrow.writes(), ['P 1\nx']);
});

test('what outlives its time goes to overflow, unless it is under way', () => {
  const bench = new Bench();
  bench.core.send(bench.now, 'short', 1000);
  bench.core.send(bench.now, 'long', 60_000);
  bench.run(999);
  assert.deepEqual(emitted(bench.take(), 'overflow'), []);
  bench.run(1);
  assert.deepEqual(emitted(bench.take(), 'overflow'), [{ sequence: 1, data: 'short', edit: undefined, why: 'expired' }]);
  bench.open();
  bench.run(20_000);
  bench.core.message(bench.now, 'I 1');
  bench.run(20_000);
  bench.core.message(bench.now, 'I 1');
  bench.run(24_000);
  assert.deepEqual(emitted(bench.take(), 'overflow'), []);
  bench.core.lost(bench.now, 1006, '');
  bench.run(1000);
  assert.deepEqual(emitted(bench.take(), 'overflow').map(({ data }) => data), ['long']);
});

test('a full outbox takes nothing more', () => {
  const bench = new Bench({ outbox: { limit: 2, bytes: 10 } });
  assert.throws(() => bench.core.send(bench.now, 'x'.repeat(11)), RangeError);
  bench.core.send(bench.now, 'a');
  bench.core.send(bench.now, 'b');
  assert.throws(() => bench.core.send(bench.now, 'c'), /outbox full/);
  bench.open();
  bench.core.message(bench.now, 'A 1');
  assert.equal(bench.core.send(bench.now, 'c'), 3, 'no number was used');
});

test('an earlier page: its items go first, this page counts from 1', () => {
  const test = new TestCore({ durable: true, random: () => 0.5 });
  const { core } = test;
  assert.equal(core.send(0, 'new'), 1);
  const old = { q: 7, data: 'old', size: 3, expires: Infinity };
  core.restore({ outbox: 'o1', gen: 3, next: 8, saved: { sid: 's1', tok: 't1', s: 4, ch: { news: { e: 'e1', o: 2, mid: 'm2' } } } }, [old]);
  const stored = test.outputs.splice(0);
  assert.deepEqual(stored, [{ type: 'store', item: { q: 8, data: 'new', size: 3, expires: Infinity, edit: undefined } }]);
  core.connect(0);
  core.opened(0, true);
  const hello = test.outputs.splice(0).at(-1);
  assert.ok(hello?.type === 'write');
  assert.deepEqual(JSON.parse(String(hello.data).slice(2)), {
    v: 1,
    resume: { sid: 's1', tok: 't1', s: 4, ch: { news: { e: 'e1', o: 2, mid: 'm2' } } },
    outbox: { id: 'o1', gen: 3, first: 7, next: 9 },
  });
  core.message(0, `W ${JSON.stringify({ ...WELCOME, resumed: true, s0: 5, rejected: [{ q: 7, permanent: true }], q: 7 })}`);
  const out = test.outputs.splice(0);
  assert.deepEqual(emitted(out, 'reject'), [{ sequence: 0, data: 'old', edit: undefined, code: 0, reason: '' }]);
  core.stored(0, 8);
  assert.deepEqual(test.outputs.splice(0), [{ type: 'write', data: 'P 8\nnew' }]);
  assert.equal(core.send(0, 'newer'), 2);
});

test('an outbox whose end the server knows better gets another id', () => {
  const bench = new Bench();
  bench.core.send(bench.now, 'a');
  bench.core.opened(bench.now, true);
  bench.take();
  bench.core.message(bench.now, `W ${JSON.stringify({ ...WELCOME, q: 5 })}`);
  const out = bench.take();
  assert.ok(has(out, 'rekey'));
  assert.ok(out.some((output) => output.type === 'drop' && output.code === 4004));
  bench.run(1000);
  bench.core.opened(bench.now, true);
  bench.core.message(bench.now, `W ${JSON.stringify(WELCOME)}`);
  const [hello, item] = bench.writes();
  assert.match(String(hello), /"outbox":{"id":"outbox-of-rekey","gen":1,"first":1,"next":2}/);
  assert.equal(item, 'P 1\na', 'nothing is lost');
});

test('the server asks to leave: to where it says, and back if there is nobody', () => {
  const bench = new Bench().open();
  bench.core.message(bench.now, 'X {"after":4,"window":2,"url":"wss://b.example/"}');
  bench.run(4999);
  assert.equal(bench.core.state(), 'connected');
  bench.run(1);
  const urls = (): unknown[] => bench.take().flatMap((output) => (output.type === 'dial' ? [output.url] : []));
  assert.deepEqual(urls(), ['wss://b.example/']);
  bench.core.lost(bench.now, 1006, '');
  bench.run(1000);
  assert.deepEqual(urls(), [undefined]);
  // After a connection that was not stable it waits as ever.
  bench.open();
  bench.core.message(bench.now, 'X {"after":0}');
  bench.core.timeout(bench.now);
  assert.equal(bench.core.state(), 'reconnecting');
});

test('plain WebSocket: what has left the socket is settled, the rest goes again', () => {
  const bench = new Bench({ mode: 'plain' });
  bench.core.send(bench.now, 'abc');
  bench.core.opened(bench.now, false);
  bench.core.send(bench.now, new Uint8Array([1, 2, 3, 4]));
  bench.core.send(bench.now, 'é');
  assert.equal(bench.take().filter(({ type }) => type === 'write').length, 3);
  assert.ok(bench.core.isWriting());
  bench.core.buffered(bench.now, 9);
  assert.equal(bench.core.stats().unacknowledged, 3);
  bench.core.buffered(bench.now, 3);
  assert.equal(bench.core.stats().unacknowledged, 2);
  bench.core.lost(bench.now, 1006, '');
  bench.run(1000);
  bench.core.opened(bench.now, false);
  const again = bench.take().flatMap((output) => (output.type === 'write' ? [output.data] : []));
  assert.deepEqual(again, [new Uint8Array([1, 2, 3, 4]), 'é']);
  bench.core.buffered(bench.now, 0);
  assert.equal(bench.core.stats().unacknowledged, 0);
  // No more than 1 MiB waits in the socket.
  for (let i = 0; i < 5; i++) bench.core.send(bench.now, 'x'.repeat(400_000));
  assert.equal(bench.writes().length, 2);
  bench.core.buffered(bench.now, 400_000);
  assert.equal(bench.writes().length, 1);
  bench.core.message(bench.now, 'hello');
  assert.deepEqual(emitted(bench.take(), 'message'), [{ data: 'hello', channel: null, sequence: 0 }]);
});

test('closed: told once, what was not sent too, nothing after', () => {
  const bench = new Bench().open();
  bench.core.send(bench.now, 'a');
  bench.take();
  bench.core.close(1000, 'bye');
  bench.core.close(1000, 'bye');
  const out = bench.take();
  assert.deepEqual(out.map((output) => (output.type === 'emit' ? output.name : output.type)), ['drop', 'state', 'forget', 'overflow', 'close', 'ended']);
  assert.deepEqual(emitted(out, 'overflow'), [{ sequence: 1, data: 'a', edit: undefined, why: 'closed' }]);
  assert.throws(() => bench.core.send(bench.now, 'b'), /closed/);
  bench.run(1e6);
  bench.core.wake(bench.now);
  bench.core.lost(bench.now, 1006, '');
  assert.deepEqual(bench.take(), []);
  const durable = new Bench({ durable: true });
  durable.core.send(durable.now, 'a');
  durable.core.close(1000, '');
  assert.deepEqual(emitted(durable.take(), 'overflow'), [], 'kept');
});

test('what breaks the protocol ends the connection with its code', () => {
  for (const [message, code, state] of [
    ['M 5\nx', 4004, 'reconnecting'],
    ['A 9', 4004, 'reconnecting'],
    ['A 01', 4501, 'closed'],
    [`W ${JSON.stringify(WELCOME)}`, 4501, 'closed'],
    ['G not JSON', 4501, 'closed'],
    ['C %zz e 1 m\n', 4501, 'closed'],
  ] as const) {
    const bench = new Bench().open();
    bench.core.message(bench.now, message);
    const drop = bench.take().find((output) => output.type === 'drop');
    assert.ok(drop?.type === 'drop' && drop.code === code, message);
    assert.equal(bench.core.state(), state, message);
  }
});
