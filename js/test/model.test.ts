import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Data } from '../src/codec.js';
import type { Core, Item, Saved } from '../src/core.js';
import { TestCore } from './core.js';
import { Link, Server } from './server.js';
import { seeded } from './vectors.js';
import { received } from './wire.js';

/**
 * One client and a server under a random schedule: each frame, each write to the store and each end of a link happens
 * when the schedule says so. Whatever it says, nothing is lost, nothing is handled twice, order is kept.
 */
type Step =
  | { do: 'send' | 'handle' | 'refuse' | 'push' | 'publish' | 'subscribe' | 'cut' | 'half cut' | 'store' | 'save' | 'deliver' | 'reload' | 'doubt' }
  | { do: 'up' | 'down' | 'sleep'; count: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.constant({ do: 'send' as const }) },
  { weight: 8, arbitrary: fc.constant({ do: 'handle' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'refuse' as const }) },
  { weight: 6, arbitrary: fc.constant({ do: 'push' as const }) },
  { weight: 5, arbitrary: fc.constant({ do: 'publish' as const }) },
  { weight: 2, arbitrary: fc.constant({ do: 'subscribe' as const }) },
  { weight: 2, arbitrary: fc.constant({ do: 'cut' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'half cut' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'reload' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'doubt' as const }) },
  { weight: 6, arbitrary: fc.constant({ do: 'store' as const }) },
  { weight: 5, arbitrary: fc.constant({ do: 'save' as const }) },
  { weight: 6, arbitrary: fc.constant({ do: 'deliver' as const }) },
  { weight: 20, arbitrary: fc.record({ do: fc.constant('up' as const), count: fc.integer({ min: 1, max: 6 }) }) },
  { weight: 24, arbitrary: fc.record({ do: fc.constant('down' as const), count: fc.integer({ min: 1, max: 6 }) }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('sleep' as const), count: fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 1500 }) }, { weight: 1, arbitrary: fc.integer({ min: 1, max: 40000 }) }) }) },
);

class World {
  now = 1e12;
  server = new Server();
  core!: Core;
  test!: TestCore;
  link: Link | undefined;
  up: Data[] = [];
  // What the store holds, and what is on its way to it.
  disk = { items: new Map<number, Item>(), next: 1, gen: 0, saved: undefined as Saved | undefined };
  toStore: Item[] = [];
  toDeliver: { stream: number; sequence: number; text: string }[] = [];
  // What happened.
  accepted: string[] = [];
  refused: string[] = [];
  stream: string[] = [];
  channel: string[] = [];
  gaps = 0;
  pushed = 0;
  published = 0;
  sent = 0;
  subscribed = false;
  random: () => number;

  constructor(seed: number) {
    this.random = seeded(seed);
    this.start();
  }

  start(): void {
    const { disk } = this;
    this.test = new TestCore({ durable: true, random: this.random });
    this.core = this.test.core;
    disk.gen++;
    const items = [...disk.items.values()].sort((a, b) => a.q - b.q);
    this.core.restore({ outbox: 'outbox', gen: disk.gen, next: disk.next, saved: structuredClone(disk.saved) }, structuredClone(items));
    this.core.connect(this.now);
    this.take();
  }

  take(): void {
    for (let output; (output = this.test.outputs.shift()); ) {
      switch (output.type) {
        case 'dial':
          this.link = this.server.connect();
          this.up = [];
          this.core.opened(this.now, true);
          break;
        case 'drop':
          if (this.link) this.server.lost(this.link);
          this.link = undefined;
          break;
        case 'write':
          this.up.push(output.data);
          break;
        case 'store':
          this.toStore.push(output.item);
          break;
        case 'forget':
          for (const q of [...this.disk.items.keys()]) if (output.all ? q <= output.q : q === output.q) this.disk.items.delete(q);
          break;
        case 'deliver': {
          const { value, name } = output.emit;
          if (name === 'gap') this.gaps++;
          else {
            const { channel, data } = value as { channel: string | null; data: string };
            if (channel) this.channel.push(data);
            else this.toDeliver.push({ stream: output.stream, sequence: output.sequence, text: data });
          }
          break;
        }
        case 'emit':
          if (output.name === 'reject') this.refused.push(String(output.value.data));
          if (output.name === 'error') throw output.value;
          break;
        default:
          throw new Error(`unexpected: ${output.type}`);
      }
    }
  }

  get session(): ReturnType<Server['sessions']['get']> {
    return this.server.sessions.get(this.core.saved()?.sid ?? '');
  }

  step(step: Step): void {
    const { core, server } = this;
    switch (step.do) {
      case 'send': {
        const text = `item ${++this.sent}`;
        core.send(this.now, text);
        break;
      }
      case 'handle':
        server.handle();
        break;
      case 'refuse':
        if (server.queue.length && server.queue[0]!.link.closed === undefined) server.reject(this.random() < 0.5);
        break;
      case 'push':
        // A session whose WELCOME was lost for good is nobody's.
        if (this.session) server.send(this.session.sid, `push ${++this.pushed}`);
        break;
      case 'publish':
        // Before the first reader nobody would know.
        if (this.session?.channels.has('news') && core.saved()?.ch.news) server.publish('news', `news ${++this.published}`);
        break;
      case 'subscribe':
        core.subscribe(this.now, 'news');
        break;
      case 'cut':
        this.end(true);
        break;
      case 'half cut':
        this.end(false);
        break;
      case 'store': {
        const items = this.toStore.splice(0);
        for (const item of items) {
          this.disk.items.set(item.q, item);
          this.disk.next = item.q + 1;
          this.accepted.push(String(item.data));
        }
        if (items.length) core.stored(this.now, items.at(-1)!.q);
        break;
      }
      case 'deliver': {
        const delivery = this.toDeliver.shift();
        if (!delivery) break;
        this.stream.push(delivery.text);
        core.handled(delivery.stream, delivery.sequence);
        break;
      }
      case 'save':
        this.disk.saved = structuredClone(core.saved());
        // A crash between handling and saving hands a message out again: as if saving were a part of it.
        core.settled((core.saved()?.s ?? 0));
        break;
      case 'reload': {
        if (!this.disk.saved && core.saved()) break;
        if ((core.saved()?.s ?? 0) !== (this.disk.saved?.s ?? 0) || JSON.stringify(core.saved()) !== JSON.stringify(this.disk.saved)) break;
        this.end(this.random() < 0.5);
        this.toStore = [];
        this.toDeliver = [];
        this.start();
        break;
      }
      case 'doubt':
        core.doubt(this.now);
        break;
      case 'up':
        for (let i = 0; i < step.count && this.up.length && this.link; i++) server.message(this.link, this.up.shift()!);
        break;
      case 'down':
        for (let i = 0; i < step.count && this.link?.out.length; i++) {
          core.message(this.now, received(this.link.out.shift()!));
          this.take();
        }
        break;
      case 'sleep':
        this.now += step.count;
        core.timeout(this.now);
        break;
    }
    this.take();
  }

  end(seen: boolean): void {
    if (!this.link) return;
    if (seen) this.server.lost(this.link);
    this.link = undefined;
    this.up = [];
    this.core.lost(this.now, 1006, 'cut');
    this.take();
  }

  /** Everything comes to rest. */
  settle(): void {
    for (let i = 0; i < 60; i++) {
      for (const name of ['store', 'deliver', 'save'] as const) this.step({ do: name });
      while (this.toDeliver.length) this.step({ do: 'deliver' });
      this.step({ do: 'sleep', count: 31000 });
      this.step({ do: 'up', count: 1000 });
      while (this.server.handle());
      this.step({ do: 'down', count: 1000 });
    }
  }
}

function check(seed: number, steps: Step[]): World {
  const world = new World(seed);
  for (const step of steps) world.step(step);
  world.settle();
  const { server, core } = world;
  assert.equal(core.state(), 'connected');
  assert.equal(core.stats().unacknowledged, 0, 'everything was acknowledged');
  assert.equal(world.disk.items.size, 0, 'nothing is left in the store');
  const handled = server.handled.map(({ data }) => String(data));
  const expected = world.accepted.filter((text) => !world.refused.includes(text));
  assert.deepEqual(handled, expected, 'items: all that were accepted and not refused, in order, once');
  assert.deepEqual(world.stream, Array.from({ length: world.pushed }, (_, index) => `push ${index + 1}`), 'stream');
  assert.deepEqual(world.channel, Array.from({ length: world.published }, (_, index) => `news ${index + 1}`), 'channel');
  assert.equal(world.gaps, 0, 'no gap where nothing was lost');
  return world;
}

test('nothing is lost, doubled or out of order, whatever is cut when', () => {
  let [handled, hellos, pushed, published] = [0, 0, 0, 0];
  fc.assert(
    fc.property(fc.integer(), fc.array(step, { minLength: 1, maxLength: 250, size: 'max' }), (seed, steps) => {
      const { server, ...world } = check(seed, steps);
      handled += server.handled.length;
      hellos += server.hellos;
      pushed += world.pushed;
      published += world.published;
    }),
    { numRuns: Number(process.env.RUNS ?? 800), includeErrorInReport: true },
  );
  // It was no idle schedule.
  assert.ok(handled > 1000 && hellos > 1000 && pushed > 500 && published > 100, `${handled} ${hellos} ${pushed} ${published}`);
});
