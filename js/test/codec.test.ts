import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Data, decode, escapeName, type Frame, item, size } from '../src/codec.js';
import { vectors } from './vectors.js';
import { readClientFrame, received, withPayload, writeClientFrame } from './wire.js';

interface Vector {
  from: 'client' | 'server';
  text: string;
  binary?: boolean;
  repeat?: number;
  result: 'ok' | 'read' | 'ignored' | number;
}

/** As this server writes it. */
function writeServerFrame(frame: Frame): Data {
  switch (frame.t) {
    case 'M':
      return withPayload(`M ${frame.n}${frame.q ? ` q=${frame.q}` : ''}`, frame.data);
    case 'B':
    case 'C':
      return withPayload(`${frame.t} ${escapeName(frame.ch)} ${frame.at.e} ${frame.at.o} ${frame.at.mid}${frame.change ? ' d=1' : ''}`, frame.data);
    case 'K':
      return `K ${JSON.stringify({ ch: frame.ch, st: frame.st, ...frame.at })}`;
    case 'G': {
      const { channel, from, to, why } = frame;
      return `G ${JSON.stringify({ channel: channel ?? null, from, to, why })}`;
    }
    case 'N': {
      const { q, code, reason, permanent } = frame;
      return `N ${JSON.stringify({ q, code, reason, permanent })}`;
    }
    case 'X':
      return `X ${JSON.stringify({ after: frame.after, window: frame.window, url: frame.url })}`;
    case 'W': {
      const { sid, tok, resumed, why, s0, q = 0, rejected, heartbeat, spread = 0, limits } = frame;
      return `W ${JSON.stringify({ sid, tok, resumed, why, s0, q, rejected: rejected?.length ? rejected : undefined, heartbeat, spread, limits })}`;
    }
    default:
      return `${frame.t} ${frame.n}`;
  }
}

test('frames are read as the vectors say', () => {
  const results: Record<string, number> = {};
  for (const vector of vectors<Vector>('frames.json')) {
    const text = vector.text + 'x'.repeat(vector.repeat ?? 0);
    const data: Data = vector.binary ? new Uint8Array(Buffer.from(text)) : text;
    let found: string | number;
    try {
      const again =
        vector.from === 'server'
          ? ((frame) => frame && writeServerFrame(frame))(decode(received(data)))
          : ((frame) => frame && writeClientFrame(frame))(readClientFrame(data, 1024));
      found = again === undefined ? 'ignored' : Buffer.from(again as string).equals(Buffer.from(data as string)) ? 'ok' : 'read';
    } catch (error) {
      // The core takes any other error for the same.
      found = (error as { code?: number }).code ?? 4501;
    }
    assert.equal(found, vector.result, JSON.stringify(vector));
    const key = `${vector.from} ${vector.result}`;
    results[key] = (results[key] ?? 0) + 1;
  }
  for (const key of ['client ok', 'client 4501', 'client 4504', 'client ignored', 'server ok', 'server read', 'server 4501', 'server ignored']) assert.ok(results[key], key);
});

const id = (most: number): fc.Arbitrary<string> => fc.string({ unit: fc.constantFrom(...Array.from('AZaz09_-')), minLength: 1, maxLength: most });
const number = (least: number): fc.Arbitrary<number> => fc.integer({ min: least, max: Number.MAX_SAFE_INTEGER });
const name = fc.string({ unit: 'binary', minLength: 1, maxLength: 60 }).filter((text) => !/[\p{Cc}\p{Cs}]/u.test(text));
const payload = fc.oneof(
  fc.string({ unit: 'binary' }).filter((text) => !/\p{Cs}/u.test(text)),
  fc.uint8Array({ maxLength: 3000 }).map((bytes) => new Uint8Array(bytes)),
);
const seconds = fc.double({ min: 0, max: 31536000, noNaN: true }).map((value) => value + 0);
const at = (least: number): fc.Arbitrary<{ e: string; o: number; mid: string }> => fc.record({ e: id(22), o: number(least), mid: id(22) });
const reject = fc.record({ q: number(1), code: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), reason: fc.string(), permanent: fc.boolean() });
const frame: fc.Arbitrary<Frame> = fc.oneof(
  fc.record({ t: fc.constantFrom('A' as const, 'I' as const, 'O' as const, 'R' as const), n: number(1), q: fc.constant(0), data: fc.constant('') }),
  fc.record({ t: fc.constant('M' as const), n: number(1), q: number(0), data: payload }),
  fc.record({ t: fc.constant('B' as const), ch: name, at: at(0), data: payload, change: fc.constant(false) }),
  fc.record({ t: fc.constant('C' as const), ch: name, at: at(1), data: payload, change: fc.boolean() }),
  fc.record({ t: fc.constant('K' as const), ch: name, st: fc.constantFrom('ok' as const, 'gap' as const, 'snapshot' as const), at: at(0) }),
  fc.record({ t: fc.constant('K' as const), ch: name, st: fc.constantFrom('denied' as const, 'left' as const), at: fc.constant(undefined) }),
  fc.record({ t: fc.constant('G' as const), channel: fc.option(name, { nil: undefined }), from: fc.constant(3), to: fc.option(fc.integer({ min: 3, max: 9 }), { nil: undefined }), why: fc.string() }),
  reject.map((reject) => ({ t: 'N' as const, ...reject })),
  fc.record({ t: fc.constant('X' as const), after: seconds, window: seconds, url: fc.option(fc.string(), { nil: undefined }) }),
  fc.record({
    t: fc.constant('W' as const),
    sid: id(64),
    tok: id(64),
    resumed: fc.boolean(),
    s0: number(1),
    q: number(0),
    rejected: fc.array(reject),
    spread: seconds,
    limits: fc.record({ maxMessage: number(1), window: number(1) }),
  }),
);

test('what a server writes is read as it was meant', () => {
  fc.assert(
    fc.property(frame, (frame) => {
      const read = decode(received(writeServerFrame(frame)));
      const { e, o, mid, ...rest } = frame.t === 'K' ? { ...frame, ...frame.at, ...read } : { e: 0, o: 0, mid: 0, ...read };
      // JSON has no undefined, and leaves an empty list out.
      const plain = (value: object): unknown => JSON.parse(JSON.stringify(value, (_, value: unknown) => (Array.isArray(value) && !value.length ? undefined : value)));
      if ('AIOR'.includes(frame.t)) assert.equal((read as { n: number }).n, (frame as { n: number }).n);
      else if (frame.t === 'M' || frame.t === 'B' || frame.t === 'C') assert.deepEqual(read, structuredClone(frame));
      else assert.deepEqual(plain(rest), plain(frame));
      if (frame.t === 'K' && frame.at) assert.deepEqual({ e, o, mid }, { ...frame.at });
    }),
    { numRuns: 1000 },
  );
});

test('anything else is read or thrown, never more', () => {
  const noise = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.uint8Array().map((bytes) => new Uint8Array(bytes)),
    // A frame with one character changed.
    fc.tuple(frame, fc.nat(), fc.constantFrom(...Array.from(' \n%"{}:,=09-\0é'))).map(([frame, index, character]) => {
      const text = writeServerFrame(frame);
      if (typeof text !== 'string') return text;
      return text.slice(0, index % text.length) + character + text.slice((index % text.length) + 1);
    }),
  );
  let violations = 0;
  fc.assert(
    fc.property(noise, (data) => {
      try {
        decode(received(data));
      } catch (error) {
        assert.ok(error instanceof Error);
        assert.ok([4501, undefined].includes((error as { code?: number }).code), String(error));
        violations++;
      }
    }),
    { numRuns: 3000 },
  );
  assert.ok(violations > 1000, `${violations}`);
});

test('items and names are written so that a strict server reads them', () => {
  fc.assert(
    fc.property(number(1), number(0), payload, name, (n, s, data, ch) => {
      assert.deepEqual(readClientFrame(item(n, s, data), 1 << 20), { t: 'P', n, s, data });
      assert.deepEqual(readClientFrame(`S ${escapeName(ch)}`, 1), { t: 'S', ch });
      if (typeof data === 'string') assert.equal(size(data), Buffer.byteLength(data));
    }),
  );
  assert.equal(size('a\ud800b'), 5);
  assert.equal(size('😀é'), 6);
  for (const bad of ['', 'a\nb', '\u0085', 'x'.repeat(256), 'é'.repeat(128), '\ud800']) assert.throws(() => escapeName(bad), /bad channel|malformed/, bad);
});
