import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Data } from '../src/codec.js';
import type { Core, Item, Saved } from '../src/core.js';
import { createDocuments, type DocumentOptions, type LifelineDocument } from '../src/document.js';
import { TestCore } from './core.js';
import { Link, Server } from './server.js';
import { seeded } from './vectors.js';
import { received } from './wire.js';

/**
 * Clients that edit one document under a random schedule of frames, cuts, reloads and writes to their stores. Whatever
 * it says, they come to the server's state, and each edit is in it or part of one conflict.
 */
type Policy = NonNullable<DocumentOptions['conflict']>;
interface Made {
  id: string;
  after: string | undefined;
  value: string;
}

let ids = 0;

class Client {
  test!: TestCore;
  core!: Core;
  document!: LifelineDocument;
  link: Link | undefined;
  up: Data[] = [];
  queue: (() => void)[] = [];
  disk = { items: new Map<number, Item>(), next: 1, gen: 0, saved: undefined as Saved | undefined };
  toStore: Item[] = [];
  toForget: { q: number; all: boolean }[] = [];
  made: Made[] = [];
  /** Values whose conflict was told. */
  told: string[] = [];
  conflicts = 0;

  constructor(
    readonly name: string,
    readonly world: World,
  ) {
    this.start();
  }

  start(): void {
    const { disk, world } = this;
    disk.gen++;
    this.test = new TestCore({ durable: true, random: world.random });
    this.core = this.test.core;
    this.queue = [];
    const documents = createDocuments({ core: this.core, act: (input) => input(world.now), queue: this.queue, newId: () => `o${++ids}`, durable: () => true });
    this.core.tap(documents.tap);
    this.document = documents.open('board', { conflict: world.policy });
    this.document.on('conflict', ({ mine, resolution }) => {
      this.conflicts++;
      if (resolution === 'server') this.told.push(String(mine));
    });
    this.document.on('refused', (refused) => assert.fail(JSON.stringify(refused)));
    const items = structuredClone([...disk.items.values()].sort((a, b) => a.q - b.q));
    this.core.restore({ outbox: `outbox ${this.name}`.replace(' ', '-'), gen: disk.gen, next: disk.next, saved: structuredClone(disk.saved) }, items);
    documents.restore(items);
    this.core.connect(world.now);
    this.take();
  }

  take(): void {
    this.outputs();
    for (let tell; (tell = this.queue.shift()); ) tell();
    this.outputs();
  }

  outputs(): void {
    const { server, now } = this.world;
    for (let output; (output = this.test.outputs.shift()); ) {
      if (output.type === 'dial') {
        this.link = server.connect();
        this.up = [];
        this.core.opened(now, true);
      } else if (output.type === 'drop') {
        if (this.link) server.lost(this.link);
        this.link = undefined;
      } else if (output.type === 'write') this.up.push(output.data);
      else if (output.type === 'store') {
        this.toStore.push(output.item);
        const { id, after, v } = JSON.parse(String(output.item.data)) as { id: string; after?: string; v?: string };
        if (!this.made.some((made) => made.id === id)) this.made.push({ id, after, value: v ?? `gone by ${id}` });
      } else if (output.type === 'forget') this.toForget.push(output);
      else if (output.type === 'emit' && (output.name === 'error' || output.name === 'reject')) throw new Error(JSON.stringify(output.value));
    }
  }

  /** One transaction. */
  commit(): void {
    const { disk } = this;
    const items = this.toStore.splice(0);
    for (const item of items) {
      disk.items.set(item.q, structuredClone(item));
      disk.next = Math.max(disk.next, item.q + 1);
    }
    for (const { q, all } of this.toForget.splice(0)) for (const at of [...disk.items.keys()]) if (all ? at >= 0 && at <= q : at === q) disk.items.delete(at);
    disk.saved = structuredClone(this.core.saved());
    this.core.stored(this.world.now, disk.next - 1);
    this.take();
  }

  end(seen: boolean): void {
    if (!this.link) return;
    if (seen) this.world.server.lost(this.link);
    this.link = undefined;
    this.up = [];
    this.core.lost(this.world.now, 1006, 'cut');
    this.take();
  }
}

class World {
  now = 1e12;
  server = new Server();
  random: () => number;
  values = 0;
  clients: Client[];

  constructor(
    seed: number,
    readonly policy: Policy,
  ) {
    this.random = seeded(seed);
    this.server.open('board');
    this.clients = ['a', 'b', 'c'].map((name) => new Client(name, this));
  }

  step({ do: what, who, key, count }: Step): void {
    const client = this.clients[who]!;
    const { core, document } = client;
    switch (what) {
      case 'set':
        document.set(key, `${client.name}${++this.values}`);
        break;
      case 'delete':
        if (document.get(key) !== undefined) document.delete(key);
        break;
      case 'server':
        this.server.change('board', key, `s${++this.values}`);
        break;
      case 'open':
        this.server.open('board');
        break;
      case 'handle':
        for (let i = 0; i < count; i++) this.server.handle();
        break;
      case 'cut':
        client.end(count > 3);
        break;
      case 'store':
        client.commit();
        break;
      case 'reload':
        client.commit();
        client.end(count > 3);
        client.start();
        break;
      case 'up':
        for (let i = 0; i < count && client.up.length && client.link; i++) this.server.message(client.link, client.up.shift()!);
        break;
      case 'down':
        for (let i = 0; i < count && client.link?.out.length; i++) {
          core.message(this.now, received(client.link.out.shift()!));
          client.take();
        }
        break;
      case 'sleep':
        this.now += count * 300;
        core.timeout(this.now);
    }
    client.take();
  }

  settle(): void {
    for (let round = 0; round < 40; round++) {
      for (const who of [0, 1, 2]) {
        for (const name of ['store', 'sleep', 'up', 'handle', 'down'] as const) this.step({ do: name, who, key: '', count: name === 'sleep' ? 110 : 1000 });
      }
    }
  }
}

const kinds = { set: 9, delete: 2, server: 3, open: 0.3, handle: 9, cut: 2, store: 7, reload: 1, up: 16, down: 18, sleep: 5 };
interface Step {
  do: keyof typeof kinds;
  who: number;
  key: string;
  count: number;
}
const step: fc.Arbitrary<Step> = fc.record({
  do: fc.oneof(...Object.entries(kinds).map(([name, weight]) => ({ weight: Math.ceil(weight * 3), arbitrary: fc.constant(name as Step['do']) }))),
  who: fc.integer({ min: 0, max: 2 }),
  key: fc.constantFrom('x', 'y', '__proto__'),
  count: fc.integer({ min: 1, max: 6 }),
});

function play(seed: number, steps: Step[], policy: Policy): World {
  const world = new World(seed, policy);
  for (const step of steps) world.step(step);
  world.settle();
  const values = world.server.values('board');
  for (const { name, document, core } of world.clients) {
    assert.equal(core.state(), 'connected');
    assert.ok(document.synced, `${name} is synced`);
    assert.equal(document.pending, 0, `${name} has nothing pending`);
    assert.deepEqual(Object.fromEntries(document.keys().sort().map((key) => [key, document.get(key)])), Object.fromEntries(Object.entries(values).sort()), `${name} has the server's state`);
    assert.equal(core.count(), 0);
  }
  return world;
}

for (const policy of ['serverWins', 'clientWins', ({ mine, theirs }: { mine: unknown; theirs: unknown }) => [mine ?? null, theirs ?? null].flat(9) as string[]] as Policy[]) {
  const name = typeof policy === 'string' ? policy : 'merged';
  test(`replicas come to the server's state, whatever is cut when: ${name}`, () => {
    let [applied, conflicts] = [0, 0];
    fc.assert(
      fc.property(fc.integer(), fc.array(step, { minLength: 1, maxLength: 200, size: 'max' }), (seed, steps) => {
        const world = play(seed, steps, policy);
        applied += world.server.applied.length;
        for (const client of world.clients) conflicts += client.conflicts;
        if (policy !== 'serverWins') return;
        const done = world.server.applied.map(String);
        assert.equal(new Set(done).size, done.length, 'nothing was applied twice');
        for (const { made, told, disk } of world.clients) {
          assert.equal(disk.items.size, 0, 'nothing is left in the store');
          const last = told.filter((value) => value !== 'undefined');
          assert.equal(new Set(last).size, last.length, 'each conflict is told once');
          // The end of a chain is told for all of it.
          const within = (edit: Made): boolean => told.includes(edit.value) || made.some((next) => next.after === edit.id && (next.value.startsWith('gone') || within(next)));
          for (const edit of made) {
            const isDone = done.includes(edit.value);
            if (isDone) assert.ok(!told.includes(edit.value), `${edit.value} was applied, and told as a conflict`);
            else if (!edit.value.startsWith('gone')) assert.ok(within(edit), `${edit.value} was neither applied nor told`);
          }
        }
      }),
      { numRuns: Number(process.env.RUNS ?? 300), includeErrorInReport: true },
    );
    // It was no idle schedule.
    assert.ok(applied > 500 && conflicts > 300, `${applied} ${conflicts}`);
  });
}
