// Parts of the page that need no browser.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import * as esbuild from 'esbuild';
import { recorded, rich } from './answers.mjs';
import { root } from './helpers.mjs';

async function load(path) {
  const built = await esbuild.build({ entryPoints: [join(root, 'src', path)], bundle: true, format: 'esm', write: false, absWorkingDir: root });
  return import(`data:text/javascript;base64,${Buffer.from(built.outputFiles[0].text).toString('base64')}`);
}

test('events are the same however their bytes are cut', async () => {
  const { EventParser } = await load('sse.ts');
  const text = ': beat\r\n\r\nevent: progress\r\ndata: {"a":1}\r\n\r\ndata: one\ndata: two\n\ndata:x\n\n\ndata: [DONE]\n\n';
  const wanted = [
    { event: 'progress', data: '{"a":1}' },
    { event: 'message', data: 'one\ntwo' },
    { event: 'message', data: 'x' },
    { event: 'message', data: '[DONE]' },
  ];
  for (let size = 1; size <= text.length; size++) {
    const parser = new EventParser();
    const events = [];
    for (let at = 0; at < text.length; at += size) events.push(...parser.push(text.slice(at, at + size)));
    assert.deepEqual(events, wanted, `in pieces of ${size}`);
  }
});

test('paths, versions and cycles of the message tree', async () => {
  const tree = await load('tree.ts');
  const message = (id, parent, created) => [id, { id, parent, created }];
  const map = new Map([message('a', null, 1), message('b', 'a', 2), message('c', 'a', 3), message('d', 'b', 4), message('x', 'y', 1), message('y', 'x', 2)]);
  const ids = (list) => list.map((each) => each.id).join('');
  assert.equal(ids(tree.pathTo(map, 'd')), 'abd');
  assert.equal(ids(tree.childrenByParent(map).get('a')), 'bc');
  assert.equal(tree.newestLeaf(map, 'b'), 'd');
  assert.equal(tree.newestLeaf(map, 'a'), 'c');
  assert.equal(ids(tree.pathTo(map, 'x')), 'yx');
  assert.deepEqual(tree.subtree(map, 'a'), ['a', 'b', 'c', 'd']);
});

test('what is exported is imported with new ids, and nothing else is believed', async () => {
  const { exportText, importText } = await load('export.ts');
  const { defaultSettings } = await load('settings.ts');
  const conversation = { id: 'k', title: 'T', named: true, created: 1, updated: 2, leaf: 'b', model: 'm', settings: { ...defaultSettings(), temperature: 0.5 } };
  const messages = [
    { id: 'a', conversation: 'k', parent: null, role: 'user', text: 'hi', created: 1, state: 'done', attachments: [{ name: 'n', text: 't' }] },
    { id: 'b', conversation: 'k', parent: 'a', role: 'assistant', text: 'ho', created: 2, state: 'stopped', thinking: 'hm', stats: { answerTokens: 3 } },
  ];
  const [back] = importText(exportText([{ conversation, messages }]));
  assert.notEqual(back.conversation.id, 'k');
  assert.equal(back.conversation.leaf, back.messages[1].id);
  assert.equal(back.messages[1].parent, back.messages[0].id);
  assert.equal(back.messages[1].thinking, 'hm');
  assert.equal(back.conversation.settings.temperature, 0.5);
  assert.throws(() => importText('no json'), /no JSON/);
  assert.throws(() => importText('{"format":"other"}'), /no zinc conversations/);
  const broken = JSON.stringify({ format: 'zinc-chat', version: 1, conversations: [{ messages: [{ id: 'a', role: 'system', text: 'x' }] }] });
  assert.throws(() => importText(broken), /broken/);
});

test('requests carry what was set and nothing more', async () => {
  const { defaultSettings, requestFields, changedCount } = await load('settings.ts');
  assert.deepEqual(requestFields(defaultSettings()), {});
  const settings = { ...defaultSettings(), temperature: 0, top_k: 3, stop: ['x'], thinking: 'off', effort: 'low', output: 'schema', schema: '{"type":"object"}', tools: '[]' };
  assert.deepEqual(requestFields(settings), {
    temperature: 0, top_k: 3, stop: ['x'], chat_template_kwargs: { enable_thinking: false }, reasoning_effort: 'low', tools: [],
    response_format: { type: 'json_schema', json_schema: { name: 'answer', schema: { type: 'object' } } },
  });
  assert.equal(changedCount(settings), 7);
  assert.throws(() => requestFields({ ...settings, schema: '{' }), /schema/);
});

test('blocks that are settled while a text grows stay as they are', async () => {
  const { parse, settledEnd } = await load('markdown/parse.ts');
  const text = `${rich}\n\n- a\n- b\n\n\`\`\`\ncode\n\n# no heading\n\`\`\`\nPara\n#hashtag goes on\n\n\\[\nx\n\ny\n\\]\n\nend`;
  const whole = shape(parse(text, false));
  let settled = 0;
  let blocks = [];
  for (let n = 1; n <= text.length; n++) {
    const rest = text.slice(settled, n);
    const end = settledEnd(rest, parse(rest, true));
    if (end > 0) {
      blocks = [...blocks, ...shape(parse(rest.slice(0, end), false))];
      settled += end;
    }
  }
  blocks = [...blocks, ...shape(parse(text.slice(settled), false))];
  assert.deepEqual(blocks, whole);
});

function shape(tokens) {
  return tokens.map((token) => [token.type, token.tag, token.level, token.content]);
}

test('half a word of emphasis does not flicker', async () => {
  const { closeOpenMarks } = await load('markdown/parse.ts');
  const cases = [
    ['a **bo', 'a **bo**'], ['a **', 'a'], ['a `co', 'a `co`'], ['a `', 'a '], ['see [the docs](https://exa', 'see the docs'],
    ['done **x**', 'done **x**'], ['first **open\n\nsecond', 'first **open\n\nsecond'],
  ];
  for (const [open, closed] of cases) assert.equal(closeOpenMarks(open), closed, open);
});

test('mathematics, and what is none', async () => {
  const { parse } = await load('markdown/parse.ts');
  const kinds = (text) => parse(text, false).flatMap((token) => [token, ...(token.children ?? [])]).filter((token) => token.type.startsWith('math')).map((token) => token.content);
  assert.deepEqual(kinds('It is $x^2$ and \\(y\\).'), ['x^2', 'y']);
  assert.deepEqual(kinds('It costs $5 or $6.'), []);
  assert.deepEqual(kinds('$$\na\n\nb\n$$'), ['a\n\nb']);
  assert.deepEqual(kinds('\\[\nz\n\\]'), ['z']);
  assert.deepEqual(kinds('`$x$` and \\$y\\$'), []);
  assert.deepEqual(kinds('$$ never closed'), []);
});

test('no text takes the parser long', async () => {
  const { parse } = await load('markdown/parse.ts');
  const hard = ['[', '*a ', '**a **b', '`a``', '$a\\', '> ', '- ', '| a ', '![', '<a', '\\[', '&#', '_*', '[a](', '~~'];
  for (const part of hard) parse(part.repeat(Math.ceil(16_000 / part.length)), false);
  assert.ok(parse(recorded(5000), false).length > 0);
});
