// What goes wrong: keys, dead servers, refusals, and a hostile model.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { answerText, ask, ended, launch, mockServer, openPage, send } from './helpers.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

function withServer(name, act) {
  test(name, async () => {
    const mock = await mockServer();
    const pages = [];
    const open = async (options) => {
      const page = await openPage(browser, mock.address, options);
      pages.push(page);
      return page;
    };
    try {
      await act(mock, open);
      for (const page of pages) assert.deepEqual(page.complaints, []);
    } finally {
      for (const page of pages) await page.context().close();
      await mock.stop();
    }
  });
}

withServer('a key is asked for, and kept only when asked to', async (mock, open) => {
  mock.key = 'right';
  const page = await open();
  await page.waitForSelector('dialog >> text=This server needs a key');
  await page.fill('#api-key', 'wrong');
  await page.click('text=Use key');
  await page.waitForSelector('dialog >> text=did not take this key');
  await page.fill('#api-key', 'right');
  await page.click('text=Use key');
  await page.waitForSelector('dialog', { state: 'detached' });
  assert.equal(await ask(page, 'hello'), 'You said: hello');
  assert.equal(await page.evaluate(() => JSON.stringify({ ...localStorage }).includes('right')), false);
  await page.reload();
  await page.waitForSelector('#api-key');
  await page.fill('#api-key', 'right');
  await page.check('text=Remember it');
  await page.click('text=Use key');
  await page.waitForSelector('dialog', { state: 'detached' });
  await page.reload();
  await page.waitForSelector('.turn.last .markdown');
  assert.equal(await ask(page, 'again'), 'You said: again');
});

withServer('a dead server and its return', async (mock, open) => {
  const page = await open();
  await send(page, 'endless');
  await page.waitForFunction(() => (document.querySelector('.turn.last .markdown')?.textContent ?? '').length > 60);
  await mock.stop();
  await page.waitForSelector('.banner');
  await page.waitForSelector('.turn.last .problem >> text=broke in the middle');
  assert.match(await answerText(page), /The fox/);
  await send(page, 'anyone there?');
  await page.waitForSelector('.turn.last .problem >> text=The server does not answer');
  await mock.start();
  await page.waitForSelector('.banner', { state: 'detached', timeout: 15_000 });
  await page.click('.turn.last .problem >> text=Try again');
  await page.waitForSelector('.turn.last .markdown >> text=You said: anyone there?');
});

withServer('refusals are said plainly, with the next step', async (mock, open) => {
  const page = await open();
  await send(page, 'too long');
  await page.waitForSelector('.problem >> text=longer than the model’s context');
  await page.waitForSelector('.problem >> text=the prompt has 9000 tokens');
  await page.click('.problem >> text=New chat');
  await send(page, 'broken field');
  await page.waitForSelector('.problem >> text=top_p: expected a number from 0 to 1');
  await page.click('.problem >> text=Settings');
  await page.waitForSelector('.settings');
  await send(page, 'busy');
  await page.waitForSelector('.turn.last >> text=Now there is time.');
  await send(page, 'cut');
  await page.waitForSelector('.turn.last .problem >> text=broke in the middle');
  assert.match(await answerText(page), /This answer breaks/);
});

withServer('a model’s output stays text', async (mock, open) => {
  const page = await open();
  const outside = [];
  page.on('request', (request) => {
    if (!request.url().startsWith(mock.address) && !request.url().startsWith('blob:')) outside.push(request.url());
  });
  await ask(page, 'hostile');
  await ask(page, 'hostile two');
  await page.waitForTimeout(500);
  await page.reload();
  await page.waitForSelector('.turn.last .markdown p');
  const found = await page.evaluate(() => {
    const inAnswers = (selector) => document.querySelectorAll(`.turn.assistant ${selector}`).length;
    const links = [...document.querySelectorAll('.turn.assistant .markdown a')];
    return {
      pwned: window.__pwned,
      elements: inAnswers('.markdown :is(script, img, iframe, style, object, embed, form, [onerror], [onload])'),
      badLinks: links.filter((link) => !/^https:/.test(link.href)).map((link) => link.href),
      goodLinks: links.map((link) => link.href),
      rels: links.every((link) => link.rel.includes('noopener') && link.rel.includes('noreferrer')),
      text: document.querySelector('.transcript').textContent,
      arabic: getComputedStyle([...document.querySelectorAll('.markdown p')].find((p) => p.textContent.includes('مرحبا'))).direction,
    };
  });
  assert.equal(found.pwned, undefined);
  assert.equal(found.elements, 0);
  assert.deepEqual(found.badLinks, []);
  assert.ok(found.goodLinks.includes('https://example.org/a?b=c'));
  assert.ok(found.rels);
  assert.ok(found.text.includes('<script>window.__pwned = 1</script>'));
  assert.ok(found.text.includes('onerror'));
  assert.equal(found.arabic, 'rtl');
  assert.deepEqual(outside, []);
});

withServer('a line of a megabyte does not stall the page', async (mock, open) => {
  const page = await open();
  await page.evaluate(() => {
    window.__longest = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) window.__longest = Math.max(window.__longest, entry.duration);
    }).observe({ type: 'longtask' });
  });
  await send(page, 'long line');
  await page.waitForSelector('.turn.last .plain');
  await ended(page);
  const { length, longest } = await page.evaluate(() => ({ length: document.querySelector('.turn.last .markdown').textContent.length, longest: window.__longest }));
  assert.ok(length >= 1_000_000, `${length}`);
  console.log(`longest task with a line of a megabyte: ${Math.round(longest)} ms`);
  await page.reload();
  await page.waitForSelector('.turn.last .plain');
});

withServer('writing from right to left', async (mock, open) => {
  const page = await open();
  await page.fill('#composer', 'שלום עולם');
  assert.equal(await page.evaluate(() => getComputedStyle(document.getElementById('composer')).direction), 'rtl');
  await page.press('#composer', 'Enter');
  await ended(page);
  assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector('.user-text')).direction), 'rtl');
});
