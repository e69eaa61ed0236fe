// Takes pictures of the page for people to look at: node test/screenshots.mjs FOLDER.

import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ask, launch, mockServer, openPage } from './helpers.mjs';

const folder = process.argv[2] ?? 'screenshots';
const browser = await launch();
const mock = await mockServer();
mock.statuses = new Map([['qwen3-8b', 'loaded'], ['gpt-oss-20b', 'unloaded']]);
await mkdir(folder, { recursive: true });

/** A picture as WebP, which the driver does not take by itself. */
async function picture(page, name, scale) {
  const { width, height } = page.viewportSize();
  const clip = { x: 0, y: 0, width, height, scale };
  const session = await page.context().newCDPSession(page);
  const { data } = await session.send('Page.captureScreenshot', { format: 'webp', quality: 80, clip });
  await writeFile(join(folder, `${name}.webp`), Buffer.from(data, 'base64'));
}

/** A conversation about how fast a model can be, in a list with others. */
async function conversation(options) {
  const page = await openPage(browser, mock.address, options);
  for (const title of ['Names for a small boat', 'A regular expression for dates', 'Bread without yeast']) {
    await ask(page, title);
    await page.keyboard.press('Control+Shift+O');
    await page.waitForSelector('.welcome');
  }
  await ask(page, 'How fast can a model be at best? Give me a tour.');
  await page.waitForSelector('.turn.last .katex');
  await page.waitForSelector('.turn.last .hl-keyword');
  return page;
}

async function scrollTo(page, selector) {
  await page.evaluate((selector) => document.querySelector(selector).scrollIntoView({ block: 'start' }), selector);
  await page.waitForTimeout(400);
}

const wide = await conversation({ viewport: { width: 1440, height: 900 }, colorScheme: 'light' });
await wide.fill('#composer', '');
await scrollTo(wide, '.transcript');
await picture(wide, 'chat-wide', 1);
await wide.context().close();

const phone = await conversation({ viewport: { width: 375, height: 720 }, colorScheme: 'dark', hasTouch: true, deviceScaleFactor: 2 });
await scrollTo(phone, '.turn.last');
await phone.evaluate(() => (document.querySelector('.to-end') ?? {}).remove?.());
await picture(phone, 'chat-phone', 2);
await phone.context().close();

for (const [width, height] of [[375, 720], [1024, 768], [1920, 1080]]) {
  for (const colorScheme of ['light', 'dark']) {
    const page = await conversation({ viewport: { width, height }, colorScheme, hasTouch: width < 500 });
    if (width > 1500) await page.click('[aria-label^=Settings]');
    await page.waitForTimeout(300);
    await page.screenshot({ path: join(folder, `${width}-${colorScheme}.png`) });
    await page.context().close();
  }
}
await browser.close();
await mock.stop();
