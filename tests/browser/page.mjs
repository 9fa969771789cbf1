// The page of `make serve`, and the client that a server with the option `static` has.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Served, until } from './served.mjs';

/** A visitor's tab of the page. */
class Visitor {
  static async open(context, url, name) {
    const visitor = new Visitor();
    const page = (visitor.page = await context.newPage());
    visitor.problems = [];
    page.on('pageerror', (error) => visitor.problems.push(String(error)));
    // Also what the page's Content-Security-Policy has forbidden.
    page.on('console', (message) => message.type() === 'error' && !/ERR_CONNECTION|WebSocket connection/.test(message.text()) && visitor.problems.push(message.text()));
    await page.addInitScript((name) => sessionStorage.setItem('name', name), name);
    await page.goto(url);
    await visitor.is('Connected');
    return visitor;
  }

  text(id) {
    return this.page.textContent(`#${id}`);
  }
  async number(id) {
    return Number(await this.text(id));
  }
  is(state, ms) {
    return until(async () => (await this.text('state')) === state, `${state}`, ms);
  }
  async say(text) {
    await this.page.fill('#text', text);
    await this.page.press('#text', 'Enter');
  }
  /** What was said and has been seen, in order. */
  said() {
    return this.page.$$eval('#log li:not(.waiting)', (lines) => lines.map((line) => line.lastChild.textContent));
  }
  people() {
    return this.page.$$eval('#people li', (lines) => lines.map((line) => line.textContent).sort());
  }
  async hears(...texts) {
    await until(async () => (await this.said()).join('\n') === texts.join('\n'), `all of ${texts}`, 30_000).catch(async (error) => {
      throw new Error(`${error.message}: ${await this.said()}`);
    });
  }
  /** The cards, each with the number of its list. */
  cards() {
    return this.page.$$eval('.lists ul', (lists) => lists.flatMap((list, index) => [...list.querySelectorAll('textarea')].map(({ value }) => `${value} ${index}`)));
  }
  shows(text, list, ms) {
    return until(async () => (await this.cards()).includes(`${text} ${list}`), `${text} in list ${list}`, ms);
  }
  async edit(card, text) {
    const field = this.page.locator(`textarea[aria-label="Card ${card}"]`);
    await field.fill(text);
    await field.press('Enter');
  }
  events() {
    return this.text('events');
  }
}

async function serve(work, environment) {
  const served = await Served.start(environment);
  try {
    await work(served);
  } finally {
    assert.equal(await served.stop(), 0, 'it ends when it is asked to');
  }
}

export const tests = {
  async 'one script tag is all that a page needs'({ context, serveFiles }) {
    const directory = mkdtempSync(join(tmpdir(), 'lifeline-'));
    writeFileSync(
      join(directory, 'index.html'),
      `<!doctype html><title>no</title><script type="module">import { Lifeline } from '/lifeline.js';
      const client = new Lifeline('/'); client.send('from the page'); client.flush().then((all) => (document.title = all));</script>`,
    );
    const server = await serveFiles(directory);
    try {
      const page = await context.newPage();
      const answers = new Map();
      page.on('response', (response) => answers.set(new URL(response.url()).pathname, response));
      await page.goto(server.address.replace('ws:', 'http:'));
      await until(async () => (await page.title()) === 'true', 'the acknowledgement');
      assert.deepEqual(server.messages, ['from the page']);
      const headers = await answers.get('/lifeline.js').allHeaders();
      assert.deepEqual([headers['content-type'], headers['cache-control']], ['text/javascript; charset=utf-8', 'no-cache']);
      // What it has is not sent again.
      await page.reload();
      await until(() => server.messages.length === 2, 'the second message');
      const [{ transferSize }] = await page.evaluate(() => performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/lifeline.js')).map((entry) => entry.toJSON()));
      assert.ok(transferSize < 1000, `${transferSize} bytes`);
    } finally {
      await server.kill();
      rmSync(directory, { recursive: true });
    }
  },

  'the page: two visitors talk, each sees who is there': ({ context }) =>
    serve(async (served) => {
      const ann = await Visitor.open(context, served.url, 'Ann');
      const ben = await Visitor.open(context, served.url, 'Ben');
      await until(async () => (await ann.people()).join() === 'Ann (you),Ben', 'Ann sees both');
      await until(async () => (await ben.people()).join() === 'Ann,Ben (you)', 'Ben sees both');
      await ann.say('<b>hello</b>');
      await ben.hears('<b>hello</b>');
      await ben.say('hi');
      await ann.hears('<b>hello</b>', 'hi');
      await ben.page.fill('#name', 'Benjamin');
      await ben.page.press('#name', 'Enter');
      await until(async () => (await ann.people()).join() === 'Ann (you),Benjamin', 'the new name');
      // By keyboard alone: from the field to the button.
      await ben.page.focus('#text');
      await ben.page.keyboard.type('typed');
      await ben.page.keyboard.press('Tab');
      await ben.page.keyboard.press('Space');
      await ann.hears('<b>hello</b>', 'hi', 'typed');
      await ben.page.close();
      await until(async () => (await ann.people()).join() === 'Ann (you),Benjamin, link lost', 'his session waits for him');
      // A newcomer is told what was said.
      const cem = await Visitor.open(context, served.url, 'Cem');
      await cem.hears('<b>hello</b>', 'hi', 'typed');
      assert.deepEqual([...ann.problems, ...cem.problems], []);
    }),

  'the page: the link is cut, and nobody is there for a while; nothing is lost': ({ context }) =>
    serve(async (served) => {
      const ann = await Visitor.open(context, served.url, 'Ann');
      const ben = await Visitor.open(context, served.url, 'Ben');
      await ann.page.click('#cut');
      await until(async () => (await ann.number('reconnects')) === 1, 'it is back');
      assert.equal(await ann.number('resumed'), 1);
      await ann.say('still here');
      await ben.hears('still here');
      // Both send while Ann's wire carries nothing.
      await ann.page.click('#offline');
      await ann.say('out 1');
      await ann.say('out 2');
      await ben.say('in 1');
      await ben.say('in 2');
      await ann.is('Reconnecting', 15_000);
      assert.equal(await ann.number('queue'), 2);
      assert.equal(await ann.page.isDisabled('#cut'), true);
      assert.equal(await ann.page.$$eval('#log li.waiting', (lines) => lines.length), 2);
      await until(() => ann.page.isVisible('#countdown'), 'a countdown', 10_000);
      await ann.page.click('#offline');
      for (const visitor of [ann, ben]) await visitor.hears('still here', 'in 1', 'in 2', 'out 1', 'out 2');
      await until(async () => (await ann.number('queue')) === 0, 'all is acknowledged');
      assert.ok((await ann.number('replayed')) >= 2);
      assert.deepEqual([await ann.number('missing'), await ann.number('gaps'), ...ann.problems, ...ben.problems], [0, 0]);
    }),

  'the page: PHP is blocked for 10 s, beats and files go on': ({ context }) =>
    serve(async (served) => {
      const ann = await Visitor.open(context, served.url, 'Ann');
      const ben = await Visitor.open(context, served.url, 'Ben');
      await ann.page.click('#block');
      await until(async () => /PHP is blocked/.test(await ben.text('note')), 'everybody is told');
      await ben.say('into the block');
      await until(async () => (await ben.number('queue')) === 1, 'it waits');
      // Round trips of seven seconds, and a file.
      const trips = new Set();
      const began = Date.now();
      while (Date.now() < began + 7000) {
        trips.add(await ben.text('rtt'));
        assert.deepEqual([await ben.text('state'), await ben.number('queue')], ['Connected', 1]);
        await new Promise((resolve) => setTimeout(resolve, 250));
      }
      assert.ok(trips.size >= 4, `${[...trips]}`);
      assert.equal(await ben.page.evaluate(async () => (await fetch('/page.css', { cache: 'no-store' })).status), 200);
      for (const visitor of [ann, ben]) await visitor.hears('into the block');
      await until(async () => (await ben.number('queue')) === 0, 'it is acknowledged');
      assert.deepEqual([await ann.number('reconnects'), await ben.number('reconnects')], [0, 0]);
    }),

  'the page: the board is one for all, also while PHP is blocked, and offline': ({ context }) =>
    serve(async (served) => {
      const ann = await Visitor.open(context, served.url, 'Ann');
      const ben = await Visitor.open(context, served.url, 'Ben');
      await ben.shows('Open this page', 2);
      await ann.page.fill('#card', 'a card');
      await ann.page.press('#card', 'Enter');
      await ben.shows('a card', 0);
      // PHP has no part in an edit.
      await ann.page.click('#block');
      await until(async () => /PHP is blocked/.test(await ben.text('note')), 'PHP is blocked');
      await ben.page.click('[aria-label="Move “a card” to Doing"]');
      await ann.shows('a card', 1, 5000);
      assert.match(await ann.text('note'), /PHP is blocked/);
      await until(async () => !/PHP is blocked/.test(await ann.text('note')), 'PHP is back', 15_000);
      // Both edit one card, and Ann another, which is nobody else's.
      await ann.page.click('#offline');
      await ann.edit('a card', 'Ann was here');
      await ann.edit('Open this page', 'Opened');
      await ben.edit('a card', 'Ben was here');
      await ann.page.click('#offline');
      await ann.shows('Ben was here', 1);
      await ben.shows('Opened', 2);
      await until(async () => /Somebody was faster/.test(await ann.page.textContent('.lists')), 'Ann is told');
      await ann.page.click('text=Do it anyway');
      await ben.shows('Ann was here', 1);
      await ann.shows('Ann was here', 1);
      await ben.page.click('[aria-label="Remove “Ann was here”"]');
      await until(async () => !(await ann.cards()).join().includes('Ann was here'), 'it is gone');
      // The next process has it.
      await ann.page.click('#restart');
      await until(() => served.starts === 2, 'it is started again');
      await ann.is('Connected');
      const cem = await Visitor.open(context, served.url, 'Cem');
      for (const visitor of [ann, ben, cem]) {
        await visitor.shows('Opened', 2);
        assert.equal((await visitor.cards()).length, 4);
        assert.deepEqual(visitor.problems, []);
      }
    }),

  'the page: the server is killed and started again': ({ context }) =>
    serve(async (served) => {
      const ann = await Visitor.open(context, served.url, 'Ann');
      const ben = await Visitor.open(context, served.url, 'Ben');
      await ann.say('before');
      await ben.hears('before');
      await ann.page.click('#restart');
      await ann.is('Reconnecting');
      await ann.say('between');
      await until(() => served.starts === 2, 'it is started again');
      for (const visitor of [ann, ben]) await visitor.hears('before', 'between');
      await ben.say('after');
      for (const visitor of [ann, ben]) {
        await visitor.hears('before', 'between', 'after');
        await until(async () => (await visitor.people()).map((name) => name.replace(' (you)', '')).join() === 'Ann,Ben', 'both are there');
        assert.match(await visitor.events(), /Another server process answers/);
        assert.deepEqual([await visitor.number('missing'), ...visitor.problems], [0]);
      }
    }),

  'the page: where it is no demonstration, nothing can be broken': ({ context }) =>
    serve(async (served) => {
      const ann = await Visitor.open(context, served.url, 'Ann');
      await until(() => ann.page.isVisible('#harmless'), 'it says so');
      for (const id of ['cut', 'block', 'restart']) assert.equal(await ann.page.isDisabled(`#${id}`), true);
      // Nor by one who does not use the page's buttons.
      await ann.page.evaluate(async () => {
        const { Lifeline } = await import('/lifeline.js');
        const client = new Lifeline('/', { storage: 'memory' });
        window.rejected = [];
        client.on('reject', ({ reason }) => window.rejected.push(reason));
        for (const type of ['cut', 'block', 'restart']) client.send(JSON.stringify({ type }));
      });
      await until(async () => (await ann.page.evaluate('rejected.join()')) === 'not here,not here,not here', 'refusals');
      assert.equal(await ann.number('reconnects'), 0);
    }, { LIFELINE_DEMO: '0' }),

  'the page: nothing overflows, all has a name and enough contrast, light and dark': ({ browser }) =>
    serve(async (served) => {
      for (const [width, colorScheme] of [[320, 'light'], [360, 'dark'], [1280, 'light'], [1280, 'dark']]) {
        const context = await browser.newContext({ viewport: { width, height: 800 }, colorScheme });
        const visitor = await Visitor.open(context, served.url, 'A name of 24 letters ...');
        await visitor.say('x'.repeat(300));
        await visitor.page.click('#offline');
        await visitor.is('Reconnecting', 15_000);
        const found = await visitor.page.evaluate(audit);
        assert.deepEqual(found, [], `${width} ${colorScheme}`);
        await context.close();
      }
    }),
};

/** Runs in the page: what is wrong with it. */
function audit() {
  const wrong = [];
  const { documentElement: root } = document;
  if (root.scrollWidth > root.clientWidth) wrong.push(`${root.scrollWidth} wide`);
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255];
  };
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest('.hidden, .skip, svg')) continue;
    const [a, b] = [luminance(rgba(getComputedStyle(element).color)), luminance(ground(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) wrong.push(`contrast ${contrast.toFixed(2)} of "${element.textContent.trim().slice(0, 30)}"`);
  }
  for (const element of document.querySelectorAll('button, input, section, ol[tabindex], ul[aria-labelledby]')) {
    const by = element.getAttribute('aria-labelledby') ?? '';
    const name = element.getAttribute('aria-label') || document.getElementById(by)?.textContent || element.labels?.[0]?.textContent || (element.tagName === 'BUTTON' && element.textContent);
    if (!name?.trim()) wrong.push(`no name: ${element.outerHTML.slice(0, 60)}`);
  }
  for (const name of ['header', 'main', 'h1']) if (document.querySelectorAll(name).length !== 1) wrong.push(`not one ${name}`);
  return wrong;
}
