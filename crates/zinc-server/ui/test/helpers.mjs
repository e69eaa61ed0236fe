// What the tests share: the imitated server, the browser, and steps that people take.

import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { Mock } from './mock.mjs';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
export const dist = join(root, 'dist');

/** Starts the browser that `CHROMIUM` names. */
export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
}

/** An imitated server that listens. */
export async function mockServer() {
  const mock = new Mock(dist);
  await mock.start();
  return mock;
}

/** A page of its own browser profile. Everything that it complains about is in `page.complaints`. */
export async function openPage(browser, address, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.complaints = [];
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  page.on('console', (message) => {
    // Refused requests are the subject of some tests; the browser reports each as an error.
    if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) page.complaints.push(message.text());
  });
  await page.goto(address);
  await page.waitForSelector('#composer');
  return page;
}

/** Writes a message and sends it. */
export async function send(page, text) {
  await page.fill('#composer', text);
  await page.click('.send[aria-label=Send]');
}

/** Waits for the end of the last answer. */
export async function ended(page) {
  await page.waitForSelector('.turn.assistant.last[aria-busy=false]');
}

/** Sends a message, waits for the answer and gives its text. */
export async function ask(page, text) {
  await send(page, text);
  await page.waitForSelector('.turn.assistant.last');
  await ended(page);
  return answerText(page);
}

/** The text of the last answer. */
export function answerText(page) {
  return page.locator('.turn.last > .markdown').innerText();
}
