// axe finds nothing on any state of the page, and what is said aloud.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { ask, launch, mockServer, openPage, send } from './helpers.mjs';

const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
let browser;
let mock;
before(async () => {
  browser = await launch();
  mock = await mockServer();
});
after(async () => {
  await browser.close();
  await mock.stop();
});

async function check(page, state) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  const found = violations.map(({ id, nodes }) => `${state}: ${id}: ${nodes.map((node) => `${node.target} ${node.failureSummary}`).slice(0, 3).join(' | ')}`);
  assert.deepEqual(found, []);
}

for (const colorScheme of ['light', 'dark']) {
  test(`axe, ${colorScheme}`, async () => {
    const page = await openPage(browser, mock.address, { colorScheme });
    await check(page, 'empty');
    await ask(page, 'think');
    await page.click('.thinking > button');
    await ask(page, 'tour');
    await page.waitForSelector('.katex');
    await check(page, 'answers');
    await send(page, 'too long');
    await page.waitForSelector('.problem');
    await page.click('[aria-label^=Settings]');
    await page.click('.settings >> text=Schema');
    await check(page, 'problem and settings');
    await page.click('.turn.user .edit');
    await check(page, 'editor');
    await page.click('#model-picker');
    await check(page, 'picker');
    await page.click('text=Manage and get models');
    await page.waitForSelector('[data-offer]');
    await page.waitForTimeout(200);
    await check(page, 'models');
    await page.keyboard.press('Escape');
    await page.keyboard.press('Control+/');
    await page.waitForTimeout(200);
    await check(page, 'shortcuts');
    await page.context().close();
  });
}

test('axe, phone', async () => {
  const page = await openPage(browser, mock.address, { viewport: { width: 375, height: 700 }, hasTouch: true });
  await ask(page, 'tour');
  await check(page, 'answer');
  await page.click('[aria-label="Show conversations"]');
  await page.waitForTimeout(300);
  await check(page, 'conversations');
  await page.context().close();
});

test('answers are said block by block, to the last', async () => {
  const page = await openPage(browser, mock.address);
  await ask(page, 'tour');
  const said = await saidUntilTheEnd(page);
  assert.match(said, /What is close to its bound[^]*the roofline model[^]*Answer finished\.$/);
  await page.context().close();
});

test('an answer that comes at once, or with late definitions, is said once', async () => {
  const page = await openPage(browser, mock.address);
  await ask(page, 'at once');
  assert.match(await saidUntilTheEnd(page), /\nFirst\.\s+Second\.\s+Third\.\s+Answer finished\.$/);
  await page.reload();
  await page.waitForSelector('.turn.assistant.last');
  await ask(page, 'definitions');
  // What was said before its definitions came is not said again with its links.
  assert.match(await saidUntilTheEnd(page), /^Waiting for the answer\.\s+See \[here\] and \[there\]\.\s+Then this\.\s+Answer finished\.$/);
  await page.context().close();
});

/** Everything that is said, when the end of the answer is said too. */
async function saidUntilTheEnd(page) {
  const status = page.locator('[role=status].visually-hidden');
  await status.filter({ hasText: 'Answer finished.' }).waitFor({ state: 'attached' });
  return status.innerText();
}
