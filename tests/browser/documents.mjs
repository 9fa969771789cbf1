// One document that three pages, a PHP client and the server edit, also offline. SEEDS (default: 5) are what the schedule
// is drawn from, e.g. SEEDS=1,2,3 tests/browser/run documents
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { Link, Php } from './peers.mjs';
import { until } from './served.mjs';

const { WebSocket } = createRequire(new URL('../../js/package.json', import.meta.url))('ws');

/** Numbers from 0 up to 1, the same for the same seed. */
function mulberry32(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Runs in the page: a client of the document. What it is told and does is in `log`, also after a reload. */
async function begin({ name, url, policy }) {
  const { Lifeline } = await import('/lifeline-full.js');
  window.log = JSON.parse(sessionStorage.getItem('log') ?? '[]');
  window.note = (what, key, more) => {
    window.log.push({ what, key, ...more });
    sessionStorage.setItem('log', JSON.stringify(window.log));
  };
  const merge = ({ key, mine, theirs }) => {
    const value = { n: `${name} ${crypto.randomUUID()}`, of: [mine?.n ?? null, theirs?.n ?? null] };
    window.note('edit', key, { n: value.n });
    return value;
  };
  window.client = new Lifeline(url, { reconnect: { first: 0, floor: 10, base: 20, max: 50 } });
  const board = (window.board = window.client.document('board', { conflict: policy === 'merge' ? merge : policy }));
  window.shown = {};
  board.on('conflict', ({ key, mine, theirs, attempt, resolution }) => window.note('conflict', key, { n: mine?.n ?? 'delete', theirs: theirs?.n ?? null, attempt, resolution }));
  board.on('refused', ({ key, reason }) => window.note('refused', key, { reason }));
  board.on('change', ({ key, value }) => {
    if (value === undefined) delete window.shown[key];
    else window.shown[key] = value;
  });
}

/** What pages and the PHP client have in common: a link of their own, and a log. */
class Editor {
  /** How many lines of the log are of the past. */
  past = 0;

  async offline() {
    this.link.down = true;
    this.link.cut();
  }
  async online() {
    this.link.down = false;
  }
  async log() {
    return (await this.lines()).slice(this.past);
  }
  async close() {
    this.link?.close();
  }
}

class Page extends Editor {
  static async open(name, browser, origin, address, policy) {
    const page = Object.assign(new Page(), { name, policy, origin });
    page.context = await browser.newContext();
    try {
      page.link = await Link.start(address);
      page.page = await page.context.newPage();
      await page.page.goto(origin);
      await page.begin();
    } catch (error) {
      await page.close();
      throw error;
    }
    return page;
  }
  begin() {
    return this.page.evaluate(begin, { name: this.name, url: this.link.url, policy: this.policy });
  }
  /** Also as far as the browser knows. */
  async offlineAltogether() {
    await this.offline();
    await this.context.setOffline(true);
  }
  async online() {
    await super.online();
    await this.context.setOffline(false);
  }
  /** Once the browser keeps what it has made. */
  async reload() {
    const kept = () =>
      new Promise((resolve) => {
        const open = indexedDB.open('lifeline', 1);
        open.onsuccess = () => {
          const keys = open.result.transaction('items').objectStore('items').getAllKeys();
          keys.onsuccess = () => {
            open.result.close();
            resolve(keys.result.filter(([, number]) => number > 0).length === window.client.stats.unacknowledged);
          };
        };
      });
    await until(() => this.page.evaluate(kept), 'all is kept');
    await this.page.reload();
    await this.begin();
  }
  edit(key, n) {
    return this.page.evaluate(
      ([key, n]) => {
        window.note('edit', key, { n });
        if (n === 'delete') window.board.delete(key);
        else window.board.set(key, { n });
      },
      [key, n],
    );
  }
  lines() {
    return this.page.evaluate('log');
  }
  state() {
    return this.page.evaluate(() => {
      const { board, client, shown } = window;
      const state = Object.fromEntries(board.keys().map((key) => [key, board.get(key)]));
      return { state, shown, version: board.version(), pending: board.pending + client.stats.unacknowledged, connected: board.synced };
    });
  }
  async close() {
    await super.close();
    await this.context.close();
  }
}

class Client extends Editor {
  static async open(name, address, policy) {
    const client = Object.assign(new Client(), { name, policy });
    client.link = await Link.start(address);
    try {
      client.php = await Php.start('documents-client.php', client.link.url, policy);
    } catch (error) {
      await client.close();
      throw error;
    }
    return client;
  }
  async edit(key, n) {
    if (n === 'delete') this.php.do('delete', { key });
    else this.php.do('set', { key, value: { n } });
  }
  async lines() {
    await this.state();
    assert.deepEqual(this.php.of('error'), []);
    return this.php.of('log');
  }
  state() {
    return this.php.ask('state');
  }
  async close() {
    await super.close();
    await this.php?.kill();
  }
}

/** The server, and a connection without the subprotocol that hears of each change. */
class Board {
  static async start(file, listen = 'ws://127.0.0.1:0') {
    const board = new Board();
    board.php = await Php.start('documents-server.php', listen, file);
    try {
      await board.watch();
    } catch (error) {
      await board.close();
      throw error;
    }
    return board;
  }
  async watch() {
    const told = (this.told = []);
    this.socket = new WebSocket(this.php.address);
    this.socket.on('error', () => undefined);
    this.socket.on('message', (data) => told.push(JSON.parse(data)));
    await until(() => told.length, 'it is there to see');
    told.length = 0;
    // Those that a file has are older.
    this.first = (await this.php.ask('state')).version;
  }
  async edit(key, n) {
    this.php.do('set', { key, value: { n } });
  }
  state() {
    return this.php.ask('state');
  }
  async close() {
    this.socket?.terminate();
    await this.php.kill();
  }
}

/** All have the server's state, and nothing waits. */
async function agree(board, editors) {
  const agreed = async () => {
    const { state, version } = await board.state();
    for (const { name, ...editor } of await Promise.all(editors.map(async (editor) => ({ name: editor.name, ...(await editor.state()) })))) {
      const same = isDeepStrictEqual(editor.state, state) && isDeepStrictEqual(editor.shown ?? state, state);
      if (!same || !editor.connected || editor.pending || editor.version !== version) return { name, editor, version, state };
    }
    return undefined;
  };
  let other;
  await until(async () => !(other = await agreed()), 'all agree', 15_000).catch(({ message }) => {
    throw new Error(`${message}: ${JSON.stringify(other)}`);
  });
}

let ends = 0;
/** They agree, and everything was told: what comes behind it was. */
async function settle(board, editors) {
  const told = async () => (await Promise.all(editors.map((editor) => editor.log()))).map((lines) => lines.filter(({ what }) => what !== 'change').length);
  for (;;) {
    await agree(board, editors);
    const before = await told();
    await board.edit('end', `end ${++ends}`);
    await agree(board, editors);
    if (isDeepStrictEqual(await told(), before)) return;
  }
}

/**
 * Each edit was made at the server, once, or is part of exactly one conflict that was told. Returns the number of
 * conflicts by editor. Edits are known by what they set, deletions by their key, which only one editor deletes, once.
 */
async function audit(board, editors, fromServer) {
  const { state, version } = await board.state();
  const made = new Map();
  const replayed = {};
  for (const [index, { n, k, v }] of board.told.entries()) {
    assert.equal(n, board.first + index + 1, 'changes are told one by one');
    const edit = `${k}: ${v?.n ?? 'delete'}`;
    assert.ok(!made.has(edit), `${edit} was made twice`);
    made.set(edit, undefined);
    if (v === undefined) delete replayed[k];
    else replayed[k] = v;
  }
  assert.equal(board.first + board.told.length, version);
  assert.deepEqual(Object.fromEntries(Object.keys(replayed).map((key) => [key, state[key]])), replayed);

  const conflicts = {};
  for (const editor of editors) {
    const { name, policy } = editor;
    const log = await editor.log();
    const of = (what, key) => log.filter((line) => line.what === what && line.key === key);
    assert.deepEqual(log.filter(({ what }) => what === 'refused'), [], name);
    conflicts[name] = log.filter(({ what }) => what === 'conflict').length;
    for (const key of new Set(log.map(({ key }) => key))) {
      const edits = of('edit', key).map(({ n }) => n);
      const isMade = (n) => made.has(`${key}: ${n}`);
      const say = (what) => `${name}, ${key}: ${what}: ${JSON.stringify({ edits: edits.map((n) => [n, isMade(n)]), conflicts: of('conflict', key), made: board.told.filter(({ k }) => k === key).map(({ n, v }) => [n, v?.n ?? 'delete']) })}`;
      for (const n of edits) if (isMade(n)) made.set(`${key}: ${n}`, name);
      let [begin, last] = [0, undefined];
      for (const conflict of of('conflict', key)) {
        const { n, theirs, resolution } = conflict;
        const at = edits.indexOf(n);
        assert.ok(at >= 0, say(`${n} was not its own`));
        assert.ok(!edits.includes(theirs ?? 'delete'), say(`${theirs} was its own`));
        assert.ok(resolution === 'server' || resolution === { serverWins: 'server', clientWins: 'client' }[policy] || (policy === 'merge' && ['asked', 'merged'].includes(resolution)), say(resolution));
        if (at === begin - 1) {
          // It was made again, and met somebody else's.
          assert.ok(last.resolution === 'client' && last.theirs !== theirs, say(`${n} was told twice`));
        } else {
          assert.ok(at >= begin, say(`${n} was told before`));
          // What was made goes before what was not: these stood on each other.
          const part = edits.slice(begin, at).map(isMade);
          assert.deepEqual(part, [...part].sort((a, b) => b - a), say('some were not made, and those behind them were'));
          begin = at + 1;
        }
        if (resolution !== 'client') assert.ok(!isMade(n), say(`${n} was made, and told to be not`));
        last = conflict;
      }
      // Of what holds after all, nobody else hears.
      const rest = edits.slice(last?.resolution === 'client' ? begin - 1 : begin);
      assert.ok(rest.every(isMade), say('some are neither made nor told'));
    }
  }
  for (const [edit, by] of made) if (!by) assert.ok(fromServer.has(edit) || edit.startsWith('end: '), `nobody made ${edit}`);
  return conflicts;
}

async function scene(browser, origin, policies, work) {
  const directory = mkdtempSync(join(tmpdir(), 'lifeline-'));
  const file = join(directory, 'board.json');
  const open = [];
  try {
    const start = async (listen) => {
      const board = await Board.start(file, listen);
      open.push(board);
      return board;
    };
    const board = await start();
    const editors = [];
    for (const [index, policy] of policies.entries()) {
      const editor = index < 3 ? await Page.open(`page ${index}`, browser, origin, board.php.address, policy) : await Client.open('php', board.php.address, policy);
      open.push(editor);
      editors.push(editor);
    }
    await agree(board, editors);
    await work(board, editors, start);
    for (const { php } of open) assert.deepEqual(php?.of('error') ?? [], []);
  } finally {
    for (const each of open.reverse()) await each.close();
    rmSync(directory, { recursive: true });
  }
}

const POLICIES = ['serverWins', 'clientWins', 'merge'];

async function run(browser, origin, seed) {
  const random = mulberry32(seed);
  const below = (n) => Math.floor(random() * n);
  const shuffled = (list) => list.map((item) => [random(), item]).sort(([a], [b]) => a - b).map(([, item]) => item);
  let number = 0;
  await scene(browser, origin, [...POLICIES, POLICIES[below(3)]], async (board, editors) => {
    const fromServer = new Set();
    const byServer = async (key) => {
      fromServer.add(`${key}: s${++number}`);
      await board.edit(key, `s${number}`);
    };
    const deleted = new Set();
    const edit = async () => {
      const [who, key] = [below(9), below(8)];
      const editor = editors[who % 4];
      if (who === 8) return byServer(`k${key}`);
      if (key % 4 === who % 4 && !deleted.has(key) && below(2)) {
        deleted.add(key);
        return editor.edit(`k${key}`, 'delete');
      }
      return editor.edit(`k${key}`, `${editor.name} ${++number}`);
    };
    const some = async (most) => {
      for (let i = below(most + 1); i > 0; i--) await edit();
    };
    const reloads = below(3);
    for (let round = 0; round < 8; round++) {
      // This one loses for certain: the server changes a key behind its back.
      const loser = editors[round % 4];
      const away = shuffled(editors.filter((editor) => editor === loser || !below(3)));
      await some(4);
      for (const editor of away) {
        if (round !== reloads && editor.offlineAltogether && below(2)) await editor.offlineAltogether();
        else await editor.offline();
        await some(2);
      }
      const key = `k${below(8)}`;
      await byServer(key);
      await loser.edit(key, `${loser.name} ${++number}`);
      await some(12);
      // Edits made offline outlive the page that made them. The state does not: what is edited before it is there again is
      // in conflict with all that exists.
      if (round === reloads) {
        const mine = async () => (await loser.state()).state[key];
        const made = await mine();
        await loser.reload();
        await until(async () => isDeepStrictEqual(await mine(), made), 'it shows what it has made');
        await loser.online();
        await until(async () => (await loser.state()).connected, 'it has the state');
      }
      for (const editor of shuffled(away)) {
        await editor.online();
        await some(3);
      }
      if (below(2)) await agree(board, editors);
    }
    await settle(board, editors);
    const conflicts = await audit(board, editors, fromServer);
    console.log(`      seed ${seed}: ${number + deleted.size} edits, conflicts: ${JSON.stringify(conflicts)}`);
    for (const [name, count] of Object.entries(conflicts)) assert.ok(count >= 2, `${name} has lost at least twice, and was told of ${count}`);
  });
}

export const tests = {
  async 'documents: three pages, a PHP client and the server edit one, offline, too; all agree, and who lost is told once'({ browser, origin }) {
    for (const seed of (process.env.SEEDS ?? '5').split(/[\s,]+/).map(Number)) {
      await run(browser, origin, seed).catch((error) => {
        error.stack = `seed ${seed}: ${error.stack}`;
        throw error;
      });
    }
  },

  // Its document is another one then, with what the application has kept of it.
  'documents: the server is killed; edits that were not made by then are made or told': ({ browser, origin }) =>
    scene(browser, origin, [...POLICIES, 'merge'], async (before, editors, start) => {
      for (const editor of editors) await editor.edit(`of ${editor.name}`, `first of ${editor.name}`);
      for (const key of ['shared', 'quiet']) await before.edit(key, `first ${key}`);
      await agree(before, editors);
      const edit = async (editor) => {
        editor.past = (await editor.lines()).length;
        for (const key of [`of ${editor.name}`, 'shared', `new of ${editor.name}`]) await editor.edit(key, `${key} by ${editor.name}`);
      };
      // Half of them are offline before, and the others lose it.
      for (const editor of [editors[0], editors[3]]) await editor.offline();
      for (const editor of [editors[0], editors[3]]) await edit(editor);
      await before.close();
      for (const editor of [editors[1], editors[2]]) {
        await editor.offline();
        await edit(editor);
      }
      const board = await start(before.php.address);
      for (const editor of editors) await editor.online();
      await settle(board, editors);

      await audit(board, editors, new Set());
      const { state } = await board.state();
      assert.deepEqual(state.quiet, { n: 'first quiet' });
      for (const editor of editors) {
        const { name, policy } = editor;
        const [first, mine] = [`first of ${name}`, `of ${name} by ${name}`];
        const log = await editor.log();
        const told = (key) => log.filter((line) => line.what === 'conflict' && line.key === key).map(({ n, theirs }) => [n, theirs]);
        assert.deepEqual(told(`of ${name}`), [[mine, first]], name);
        const { n, of } = state[`of ${name}`];
        if (policy === 'merge') assert.deepEqual(of, [mine, first]);
        else assert.equal(n, policy === 'clientWins' ? mine : first);
        assert.ok(told('shared').length >= 1, name);
        assert.deepEqual([told(`new of ${name}`), state[`new of ${name}`]], [[], { n: `new of ${name} by ${name}` }]);
      }
    }),
};
