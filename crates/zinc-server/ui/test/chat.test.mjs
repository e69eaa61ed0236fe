// What people do with the page, against the imitated server.

import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { answerText, ask, ended, launch, mockServer, openPage, send } from './helpers.mjs';

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

/** A test with a fresh page that must not complain. */
function onPage(name, act, options = {}) {
  test(name, async () => {
    const page = await openPage(browser, mock.address, options);
    try {
      await act(page);
      assert.deepEqual(page.complaints, []);
    } finally {
      await page.context().close();
    }
  });
}

onPage('an answer streams, with Markdown and its cost', async (page) => {
  await send(page, 'endless');
  await page.waitForFunction(() => document.querySelectorAll('.turn.last .markdown p').length > 2);
  assert.equal(await page.getAttribute('.turn.last', 'aria-busy'), 'true');
  await page.keyboard.press('Escape');
  await ended(page);
  await ask(page, 'Give me a tour');
  for (const part of ['h3', 'table', '.katex', 'pre .hl-keyword', 'ol ul', 'blockquote', 'li.task', 'a[href^="https://en.wiki"]']) {
    await page.waitForSelector(`.turn.last .markdown ${part}`);
  }
  const stats = await page.innerText('.turn.last .stats');
  assert.match(stats, /42\s*tokens\/s/);
  assert.match(stats, /first after/);
  assert.match(stats, /%\s*of context/);
  const { messages, stream_options } = mock.requests.at(-1);
  assert.equal(stream_options.include_usage, true);
  assert.deepEqual(messages.map((each) => each.role), ['user', 'assistant', 'user']);
});

onPage('stop keeps what arrived', async (page) => {
  await send(page, 'endless');
  await page.waitForFunction(() => (document.querySelector('.turn.last .markdown')?.textContent ?? '').length > 40);
  await page.click('.send[aria-label="Stop the answer"]');
  await ended(page);
  assert.match(await page.innerText('.turn.last'), /Stopped\./);
  assert.match(await answerText(page), /The fox/);
});

onPage('edit, regenerate and branches', async (page) => {
  await ask(page, 'first');
  await page.hover('.turn.last');
  await page.click('.turn.last .regenerate');
  await page.waitForFunction(() => document.querySelector('.turn.last .siblings')?.textContent === '2/2');
  await ended(page);
  await page.hover('.turn.user');
  await page.click('.turn.user .edit');
  await page.fill('.editor textarea', 'second');
  await page.press('.editor textarea', 'Enter');
  await page.waitForFunction(() => document.querySelector('.turn.last .markdown')?.textContent === 'You said: second');
  await ended(page);
  assert.equal(await page.innerText('.turn.user .siblings'), '2/2');
  await page.click('.turn.user [aria-label="Earlier version"]');
  assert.equal(await answerText(page), 'You said: first');
  assert.equal(await page.innerText('.turn.last .siblings'), '2/2');
  await page.click('.turn.last [aria-label="More for this answer"]');
  await page.click('text=Branch to a new chat');
  await page.waitForSelector('.conversations .current >> text=first (branch)');
  assert.equal(await page.locator('.turn .siblings').count(), 0);
});

onPage('an answer can be edited, and the model sees the new text', async (page) => {
  await ask(page, 'hello');
  await page.click('.turn.last [aria-label="More for this answer"]');
  await page.keyboard.press('Enter');
  await page.fill('.editor textarea', 'Something else.');
  await page.press('.editor textarea', 'Enter');
  await page.waitForFunction(() => document.querySelector('.turn.last .markdown')?.textContent === 'Something else.');
  await ask(page, 'go on');
  assert.equal(mock.requests.at(-1).messages[1].content, 'Something else.');
});

onPage('thoughts fold, with their duration', async (page) => {
  await send(page, 'think');
  await page.waitForSelector('.thinking.now .thoughts p');
  await ended(page);
  const button = page.locator('.thinking > button');
  assert.match(await button.innerText(), /Thought for/);
  assert.equal(await button.getAttribute('aria-expanded'), 'false');
  await button.click();
  await page.waitForSelector('.thoughts >> text=First I look at the question');
  assert.match(await answerText(page), /42/);
});

onPage('code and answers are copied as they were written', async (page) => {
  await ask(page, 'tour');
  await page.click('.turn.last .copy-code');
  await page.waitForSelector('.copy-code >> text=Copied');
  const code = await page.evaluate(() => navigator.clipboard.readText());
  assert.match(code, /^\/\/\/ Tokens per second[\s\S]*per token\n\}$/);
  await page.click('.turn.last [aria-label="Copy answer"]');
  await page.waitForSelector('.turn.last [aria-label="Copied"]');
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^## A small tour/);
});

onPage('another model answers', async (page) => {
  await page.click('#model-picker');
  await page.waitForSelector('[role=menuitemradio] >> text=fits on cpu');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  assert.match(await page.innerText('#model-picker'), /bear-8b/);
  await ask(page, 'hello');
  assert.equal(mock.requests.at(-1).model, 'bear-8b');
});

onPage('models are loaded, unloaded and pulled with progress', async (page) => {
  mock.pullFailures = 1;
  await page.click('#model-picker');
  await page.click('text=Manage and get models');
  await page.click('[data-model="bear-8b"] >> text=Load');
  await page.waitForSelector('[data-model="bear-8b"] >> text=in memory');
  await page.click('[data-model="bear-8b"] >> text=Unload');
  await page.waitForSelector('[data-model="bear-8b"] >> text=Load');
  assert.match(await page.innerText('[data-offer="whale-120b"]'), /needs 71 GB/);
  await page.click('[data-offer="owl-4b"] >> text=Pull');
  await page.waitForSelector('[data-pull="owl-4b"] progress[value]');
  await page.waitForSelector('[data-pull="owl-4b"] >> text=/ of 2\\.6 GB · 520 MB\\/s · .* left/');
  await page.waitForSelector('[data-pull="owl-4b"] >> text=the disk is full');
  assert.equal(await page.innerText('[data-offer="owl-4b"] button'), 'Go on');
  await page.click('[data-pull="owl-4b"] button >> text=Go on');
  await page.waitForSelector('.notice >> text=owl-4b is here.');
  await page.waitForSelector('[data-model="owl-4b"]');
  await page.click('.dialog >> text=Close').catch(() => page.keyboard.press('Escape'));
});

onPage('a reload keeps the conversation, also one that was streaming', async (page) => {
  await ask(page, 'remember me');
  await send(page, 'endless');
  await page.waitForFunction(() => (document.querySelector('.turn.last .markdown')?.textContent ?? '').length > 120);
  await page.waitForTimeout(900);
  await page.reload();
  await page.waitForSelector('.turn.last .markdown p');
  assert.match(await page.innerText('.transcript'), /You said: remember me/);
  assert.match(await answerText(page), /The fox/);
  assert.match(await page.innerText('.turn.last'), /Stopped\./);
});

onPage('conversations: search, rename, delete and undo, export and import', async (page) => {
  await ask(page, 'about apples');
  await page.click('text=New chat');
  await ask(page, 'about pears');
  await page.fill('#search', 'said: about APP');
  await page.waitForFunction(() => document.querySelectorAll('.conversations li').length === 1);
  await page.fill('#search', '');
  await page.waitForFunction(() => document.querySelectorAll('.conversations li').length === 2);
  await page.click('[aria-label="Options for about pears"]');
  await page.click('[role=menuitem] >> text=Rename');
  await page.fill('.rename', 'Fruit');
  await page.press('.rename', 'Enter');
  await page.waitForSelector('.conversations >> text=Fruit');
  const download = page.waitForEvent('download');
  await page.click('[aria-label="Export all conversations"]');
  const file = join(tmpdir(), `zinc-export-${process.pid}.json`);
  await (await download).saveAs(file);
  const exported = JSON.parse(await readFile(file, 'utf8'));
  assert.deepEqual(exported.conversations.map((each) => each.title).sort(), ['Fruit', 'about apples']);
  await page.click('[aria-label="Options for Fruit"]');
  await page.click('[role=menuitem] >> text=Delete');
  await page.waitForFunction(() => document.querySelectorAll('.conversations li').length === 1);
  await page.click('.notice >> text=Undo');
  await page.waitForFunction(() => document.querySelectorAll('.conversations li').length === 2);
  await page.setInputFiles('[aria-label="Conversations to import"]', file);
  await page.waitForFunction(() => document.querySelectorAll('.conversations li').length === 4);
  await writeFile(file, '{"format": 1}');
  await page.setInputFiles('[aria-label="Conversations to import"]', file);
  await page.waitForSelector('.notice >> text=no zinc conversations');
});

onPage('settings belong to the conversation and are sent', async (page) => {
  await page.keyboard.press('Control+,');
  await page.fill('#setting-system-prompt', 'Be brief.');
  await page.fill('#setting-temperature', '0.3');
  await page.fill('#setting-top_p', '7');
  await page.waitForSelector('.settings >> text=A number from 0 to 1.');
  await page.fill('#setting-top_p', '0.9');
  await page.fill('#setting-stop-at', 'END\n\n###');
  await page.click('.segmented >> text="Off"');
  await ask(page, 'hello');
  const request = mock.requests.at(-1);
  assert.deepEqual(request.messages[0], { role: 'system', content: 'Be brief.' });
  assert.equal(request.temperature, 0.3);
  assert.equal(request.top_p, 0.9);
  assert.deepEqual(request.stop, ['END', '###']);
  assert.deepEqual(request.chat_template_kwargs, { enable_thinking: false });
  assert.equal(request.top_k, undefined);
  await page.click('text=New chat');
  await ask(page, 'hello');
  assert.equal(mock.requests.at(-1).temperature, undefined);
});

onPage('JSON, and tool calls with their results', async (page) => {
  await page.click('.chip >> text=JSON');
  await ask(page, 'a person');
  await page.waitForSelector('.turn.last .code .hl-attr');
  assert.deepEqual(mock.requests.at(-1).response_format, { type: 'json_object' });
  await page.click('.chip >> text=JSON');
  await page.click('[aria-label^=Settings]');
  await page.fill('#setting-tools-as-json', '[{"type": "function"');
  await page.waitForSelector('.settings >> text=This is no JSON');
  await page.fill('#setting-tools-as-json', '[{"type": "function", "function": {"name": "weather"}}]');
  await send(page, 'the weather');
  await page.waitForSelector('.tool-call >> text=Oslo');
  await page.fill('[aria-label="Result of weather"]', '12 degrees');
  await page.click('text=Give the result');
  await page.waitForSelector('.turn.last >> text=The tool said: 12 degrees');
  const { messages } = mock.requests.at(-1);
  assert.deepEqual(messages.at(-1), { role: 'tool', tool_call_id: 'call_1', content: '12 degrees' });
  assert.equal(messages.at(-2).tool_calls[0].function.name, 'weather');
});

onPage('text files are attached, others are refused', async (page) => {
  await page.setInputFiles('[aria-label="Files to attach"]', [
    { name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('a ``` b\n') },
    { name: 'photo.png', mimeType: 'image/png', buffer: Buffer.from([137, 80, 0, 1]) },
  ]);
  await page.waitForSelector('.notice >> text=photo.png is no text file');
  await page.evaluate(() => {
    const data = new DataTransfer();
    data.items.add(new File(['dropped words'], 'dropped.md', { type: 'text/markdown' }));
    document.dispatchEvent(new DragEvent('dragover', { dataTransfer: data, bubbles: true, cancelable: true }));
    document.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
  });
  await page.waitForSelector('.attached >> text=dropped.md');
  await ask(page, 'read this');
  const { content } = mock.requests.at(-1).messages[0];
  assert.equal(content, 'notes.txt\n````\na ``` b\n````\n\ndropped.md\n```\ndropped words\n```\n\nread this');
  await page.click('.attachments >> text=notes.txt');
});

onPage('the keyboard does everything', async (page) => {
  await page.keyboard.press('Control+/');
  await page.waitForSelector('dialog >> text=New chat');
  await page.keyboard.press('Escape');
  await page.waitForSelector('dialog', { state: 'detached' });
  await page.focus('#composer');
  await page.keyboard.type('one');
  await page.keyboard.press('Shift+Enter');
  await page.keyboard.type('two');
  await page.keyboard.press('Enter');
  await page.waitForSelector('.turn.assistant.last[aria-busy=false]');
  assert.equal(mock.requests.at(-1).messages[0].content, 'one\ntwo');
  await page.keyboard.press('ArrowUp');
  await page.waitForSelector('.editor textarea');
  await page.keyboard.press('Escape');
  await page.keyboard.press('Control+Shift+Enter');
  await page.waitForFunction(() => document.querySelector('.turn.last .siblings')?.textContent === '2/2');
  await page.keyboard.press('Control+k');
  await page.waitForFunction(() => document.activeElement?.id === 'search');
  await page.keyboard.press('Control+Shift+S');
  await page.waitForSelector('.sidebar', { state: 'detached' });
  await page.keyboard.press('Control+Shift+O');
  await page.waitForSelector('.welcome');
  await page.waitForFunction(() => document.activeElement?.id === 'composer');
});

onPage('a phone: panels cover, nothing is wider than the page', async (page) => {
  await ask(page, 'tour');
  await page.click('[aria-label="Show conversations"]');
  await page.waitForSelector('.sidebar');
  await page.keyboard.press('Escape');
  await page.waitForSelector('.sidebar', { state: 'detached' });
  await page.click('[aria-label=Settings]');
  await page.mouse.click(5, 400);
  await page.waitForSelector('.settings', { state: 'detached' });
  const width = await page.evaluate(() => Math.max(document.documentElement.scrollWidth, document.querySelector('.scroller').scrollWidth));
  assert.ok(width <= 375, `${width} px`);
}, { viewport: { width: 375, height: 700 }, hasTouch: true });

onPage('the end stays in sight until the reader scrolls up', async (page) => {
  await send(page, 'endless');
  const distance = () => page.evaluate(() => {
    const scroller = document.querySelector('.scroller');
    return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
  });
  await page.waitForFunction(() => document.querySelector('.scroller').scrollTop > 200);
  assert.ok(await distance() < 60);
  await page.hover('.transcript');
  await page.mouse.wheel(0, -300);
  await page.waitForSelector('[aria-label="To the end"]');
  await page.waitForTimeout(400);
  assert.ok(await distance() > 200);
  await page.click('[aria-label="To the end"]');
  await page.waitForFunction(() => {
    const scroller = document.querySelector('.scroller');
    return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
  });
  await page.keyboard.press('Escape');
});
