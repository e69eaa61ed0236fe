// How fast the page is, measured and printed. Only broken things fail: machines differ.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { recorded, tokens } from './answers.mjs';
import { launch, mockServer, openPage, send, ended } from './helpers.mjs';

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

/**
 * Runs something and gives the processor time in milliseconds of each task of the page's main thread,
 * longest first. It tells what the page costs even on a machine that does other things.
 */
async function tasksDuring(page, act) {
  await browser.startTracing(page, { categories: ['toplevel'] });
  await act();
  const { traceEvents } = JSON.parse((await browser.stopTracing()).toString());
  const mains = new Set(traceEvents.filter((event) => event.name === 'thread_name' && event.args.name === 'CrRendererMain').map((event) => `${event.pid}:${event.tid}`));
  const tasks = traceEvents.filter((event) => event.ph === 'X' && event.name === 'ThreadControllerImpl::RunTask' && mains.has(`${event.pid}:${event.tid}`));
  return tasks.map((event) => (event.tdur ?? 0) / 1000).sort((a, b) => b - a);
}

function taskWords(tasks) {
  const sum = tasks.reduce((total, ms) => total + ms, 0);
  return `tasks of the main thread by processor time: ${Math.round(sum)} ms in all, longest ${tasks.slice(0, 3).map((ms) => ms.toFixed(0)).join(', ')} ms, `
    + `${tasks.filter((ms) => ms > 50).length} over 50 ms`;
}

test('the page is interactive soon', async () => {
  const times = [];
  const page = await openPage(browser, mock.address);
  for (let i = 0; i < 5; i++) {
    await page.goto('about:blank');
    await page.goto(mock.address);
    await page.waitForSelector('.welcome');
    times.push(await page.evaluate(() => performance.getEntriesByName('zinc-interactive')[0].startTime));
  }
  times.sort((a, b) => a - b);
  console.log(`interactive after ${times.map(Math.round).join(', ')} ms`);
  const tasks = await tasksDuring(page, async () => {
    await page.reload();
    await page.waitForSelector('.welcome');
  });
  console.log(`opening: ${taskWords(tasks)}`);
  assert.ok(times[0] < 2000);
  await page.context().close();
});

/** A conversation of so many tokens, as the page exports it. */
function conversation(nTokens) {
  const messages = [];
  let n = 0;
  for (let i = 0; n < nTokens; i++) {
    const text = i % 2 === 0 ? `Question ${i}: how fast can this be?` : recorded(900);
    messages.push({ id: `m${i}`, parent: i > 0 ? `m${i - 1}` : null, role: i % 2 === 0 ? 'user' : 'assistant', text, created: i, state: 'done' });
    n += tokens(text).length;
  }
  if (messages.length % 2 === 1) messages.pop();
  const whole = { id: 'c', title: 'Long', created: 1, updated: 2, leaf: messages.at(-1).id, model: null, settings: {}, messages };
  return JSON.stringify({ format: 'zinc-chat', version: 1, conversations: [whole] });
}

test('200 tokens/s into a conversation of 20,000 tokens', async () => {
  const page = await openPage(browser, mock.address);
  const buffer = Buffer.from(conversation(20_000));
  await page.setInputFiles('[aria-label="Conversations to import"]', { name: 'long.json', mimeType: 'application/json', buffer });
  await page.waitForSelector('.turn.last .katex');
  await page.waitForTimeout(500);
  await page.reload();
  await page.waitForSelector('.turn.last .markdown');
  const opened = await page.evaluate(() => performance.now());
  await page.waitForSelector('.turn.last .katex');
  await page.waitForTimeout(1000);
  await page.evaluate(() => {
    window.__frames = [];
    let last = performance.now();
    const frame = (now) => {
      window.__frames.push(now - last);
      last = now;
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  });
  const started = Date.now();
  const tasks = await tasksDuring(page, async () => {
    await send(page, 'recorded');
    await ended(page);
  });
  const seconds = (Date.now() - started) / 1000;
  const frames = await page.evaluate(() => window.__frames.slice(2));
  frames.sort((a, b) => a - b);
  const at = (share) => Math.round(frames[Math.floor((frames.length - 1) * share)]);
  const slow = frames.filter((ms) => ms > 50).length;
  console.log(`opened after ${Math.round(opened)} ms; ${frames.length} frames in ${seconds.toFixed(1)} s: median ${at(0.5)} ms, p99 ${at(0.99)} ms, longest ${at(1)} ms, ${slow} over 50 ms; ${taskWords(tasks)}`);
  assert.ok(at(0.5) < 200);
  await page.context().close();
});
