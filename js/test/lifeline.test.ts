import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import type { Events } from '../src/core.js';
import type { Lifeline, LifelineOptions } from '../src/lifeline.js';
import { Tab } from './browser.js';
import { Served, until } from './serve.js';

let served: Served;
let clients: Lifeline[];

beforeEach(async () => {
  served = await Served.start();
  clients = [];
});
afterEach(() => {
  for (const client of clients) client.close();
  served.stop();
  assert.deepEqual(served.errors, []);
});

type Module = typeof import('../src/index.js');
let loads = 0;
/** What is built, as each page loads it anew. */
function load(): Promise<Module> {
  return import(new URL(`../../dist/lifeline.js?${++loads}`, import.meta.url).href) as Promise<Module>;
}

/** What is kept for this server's clients: items, and the sessions of tabs. */
async function kept(): Promise<{ items: { tab: string; data: string }[]; tabs: { id: string; scope: string; saved?: { s: number; ch: object } }[] }> {
  const open = indexedDB.open('lifeline', 1);
  const done = (request: IDBRequest): Promise<unknown> => new Promise((resolve) => (request.onsuccess = (): void => resolve(request.result)));
  const db = (await done(open)) as IDBDatabase;
  const tx = db.transaction(['tabs', 'items']);
  const tabs = ((await done(tx.objectStore('tabs').getAll())) as { id: string; scope: string }[]).filter(({ scope }) => scope.includes(new URL(served.url).host));
  const items = ((await done(tx.objectStore('items').getAll())) as { tab: string; data: string }[]).filter(({ tab }) => tabs.some(({ id }) => id === tab));
  db.close();
  return { items, tabs };
}

class Page {
  client: Lifeline;
  log: string[] = [];
  errors: Error[] = [];

  private constructor(
    readonly module: Module,
    readonly tab: Tab,
    options: LifelineOptions,
  ) {
    tab.enter();
    this.client = new module.Lifeline(served.url, { ...tab.options, reconnect: { first: 5, base: 10 }, ...options });
    clients.push(this.client);
    this.client.on('message', ({ data, channel }) => this.log.push(`${channel ? `${channel}: ` : ''}${typeof data === 'string' ? data : `[${new Uint8Array(data).join()}]`}`));
    this.client.on('gap', ({ channel, why }) => this.log.push(`gap ${channel} ${why}`));
    this.client.on('open', ({ resumed, why }) => this.log.push(`open${resumed ? ' resumed' : ''}${why ? ` ${why}` : ''}`));
    this.client.on('resume', ({ replayed }) => this.log.push(`resume ${replayed}`));
    this.client.on('close', ({ code, final }) => this.log.push(`close ${code}${final ? ' final' : ''}`));
    this.client.on('subscription', ({ channel, status }) => this.log.push(`${channel} ${status}`));
    this.client.on('reject', ({ sequence, data }) => this.log.push(`reject ${sequence} ${String(data)}`));
    this.client.on('overflow', ({ sequence, data, why }) => this.log.push(`overflow ${sequence} ${String(data)} ${why}`));
    this.client.on('error', (error) => this.errors.push(error));
  }

  static async load(tab = new Tab(), options: LifelineOptions = {}, module?: Module): Promise<Page> {
    return new Page(module ?? (await load()), tab, options);
  }

  static async open(...parameters: Parameters<typeof Page.load>): Promise<Page> {
    return (await Page.load(...parameters)).open();
  }

  async open(): Promise<this> {
    await until(() => this.client.state === 'connected', 'connected');
    return this;
  }

  /** The page is loaded again. */
  async reload(meanwhile: () => void): Promise<Page> {
    this.tab.crash();
    meanwhile();
    return Page.open(new Tab(this.tab));
  }
}

test('send, flush, messages both ways, text and binary', async () => {
  const page = await Page.open();
  assert.equal(page.client.send('a'), 1);
  assert.equal(page.client.send(new Uint8Array([1, 2, 3]).subarray(1)), 2);
  assert.equal(page.client.send(new Uint8Array([4]).buffer), 3);
  assert.throws(() => page.client.send(5 as unknown as string), TypeError);
  assert.equal(await page.client.flush(), true);
  assert.deepEqual(served.handled, ['a', '[2,3]', '[4]']);
  served.broadcast('b');
  served.server.broadcast(new Uint8Array([9]));
  served.pump();
  await until(() => page.log.includes('[9]'));
  assert.deepEqual(page.log, ['open', 'b', '[9]']);
  const { unacknowledged, durable, lifeline, state } = page.client.stats;
  assert.deepEqual({ unacknowledged, durable, lifeline, state }, { unacknowledged: 0, durable: true, lifeline: true, state: 'connected' });
});

test('listeners: off, the function that on returns, and one that throws', async () => {
  const page = await Page.load();
  const seen: string[] = [];
  const listener = ({ to }: Events['state']): void => void seen.push(to);
  page.client.on('state', listener);
  const second = page.client.on('state', ({ to }) => seen.push(`2 ${to}`));
  await page.open();
  page.client.off('state', listener);
  second();
  page.client.reconnect();
  await until(() => page.client.state === 'connected' && page.log.length > 2);
  assert.deepEqual(seen, ['connecting', '2 connecting', 'connected', '2 connected']);
});

test('what is sent before there is a connection goes first', async () => {
  const page = await Page.load(new Tab(), { connect: false });
  for (const text of 'abc') page.client.send(text);
  assert.equal(page.client.state, 'disconnected');
  page.client.connect();
  page.client.send('d');
  assert.equal(await page.client.flush(5000), true);
  assert.deepEqual(served.handled, ['a', 'b', 'c', 'd']);
});

test('cuts lose nothing and double nothing', async () => {
  const page = await Page.open();
  page.client.subscribe('news');
  await until(() => page.log.includes('news ok'));
  const expected: string[] = [];
  for (let i = 0; i < 300; i++) {
    page.client.send(`item ${i}`);
    served.broadcast(`push ${i}`);
    served.server.publish('news', `news ${i}`);
    served.pump();
    expected.push(`item ${i}`);
    if (i % 50 === 25) served.cut();
    if (i % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await page.client.flush(10_000);
  await until(() => page.log.includes('push 299') && page.log.includes('news: news 299'));
  assert.deepEqual(served.handled, expected);
  for (const kind of ['push ', 'news: news ']) {
    assert.deepEqual(page.log.filter((line) => line.startsWith(kind)), expected.map((_, i) => `${kind}${i}`));
  }
  assert.equal(page.client.stats.gaps, 0);
  assert.ok(page.client.stats.resumed >= 3, JSON.stringify(page.client.stats));
});

test('a reload goes on with the session, the channels and what was not sent', async () => {
  const first = await Page.open();
  first.client.subscribe('news');
  served.broadcast('one');
  await until(() => first.log.includes('one') && first.log.includes('news ok'));
  served.handling = false;
  first.client.send('left 1');
  first.client.send('left 2', { ttl: 60_000 });
  await until(async () => {
    const { items, tabs } = await kept();
    return items.length === 2 && tabs[0]?.saved?.s === 1 && 'news' in tabs[0].saved.ch;
  }, 'all is kept');
  const second = await first.reload(() => {
    served.broadcast('two');
    served.server.publish('news', 'three');
  });
  assert.equal(second.client.send('new'), 1);
  await until(() => second.log.some((line) => line.startsWith('resume'))).catch((error: unknown) => assert.fail(`${String(error)} ${second.log.join()}`));
  assert.deepEqual(second.log.slice().sort(), ['news ok', 'news: three', 'open resumed', 'resume 2', 'two']);
  served.handling = true;
  served.pump();
  assert.equal(await second.client.flush(5000), true, JSON.stringify([second.client.stats, second.log, served.handled, served.errors.map(String)]));
  assert.deepEqual(served.handled, ['left 1', 'left 2', 'new']);
  assert.equal(served.server.outboxes.size, 1);
});

test('a duplicated tab has its own session and outbox', async () => {
  const first = await Page.open();
  first.client.send('a');
  await first.client.flush();
  const second = await Page.open(new Tab(first.tab));
  second.client.send('b');
  await second.client.flush();
  first.client.send('c');
  await first.client.flush();
  assert.deepEqual([first.log, second.log], [['open'], ['open']]);
  assert.equal(served.server.sessions.size, 2);
  assert.deepEqual(new Set(served.server.handled.map(({ outbox }) => outbox)).size, 2);
  assert.deepEqual(served.handled, ['a', 'b', 'c']);
});

test('two clients of one page have an outbox each, also after a reload', async () => {
  const first = await Page.open();
  const second = await Page.open(first.tab, {}, first.module);
  first.client.send('a');
  second.client.send('b');
  await first.client.flush();
  await second.client.flush();
  assert.equal(served.server.outboxes.size, 2);
});

test('close() lets go: the next client of the tab sends what was left, in a new session', async () => {
  served.handling = false;
  const first = await Page.open();
  first.client.send('left');
  await until(() => served.server.queue.length);
  first.client.close();
  assert.equal(await first.client.flush(1000), false);
  served.handling = true;
  const second = await Page.open(first.tab);
  assert.equal(await second.client.flush(5000), true);
  assert.deepEqual(served.handled, ['left']);
  assert.deepEqual(second.log, ['open']);
  assert.throws(() => first.client.send('x'), /closed/);
});

test('what one user has left is not sent for another', async () => {
  served.handling = false;
  const first = await Page.open(new Tab(), { name: 'alice' });
  first.client.send('of alice');
  await until(() => served.server.queue.length);
  first.client.close();
  served.handling = true;
  const second = await Page.open(first.tab, { name: 'bob' });
  second.client.send('of bob');
  await second.client.flush();
  assert.deepEqual(served.handled, ['of bob']);
  const third = await Page.open(first.tab, { name: 'alice' });
  await third.client.flush();
  assert.deepEqual(served.handled, ['of bob', 'of alice']);
});

test('a tab that is gone: another one sends what it had left, under its own id', async () => {
  served.handling = false;
  const first = await Page.open();
  first.client.send('orphan 1');
  first.client.send('orphan 2');
  await until(() => served.server.queue.length === 2);
  const outbox = served.server.queue[0]!.outbox;
  const second = await Page.open();
  await until(async () => (await kept()).items.length === 2, 'both are kept');
  first.client.send('orphan 3');
  await until(async () => (await kept()).items.length === 3, 'all are kept');
  first.tab.crash();
  served.handling = true;
  assert.ok(second.client.stats.durable);
  // It looks every 10 s for those that were silent for 10 s: the first look comes too early for the last message.
  await until(() => served.handled.length === 3, 'the orphans were sent', 40_000);
  assert.deepEqual(served.server.handled.map(({ outbox, q, data }) => [outbox, q, data]), [[outbox, 1, 'orphan 1'], [outbox, 2, 'orphan 2'], [outbox, 3, 'orphan 3']]);
  await until(() => served.sockets.size === 1, 'the connection for it is gone');
  assert.equal(second.client.state, 'connected');
});

test('what is sent while something else is being written leaves as soon as that is done', async () => {
  const page = await Page.open();
  await page.client.flush();
  const put = IDBObjectStore.prototype.put;
  let during = 0;
  IDBObjectStore.prototype.put = function (this: IDBObjectStore, ...parameters: Parameters<typeof put>) {
    if (!during++) queueMicrotask(() => page.client.send('meanwhile'));
    return put.apply(this, parameters);
  };
  served.broadcast('handled, so it is saved');
  await until(() => during);
  assert.equal(await page.client.flush(2000), true);
  IDBObjectStore.prototype.put = put;
  assert.deepEqual(served.handled, ['meanwhile']);
});

test('memory only: nothing is kept, and what close() leaves is told', async () => {
  served.handling = false;
  const first = await Page.open(new Tab(), { storage: 'memory' });
  first.client.send('lost');
  assert.equal(first.client.stats.durable, false);
  await until(() => served.server.queue.length === 1);
  first.client.close(4100, 'bye');
  assert.deepEqual(first.log, ['open', 'overflow 1 lost closed', 'close 4100 final']);
});

test('a store that fails: told, and everything goes on without it', async () => {
  const real = IDBFactory.prototype.open;
  IDBFactory.prototype.open = () => {
    throw new Error('disk on fire');
  };
  try {
    const page = await Page.open();
    page.client.send('a');
    assert.equal(await page.client.flush(1000), true);
    assert.match(String(page.errors), /not kept: Error: disk on fire/);
    assert.equal(page.client.stats.durable, false);
  } finally {
    IDBFactory.prototype.open = real;
  }
  const page = await Page.open();
  const put = IDBObjectStore.prototype.put;
  IDBObjectStore.prototype.put = () => { throw new DOMException('full', 'QuotaExceededError'); };
  try {
    page.client.send('b');
    assert.equal(await page.client.flush(1000), true);
    assert.match(String(page.errors), /not kept: QuotaExceededError: full/);
  } finally {
    IDBObjectStore.prototype.put = put;
  }
  assert.deepEqual(served.handled, ['a', 'b']);
});

test('credentials: asked once, again when they have expired, sent in band by refresh()', async () => {
  let asked = 0;
  served.server.refuse = (auth) => (auth === 'old' ? 4003 : undefined);
  let answer = (): string => 'good 0';
  const page = await Page.open(new Tab(), { token: () => (asked++, answer()) });
  served.cut();
  await until(() => page.log.includes('open resumed'));
  assert.equal(asked, 1);
  answer = () => `good ${asked}`;
  for (const [socket, link] of served.sockets) {
    served.server.close(link, 4003);
    socket.close(4003);
  }
  await until(() => served.server.auths.length === 3);
  assert.deepEqual(served.server.auths, ['good 0', 'good 0', 'good 2']);
  await page.open();
  await page.client.refresh();
  assert.equal(asked, 3);
});

test('credentials that cannot be had are an error, and asked for again', async () => {
  let asked = 0;
  const page = await Page.load(new Tab(), {
    token: () => {
      if (asked++ < 2) throw new Error('login is down');
      return Promise.resolve('t');
    },
  });
  await page.open();
  assert.equal(asked, 3);
  assert.equal(page.errors.length, 2);
  assert.match(String(page.errors[0]), /no token: Error: login is down/);
});

test('refused for good: it stays away and says why', async () => {
  served.server.refuse = () => 4500;
  const page = await Page.load(new Tab(), { token: () => 'bad' });
  await until(() => page.client.state === 'closed');
  assert.deepEqual(page.log, ['close 4500 final']);
  assert.equal(page.errors.length, 1);
  assert.equal(served.server.hellos, 1);
});

test('taken over by another connection: it does not come back', async () => {
  const page = await Page.open();
  for (const [socket, link] of served.sockets) {
    served.server.close(link, 4502);
    socket.close(4502);
  }
  await until(() => page.client.state === 'closed');
  assert.deepEqual(page.log, ['open', 'close 4502 final']);
});

test('the server restarts and remembers nothing: gaps are told, items arrive', async () => {
  const page = await Page.open();
  page.client.subscribe('news');
  await until(() => page.log.includes('news ok'));
  served.server.restart();
  served.cut();
  page.client.send('after');
  assert.equal(await page.client.flush(5000), true);
  await until(() => page.log.includes('gap news epoch'));
  assert.deepEqual(page.log, ['open', 'news ok', 'close 1006', 'gap null restart', 'open restart', 'news gap', 'gap news epoch']);
  assert.deepEqual(served.handled, ['after']);
});

test('addresses', async () => {
  const { Lifeline } = await load();
  assert.throws(() => new Lifeline('not an address'), TypeError);
  const client = new Lifeline('https://example.org/a#b', { connect: false, storage: 'memory' });
  assert.equal(client.url, 'wss://example.org/a');
});
