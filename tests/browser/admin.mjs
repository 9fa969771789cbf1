// The status page of the admin listener.
import assert from 'node:assert/strict';
import { get } from 'node:http';
import { Php } from './peers.mjs';
import { until } from './served.mjs';

async function serve(work, clients = 6, script = 'admin.php') {
  const php = await Php.start(script, String(clients));
  try {
    await work(php, php.of('ready')[0].admin);
  } finally {
    await php.kill();
  }
}

async function open(context, url) {
  const page = await context.newPage();
  page.problems = [];
  page.requests = [];
  page.on('pageerror', (error) => page.problems.push(String(error)));
  // Also what the page's Content-Security-Policy has forbidden.
  page.on('console', (message) => message.type() === 'error' && page.problems.push(message.text()));
  page.on('request', (request) => page.requests.push(request.url()));
  await page.goto(url);
  await until(async () => (await page.textContent('#word')) === 'Ready', 'it is ready');
  return page;
}

const number = async (page, name) =>
  page.evaluate((name) => [...document.querySelectorAll('#numbers div')].find((one) => one.querySelector('dt').textContent === name).querySelector('dd').textContent, name);
/** The paths of a plot. */
const drawn = (page, title) =>
  page.evaluate((title) => [...document.querySelectorAll('figure')].find((one) => one.querySelector('h2').textContent === title).querySelectorAll('svg[viewBox="0 0 300 100"] path').values().map((path) => path.getAttribute('d')).toArray(), title);

/** Texts whose contrast with what is behind them is below WCAG AA: 4.5, or 3 where they are large. */
function pale() {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((value) => ((value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = channels(getComputedStyle(node).backgroundColor);
      if ((color[3] ?? 1) === 1) return color;
    }
    return [255, 255, 255];
  };
  const contrast = (a, b) => {
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility() || node.closest('script, noscript')) continue;
    const style = getComputedStyle(node);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    const ratio = contrast(channels(style.color), behind(node));
    if (ratio < (large ? 3 : 4.5)) found.push(`${walker.currentNode.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  // Lines and areas are told apart from their ground: 3 (WCAG 1.4.11).
  for (const path of document.querySelectorAll('svg path')) {
    const style = getComputedStyle(path);
    const ratio = contrast(channels(path.classList.contains('area') ? style.fill : style.stroke), behind(path.closest('figure')));
    if (ratio < 3) found.push(`${path.getAttribute('class')}: ${ratio.toFixed(2)}`);
  }
  return found;
}

export const tests = {
  'admin: the plots move, and show what happens': ({ context }) =>
    serve(async (php, url) => {
      const page = await open(context, url);
      await until(async () => (await number(page, 'connections')) === '6', 'six connections');
      assert.ok(await page.isHidden('#workers'));
      const titles = ['Connections', 'Messages a second', 'Bytes a second', 'PHP behind', 'Round trips', 'Memory of messages', 'Sessions and channels', 'Lost and cut, a second'];
      const before = await Promise.all(titles.map((title) => drawn(page, title)));
      const points = (paths) => Math.max(...paths.map((path) => path.split('L').length));
      for (const title of ['Connections', 'Messages a second', 'Bytes a second', 'Round trips', 'Memory of messages']) {
        await until(async () => points(await drawn(page, title)) >= 3, `points of ${title}`);
      }
      await until(async () => (await Promise.all(titles.map((title) => drawn(page, title)))).every((paths, at) => paths.join() !== before[at].join()), 'all have moved');
      const height = (path) => Math.min(...path.slice(1).split('L').map((point) => Number(point.split(' ')[1])));
      for (const path of await drawn(page, 'Messages a second')) assert.ok(height(path) < 90, path);
      // The answers come from the extension's threads, PHP or not.
      php.do('block', { seconds: 5 });
      await until(async () => /^[1-9](\.\d+)? s$/.test(await number(page, 'PHP behind')), 'it is seen to be behind');
      assert.equal(await page.textContent('#word'), 'Ready');
      php.do('leave');
      await until(async () => (await number(page, 'connections')) === '3', 'three are left');
      await page.click('#first');
      await until(async () => (await page.$$('#list tr')).length === 3, 'and listed');
      assert.deepEqual(page.problems, []);
      const origin = new URL(url).origin;
      assert.deepEqual(page.requests.filter((one) => !one.startsWith(origin) && !one.startsWith('data:')), []);
      await php.kill();
      await until(async () => (await page.textContent('#word')) === 'Not reached', 'it is seen to be gone');
    }),

  'admin: who is connected, without secrets': ({ context }) =>
    serve(async (php, url) => {
      const page = await open(context, url);
      await until(async () => (await page.$$('#list tr')).length === 50, 'a page of the list');
      assert.match(await page.textContent('#listed'), /^50 of 52, ids from \d+$/);
      const names = await page.$$eval('#list td:nth-child(4)', (cells) => cells.map((cell) => cell.textContent));
      assert.ok(names.some((name) => /^<b>user-\d+<\/b>$/.test(name)), 'markup is text');
      await page.click('#next');
      await until(async () => (await page.$$('#list tr')).length === 2, 'the rest');
      assert.ok(await page.isDisabled('#next'));
      await page.click('#first');
      await until(async () => (await page.textContent('#listed')).startsWith('50 of 52'), 'the first page');
      await page.click('summary');
      await until(async () => (await page.textContent('#figures')).includes('eventsWaiting'), 'all figures');
      for (const path of ['', 'status.json', 'connections.json?limit=1000', 'metrics']) {
        const text = await (await fetch(`${url}/${path}`)).text();
        assert.ok(text.length > 100 && !text.includes('a-secret'), path);
      }
      // As after a stranger's name was made to point here.
      const status = await new Promise((resolve) => get(`${url}/connections.json`, { headers: { host: 'evil.example' } }, (answer) => resolve(answer.statusCode)));
      assert.equal(status, 403);
    }, 52),

  'admin: workers, as they come and go, on a phone and wide': ({ browser }) =>
    serve(
      async (php, url) => {
        const { address, pid } = php.of('ready')[0];
        const sockets = [];
        let ended = 0;
        for (let number = 0; number < 5; number++) {
          const headers = { upgrade: 'websocket', connection: 'Upgrade', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==' };
          const request = get(address.replace('ws:', 'http:'), { headers });
          const socket = await new Promise((resolve, reject) => request.on('upgrade', (_, it) => resolve(it)).on('error', reject));
          sockets.push(socket.on('close', () => ended++).resume());
        }
        for (const width of [360, 1280]) {
          const context = await browser.newContext({ viewport: { width, height: 740 } });
          const page = await open(context, url);
          const rows = () => page.$$eval('#workers-list tr', (all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));
          await until(async () => (await rows()).length === 2, 'two workers');
          await until(async () => (await rows()).reduce((sum, row) => sum + Number(row[3]), 0) === 5, 'their connections');
          const [first, second] = await rows();
          assert.deepEqual([first[0], first[1], second[0], second[1]], ['1', 'serving', '2', 'serving']);
          assert.notEqual(first[2], second[2]);
          assert.match(first[6], /^[\d.]+ MiB$/);
          assert.match(await page.textContent('#workers-said'), /^2 of 2 serve · generation \d · /);
          if (width === 360) {
            assert.ok(await page.isHidden('#workers-error'));
            // A text frame, masked with zeros.
            sockets[0].write(Buffer.from([0x81, 0x84, 0, 0, 0, 0, ...Buffer.from('exit')]));
            await until(() => page.isVisible('#workers-error'), 'why one has ended');
            assert.match(await page.textContent('#workers-error'), /exit status 7/);
            assert.match(await page.textContent('#workers-said'), / · 1 crash · 0 recycled · 1 lost$/);
          } else {
            process.kill(pid, 'SIGUSR1');
            await until(async () => /generation 2 · 1 reload ·/.test(await page.textContent('#workers-said')), 'a reload');
          }
          const { wide, spills } = await page.evaluate(() => ({
            wide: document.documentElement.scrollWidth,
            spills: [...document.querySelectorAll('#workers *')].filter((node) => !node.closest('thead') && node.getBoundingClientRect().right > innerWidth + 0.5).map((node) => node.outerHTML.slice(0, 80)),
          }));
          assert.ok(wide <= width, `${wide} of ${width}`);
          // The table of the wide form may scroll, but has no need to.
          assert.deepEqual(spills, []);
          for (const colorScheme of ['light', 'dark']) {
            await page.emulateMedia({ colorScheme });
            assert.deepEqual(await page.evaluate(pale), [], `${width} ${colorScheme}`);
          }
          assert.deepEqual(page.problems, []);
          await context.close();
        }
        assert.equal(ended, 0);
        sockets.forEach((socket) => socket.destroy());
      },
      0,
      'admin-workers.php',
    ),

  'admin: readable on a phone and wide, in both themes, and nothing jumps': ({ browser }) =>
    serve(async (php, url) => {
      for (const width of [360, 1280]) {
        const context = await browser.newContext({ viewport: { width, height: 740 } });
        await context.addInitScript(() => {
          window.shift = 0;
          new PerformanceObserver((list) => list.getEntries().forEach((entry) => (window.shift += entry.value))).observe({ type: 'layout-shift', buffered: true });
        });
        const page = await open(context, url);
        await until(async () => (await page.$$('#list tr')).length === 6, 'the list');
        await until(async () => (await drawn(page, 'Round trips'))[0].includes('L'), 'a plot');
        // Of what can be seen when it is opened.
        assert.ok((await page.evaluate('shift')) < 0.05, `${width}: shifts of ${await page.evaluate('shift')}`);
        const { wide, spills } = await page.evaluate(() => ({
          wide: document.documentElement.scrollWidth,
          spills: [...document.querySelectorAll('main *, header *')].filter((node) => !node.closest('.table, svg') && node.getBoundingClientRect().right > innerWidth + 0.5).map((node) => node.outerHTML.slice(0, 80)),
        }));
        assert.ok(wide <= width, `${wide} of ${width}`);
        assert.deepEqual(spills, []);
        for (const colorScheme of ['light', 'dark']) {
          await page.emulateMedia({ colorScheme });
          assert.deepEqual(await page.evaluate(pale), [], `${width} ${colorScheme}`);
        }
        assert.deepEqual(page.problems, []);
        await context.close();
      }
    }),
};
