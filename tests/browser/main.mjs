// The built client in headless Chromium against WsServer: one browser context a test, a page each for a tab.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import assert from 'node:assert/strict';
import { tests as ofAdmin } from './admin.mjs';
import { tests as ofDocuments } from './documents.mjs';
import { tests as ofPage } from './page.mjs';
import { Link, Php } from './peers.mjs';
import { browse, sleep, until } from './served.mjs';

const root = new URL('../../', import.meta.url);

// A page is served by a name that counts as secure, for Web Locks.
const scripts = new Map(['/lifeline.js', '/lifeline-full.js'].map((path) => [path, readFileSync(new URL(`js/dist${path}`, root))]));
const web = createServer((request, response) => {
  const script = scripts.get(request.url);
  response.setHeader('content-type', script ? 'text/javascript' : 'text/html');
  response.end(script ?? '<!doctype html><title>lifeline</title>');
});
await new Promise((resolve) => web.listen(0, '127.0.0.1', resolve));
const origin = `http://127.0.0.1:${web.address().port}/`;

/** Runs in the page: a client whose events are kept in `log`. */
async function begin({ url, options }) {
  const { Lifeline } = await import('/lifeline.js');
  window.log = [];
  window.asked = 0;
  const tokens = options.tokens;
  const client = (window.client = new Lifeline(url, { ...options, ...(tokens && { token: () => tokens[Math.min(window.asked++, tokens.length - 1)] }) }));
  const on = (name, what) => client.on(name, (event) => window.log.push(what(event)));
  on('open', ({ resumed, why }) => `open${resumed ? ' resumed' : ''}${why ? ` ${why}` : ''}`);
  on('close', ({ code, final }) => `close ${code}${final ? ' final' : ''}`);
  on('message', ({ data, channel }) => (channel ? `${channel}: ${data}` : data));
  on('gap', ({ channel, why }) => `gap ${channel} ${why}`);
  on('subscription', ({ channel, status }) => `${channel} ${status}`);
  on('overflow', ({ data, why }) => `overflow ${data} ${why}`);
  on('error', ({ message }) => `error ${message}`);
}

class Tab {
  static async open(context, url, options = {}) {
    const tab = new Tab();
    tab.page = await context.newPage();
    Object.assign(tab, { url, options });
    await tab.load();
    return tab;
  }

  async load() {
    await this.page.goto(origin);
    await this.begin();
  }

  async begin() {
    await this.page.evaluate(begin, { url: this.url, options: this.options });
  }

  async reload() {
    await this.page.reload();
    await this.begin();
  }

  log() {
    return this.page.evaluate('log');
  }
  stats() {
    return this.page.evaluate('client.stats');
  }
  send(...texts) {
    return this.page.evaluate((texts) => texts.map((text) => window.client.send(text)), texts);
  }
  flush(ms = 15_000) {
    return this.page.evaluate((ms) => window.client.flush(ms), ms);
  }
  async has(line, ms) {
    await until(async () => (await this.log()).includes(line), `${line}, in ${this.page.url()}`, ms).catch(async (error) => {
      throw new Error(`${error.message}: ${await this.log()}`);
    });
  }
}

/** How many items the browser keeps. */
const kept = (tab) =>
  tab.page.evaluate(
    () =>
      new Promise((resolve) => {
        const open = indexedDB.open('lifeline', 1);
        open.onsuccess = () => {
          const count = open.result.transaction('items').objectStore('items').count();
          count.onsuccess = () => {
            open.result.close();
            resolve(count.result);
          };
        };
      }),
  );

const tests = {
  async 'reload: the session goes on, and what was not sent is sent'({ server, link, context }) {
    const tab = await Tab.open(context, link.url);
    await tab.has('open');
    await tab.page.evaluate("client.subscribe('news')");
    await tab.has('news ok');
    const [{ session }] = server.of('open');
    server.do('send', { session, data: 'one' });
    await tab.has('one');
    // Nothing comes through; the page is left with two messages.
    link.frozen = true;
    await tab.send('left 1', 'left 2');
    await until(async () => (await kept(tab)) === 2, 'both are kept');
    await until(() => link.lost.up.length >= 2 * 'left 1'.length, 'they were sent in vain');
    server.do('send', { session, data: 'two' });
    server.do('publish', { channel: 'news', data: 'three' });
    await until(() => ['two', 'three'].every((text) => link.lost.down.includes(text)), 'and so were these');
    // The page that goes is not to come back before.
    link.down = true;
    link.cut();
    link.frozen = false;
    await tab.page.reload();
    link.down = false;
    await tab.begin();
    await tab.send('new');
    assert.equal(await tab.flush(), true);
    await tab.has('news: three');
    await tab.has('two');
    assert.deepEqual(server.messages, ['left 1', 'left 2', 'new']);
    const log = await tab.log();
    assert.ok(log.includes('open resumed') && !log.includes('one') && !log.some((line) => line.startsWith('gap')), log.join());
    assert.equal(new Set(server.of('open').map(({ session }) => session)).size, 1);
  },

  async 'two tabs and a duplicated one: a session and an outbox each'({ server, link, context }) {
    const first = await Tab.open(context, link.url);
    await first.has('open');
    const second = await Tab.open(context, link.url);
    await second.has('open');
    // As a browser duplicates a tab: with its sessionStorage.
    const storage = await first.page.evaluate(() => ({ ...sessionStorage }));
    const third = new Tab();
    third.page = await context.newPage();
    Object.assign(third, { url: link.url, options: {} });
    await third.page.goto(origin);
    await third.page.evaluate((storage) => Object.assign(sessionStorage, storage), storage);
    await third.begin();
    await third.has('open');
    for (const [index, tab] of [first, second, third].entries()) {
      await tab.send(`of ${index}`);
      assert.equal(await tab.flush(), true);
    }
    assert.equal(new Set(server.of('open').map(({ session }) => session)).size, 3);
    assert.equal(new Set(server.of('message').map(({ id }) => id.split(':')[0])).size, 3);
    assert.deepEqual(await first.log(), ['open'], 'nobody was taken over');
    // Only the last one has the storage to itself after the first is gone.
    await third.reload();
    await third.has('open resumed');
  },

  async 'a tab that is gone: another one sends what it has left'({ server, link, context }) {
    const first = await Tab.open(context, link.url);
    const second = await Tab.open(context, link.url);
    await first.has('open');
    await second.has('open');
    link.frozen = true;
    await first.send('orphan 1', 'orphan 2');
    await until(async () => (await kept(first)) === 2, 'both are kept');
    await first.page.close();
    link.cut();
    link.frozen = false;
    await until(() => server.messages.length === 2, 'the orphans arrive', 35_000);
    assert.deepEqual(server.messages, ['orphan 1', 'orphan 2']);
    await until(async () => (await kept(second)) === 0, 'they are no longer kept');
  },

  async 'offline and online: found out by a question, and back at once'({ server, link, context }) {
    const tab = await Tab.open(context, link.url);
    await tab.has('open');
    // The link carries nothing, as after a change of networks: the socket stays open.
    link.frozen = true;
    await tab.page.evaluate("dispatchEvent(new Event('offline'))");
    await tab.send('while offline');
    await tab.has('close 4001', 8000);
    link.cut();
    link.frozen = false;
    await tab.page.evaluate("dispatchEvent(new Event('online'))");
    assert.equal(await tab.flush(5000), true);
    await tab.has('open resumed');
    assert.deepEqual(server.messages, ['while offline']);
  },

  async 'a page that wakes up asks whether the connection is alive'({ link, context }) {
    const tab = await Tab.open(context, link.url);
    await tab.has('open');
    for (const [target, name] of [['document', 'resume'], ['document', 'visibilitychange'], ['window', 'pageshow'], ['window', 'online']]) {
      link.carried = 0;
      // Again, as long as the answer before is on its way: it asks one question at a time.
      const asked = async () => {
        if (!link.carried) await tab.page.evaluate(`${target}.dispatchEvent(new Event('${name}'))`);
        return link.carried >= 2;
      };
      await until(asked, `a question and an answer after ${name}`, 3000);
    }
    assert.ok((await tab.stats()).rtt >= 0);
    assert.deepEqual(await tab.log(), ['open']);
  },

  async 'the server is killed and comes back without its memory: gaps are told, nothing sent is lost'({ server, link, context, replace }) {
    const tab = await Tab.open(context, link.url);
    await tab.has('open');
    await tab.page.evaluate("client.subscribe('news')");
    await tab.has('news ok');
    await tab.send('before');
    assert.equal(await tab.flush(), true);
    await server.kill();
    await tab.send('between');
    const next = await replace();
    assert.equal(await tab.flush(), true);
    await until(async () => (await tab.log()).some((line) => line.startsWith('gap news')), 'the gap of the channel');
    const log = await tab.log();
    assert.ok(log.some((line) => line.startsWith('gap null')), log.join());
    assert.deepEqual(next.messages, ['between']);
    next.do('publish', { channel: 'news', data: 'again' });
    await tab.has('news: again');
  },

  async 'credentials that have expired are asked for again, refused ones end it'({ server, link, context }) {
    const tab = await Tab.open(context, link.url, { tokens: ['first', 'second'] });
    await tab.has('open');
    server.do('close', { code: 4003 });
    await tab.has('open resumed');
    assert.deepEqual(server.of('auth').map(({ token }) => token), ['first', 'second']);
    const refused = await Tab.open(context, link.url, { tokens: ['banned'] });
    await refused.has('close 4500 final');
    await sleep(500);
    assert.equal(server.of('auth').length, 3, 'it stays away');
    assert.equal((await refused.stats()).state, 'closed');
  },

  async '1000 messages both ways with cuts: none lost, none twice, in order'({ server, link, context }) {
    const tab = await Tab.open(context, link.url);
    await tab.has('open');
    const [{ session }] = server.of('open');
    const expected = [];
    for (let i = 0; i < 1000; i += 20) {
      const some = Array.from({ length: 20 }, (_, k) => `${i + k}`);
      expected.push(...some);
      await tab.send(...some.map((n) => `up ${n}`));
      for (const n of some) server.do('send', { session, data: `down ${n}` });
      if (i % 120 === 60) {
        await sleep(Math.random() * 30);
        const { resumed: resumes } = await tab.stats();
        link.cut();
        // Each second time it comes back first; else it is to send what came meanwhile with the rest.
        if (i % 240 === 60) await until(async () => (await tab.stats()).resumed > resumes, 'it is back');
      }
    }
    assert.equal(await tab.flush(30_000), true);
    await tab.has('down 999', 30_000);
    assert.deepEqual(server.messages, expected.map((n) => `up ${n}`));
    const log = await tab.log();
    assert.deepEqual(log.filter((line) => line.startsWith('down')), expected.map((n) => `down ${n}`));
    const { gaps, resumed } = await tab.stats();
    assert.equal(gaps, 0);
    assert.ok(resumed >= 4, `${resumed} cuts`);
  },

  async 'a server that does not know lifeline.v1: plain WebSocket'({ context }) {
    const { WebSocketServer } = createRequire(new URL('js/package.json', root))('ws');
    const wss = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => false });
    await new Promise((resolve) => wss.once('listening', resolve));
    const received = [];
    wss.on('connection', (socket) => socket.on('message', (data) => (received.push(String(data)), socket.send(`echo ${data}`))));
    const tab = await Tab.open(context, `ws://127.0.0.1:${wss.address().port}`);
    await tab.send('hello');
    await tab.has('echo hello');
    assert.equal(await tab.flush(), true);
    assert.deepEqual([received, (await tab.stats()).lifeline], [['hello'], false]);
    for (const socket of wss.clients) socket.terminate();
    wss.close();
  },

  async 'ReconnectingWebSocket in place of WebSocket'({ server, link, context }) {
    const tab = new Tab();
    tab.page = await context.newPage();
    await tab.page.goto(origin);
    await tab.page.evaluate(async (url) => {
      const { ReconnectingWebSocket } = await import('/lifeline.js');
      window.log = [];
      const socket = (window.socket = new ReconnectingWebSocket(url, [], { reconnectInterval: 50 }));
      for (const name of ['open', 'close', 'error']) socket.addEventListener(name, (event) => window.log.push(event.constructor.name === 'Event' ? name : event.type));
      socket.send('early');
    }, link.url);
    await until(() => server.messages.includes('early'), 'the message');
    link.cut();
    await until(async () => (await tab.log()).join() === 'open,close,open', 'it is back');
    await tab.page.evaluate("socket.send(new Blob(['late']))");
    await until(() => server.messages.includes('late'), 'the second message');
    await tab.page.evaluate('socket.close()');
    await until(async () => (await tab.page.evaluate('socket.readyState')) === 3, 'closed');
  },
};

Object.assign(tests, ofDocuments, ofPage, ofAdmin);

const browser = await browse();
let [passed, failed] = [0, 0];
for (const [name, test] of Object.entries(tests)) {
  if (process.argv.length > 2 && !process.argv.slice(2).some((part) => name.includes(part))) continue;
  const began = Date.now();
  const context = await browser.newContext();
  const serve = (listen = 'ws://127.0.0.1:0', ...directory) => Php.start('server.php', listen, ...directory);
  let server = await serve();
  const link = await Link.start(server.address);
  const replace = async () => {
    server = await serve(server.address);
    return server;
  };
  try {
    await test({ server, link, context, replace, browser, origin, serveFiles: (directory) => serve(undefined, directory) });
    assert.deepEqual(server.of('error'), []);
    passed++;
    console.log(`ok    ${name} (${Date.now() - began} ms)`);
  } catch (error) {
    failed++;
    console.log(`FAIL  ${name}\n${error.stack}`);
  }
  await context.close();
  link.close();
  await server.kill();
}
await browser.close();
web.close();
console.log(`browser: ${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
