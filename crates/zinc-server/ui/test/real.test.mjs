// The page against `zinc serve` with the built-in model; `ZINC` names the program.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { answerText, ask, ended, launch, openPage, send } from './helpers.mjs';
import { policy } from './mock.mjs';

const program = process.env.ZINC;
const options = { skip: program ? false : 'ZINC names no program' };
let browser;
before(async () => {
  if (program) browser = await launch();
});
after(() => browser?.close());

/** Starts a server; gives its address and a function that ends it. */
async function serve(args, env = {}) {
  const command = ['serve', '--host', '127.0.0.1', ...args];
  const child = spawn(program, command, { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, ...env } });
  let log = '';
  const address = await new Promise((resolve, reject) => {
    child.stderr.on('data', (data) => {
      log += data;
      const found = /listens on (http:\/\/\S+)/.exec(log);
      if (found && log.includes('ready:')) resolve(`${found[1]}/`);
    });
    child.on('exit', () => reject(new Error(`zinc serve ended: ${log}`)));
  });
  const stop = async (signal = 'SIGTERM') => {
    const gone = once(child, 'exit');
    child.kill(signal);
    await gone;
  };
  return { address, stop, port: new URL(address).port };
}

test('headers: policy, types, caching', options, async () => {
  const { address, stop } = await serve(['--port', '0', '--api-key', 'secret']);
  try {
    const page = await fetch(address);
    assert.equal(page.headers.get('content-security-policy'), policy);
    const asset = /assets\/app-\w+\.js/.exec(await page.text())[0];
    const script = await fetch(address + asset);
    assert.equal(script.headers.get('content-type'), 'text/javascript; charset=utf-8');
    assert.match(script.headers.get('cache-control'), /immutable/);
    const again = await fetch(address + asset, { headers: { 'if-none-match': script.headers.get('etag') } });
    assert.equal(again.status, 304);
    assert.equal((await fetch(`${address}assets/none.js`)).status, 404);
    assert.equal((await fetch(`${address}v1/models`)).status, 401);
  } finally {
    await stop();
  }
});

test('a conversation with the built-in model', options, async () => {
  const { address, stop } = await serve(['--port', '0']);
  const page = await openPage(browser, address);
  page.setDefaultTimeout(60_000);
  try {
    await page.keyboard.press('Control+,');
    await page.fill('#setting-temperature', '0');
    assert.match(await ask(page, 'What is 17 + 25?'), /42/);
    const stats = await page.innerText('.turn.last .stats');
    assert.match(stats, /tokens\/s/);
    assert.match(stats, /%\s*of context/);
    await page.click('.segmented >> text="On"');
    await ask(page, 'What is 20 + 13?');
    await page.waitForSelector('.thinking >> text=Thought for');
    await page.click('.segmented >> text="Off"');
    await page.click('.chip >> text=JSON');
    await ask(page, 'Write a person as JSON with name, age and city.');
    JSON.parse(await page.innerText('.turn.last .code code'));
    await page.click('.chip >> text=JSON');
    await send(page, 'Tell me a story about a fox.');
    await page.waitForFunction(() => (document.querySelector('.turn.last .markdown')?.textContent ?? '').length > 20);
    await page.keyboard.press('Escape');
    await ended(page);
    await page.reload();
    await page.waitForSelector('.turn.last .markdown');
    assert.ok((await answerText(page)).length > 20);
    await page.click('#model-picker');
    await page.waitForSelector('[role=menuitemradio] >> text=in memory');
    await page.click('text=Manage and get models');
    await page.click('.card button >> text=Unload');
    await page.waitForSelector('.card button >> text=/^Load$/');
    await page.click('.card button >> text=/^Load$/');
    await page.waitForSelector('.card >> text=in memory');
    assert.deepEqual(page.complaints, []);
  } finally {
    await page.context().close();
    await stop();
  }
});

/** A Hub with one repository, o/m-GGUF, whose file is the built-in model; it sends ranges. */
async function hub() {
  const bytes = await readFile(process.env.ZINC_DEMO);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const file = { rfilename: 'm-Q8_0.gguf', size: bytes.length, lfs: { sha256, size: bytes.length } };
  const server = createServer((request, response) => {
    if (request.url.startsWith('/api/models/o/m-GGUF/')) {
      response.setHeader('content-type', 'application/json');
      return response.end(JSON.stringify({ sha: 'c0ffee', siblings: [file] }));
    }
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    if (!request.url.startsWith('/o/m-GGUF/resolve/') || !range) return response.writeHead(404).end();
    const [first, last] = [Number(range[1]), Number(range[2])];
    response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${bytes.length}`, 'x-linked-etag': `"${sha256}"` });
    response.end(bytes.subarray(first, last + 1));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { address: `http://127.0.0.1:${server.address().port}`, stop: () => server.close() };
}

test('a model is pulled from a Hub and answers', options, async () => {
  const source = await hub();
  const home = await mkdtemp(join(tmpdir(), 'zinc-page-'));
  const { address, stop } = await serve(['--port', '0'], { HF_ENDPOINT: source.address, ZINC_HOME: home });
  const page = await openPage(browser, address);
  page.setDefaultTimeout(60_000);
  try {
    await page.click('#model-picker');
    await page.click('text=Manage and get models');
    await page.waitForSelector('[data-offer="qwen3-4b"]');
    const search = '[aria-label="Search models, or an address"]';
    await page.fill(search, 'hf:o/none-GGUF');
    await page.click('.dialog >> text="Pull"');
    await page.waitForSelector('[data-pull="hf:o/none-GGUF"] >> text=HF_TOKEN');
    await page.fill(search, 'hf:o/m-GGUF');
    await page.click('.search >> text="Pull"');
    await page.waitForSelector('.notice >> text=hf:o/m-GGUF:Q8_0 is here.');
    await page.click('[data-model="hf:o/m-GGUF:Q8_0"] >> text="Use"');
    await page.keyboard.press('Escape');
    await page.keyboard.press('Control+,');
    await page.fill('#setting-temperature', '0');
    assert.match(await ask(page, 'What is 17 + 25?'), /42/);
    assert.match(await page.innerText('.turn.last'), /hf:o\/m-GGUF:Q8_0/);
    assert.deepEqual(page.complaints, []);
  } finally {
    await page.context().close();
    await stop();
    source.stop();
    await rm(home, { recursive: true, force: true });
  }
});

test('a key-protected server that dies and returns', options, async () => {
  let server = await serve(['--port', '0', '--api-key', 'secret']);
  const page = await openPage(browser, server.address);
  page.setDefaultTimeout(60_000);
  try {
    await page.fill('#api-key', 'secret');
    await page.click('text=Use key');
    await page.waitForSelector('dialog', { state: 'detached' });
    assert.match(await ask(page, 'What is 2 + 3?'), /5/);
    await server.stop('SIGKILL');
    await send(page, 'What is 3 + 4?');
    await page.waitForSelector('.turn.last .problem >> text=does not answer');
    await page.waitForSelector('.banner');
    server = await serve(['--port', server.port, '--api-key', 'secret']);
    await page.waitForSelector('.banner', { state: 'detached' });
    await page.click('.turn.last .problem >> text=Try again');
    await page.waitForSelector('.turn.last .stats');
    assert.match(await answerText(page), /7/);
    assert.deepEqual(page.complaints, []);
  } finally {
    await page.context().close();
    await server.stop();
  }
});
