// Takes the pictures of the page of `make serve` that are in docs/: both themes, wide and on a phone.
//   node tests/browser/screenshots.mjs [directory]
import { mkdirSync } from 'node:fs';
import { Served, browse, sleep, until } from './served.mjs';

const directory = process.argv[2] ?? new URL('../../docs/page/', import.meta.url).pathname;
mkdirSync(directory, { recursive: true });
const served = await Served.start();
const browser = await browse();
const pages = [];
for (const [name, width, height] of [['wide', 1280, 900], ['phone', 360, 740]]) {
  for (const colorScheme of ['light', 'dark']) {
    const context = await browser.newContext({ viewport: { width, height }, colorScheme, deviceScaleFactor: name === 'phone' ? 2 : 1, reducedMotion: 'reduce', locale: 'en-GB' });
    const page = await context.newPage();
    await page.addInitScript((who) => sessionStorage.setItem('name', who), ['Ada', 'Grace', 'Radia', 'Barbara'][pages.length]);
    await page.goto(served.url);
    pages.push({ page, file: `${name}-${colorScheme}.png` });
    await until(() => page.evaluate("document.getElementById('state').textContent === 'Connected'"), 'a connection');
  }
}
const say = async (index, text, pause = 700) => {
  await pages[index].page.fill('#text', text);
  await pages[index].page.press('#text', 'Enter');
  await sleep(pause);
};
await sleep(12_000);
await say(0, 'Anybody here?');
await say(1, 'Yes. I am on a train, so do not mind when I come and go');
await say(2, 'Same here. What happens when somebody cuts the link?');
for (const { page } of pages) await page.click('#cut');
await sleep(5000);
await say(0, 'Nothing was lost, it seems');
// One click for all: it is one PHP.
await pages[3].page.click('#block');
await sleep(3000);
await say(1, 'Now PHP is busy. Beats go on, and this arrives when it is back');
await pages[1].page.click('[aria-label="Move “Block PHP, then move a card” to Doing"]');
await sleep(9000);
for (const { page } of pages) await page.click('#offline');
const edit = async (index, text) => {
  const field = pages[index].page.locator('textarea[aria-label="Card Read what happened"]');
  await field.fill(text);
  await field.press('Enter');
};
await edit(0, 'Read what happened, twice');
await edit(3, 'Read it');
await sleep(5000);
// The last one first: it is faster.
for (const { page } of pages.toReversed()) {
  await page.click('#offline');
  await sleep(500);
}
await sleep(5000);
await say(3, 'Tunnel. What did I miss?');
await sleep(5000);
await say(1, 'Look at the round trips');
const shoot = async ({ page, file }) => {
  await page.mouse.move(0, 0);
  await page.evaluate("document.activeElement?.blur(); scrollTo(0, 0); document.getElementById('log').scrollTop = 1e9");
  await page.screenshot({ path: `${directory}/${file}`, fullPage: true });
  console.log(file);
};
// The first while the server is away, the others when all is well again.
await pages[2].page.click('#restart');
await until(() => pages[0].page.isVisible('#countdown'), 'the server is away');
await say(0, 'Written while the server is away', 100);
await until(() => pages[0].page.isVisible('#countdown'), 'a countdown');
await shoot(pages[0]);
for (const index of [1, 2, 3]) await say(index, ['', 'So is this', 'And this', 'Me too'][index]);
await sleep(7000);
for (const one of pages.slice(1)) await shoot(one);
await browser.close();
await served.stop();
