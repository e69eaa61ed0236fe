// A server that imitates the API, for tests of the page: it answers as the last message asks.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';
import { answers } from './answers.mjs';

const types = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.woff2': 'font/woff2',
  '.txt': 'text/plain; charset=utf-8',
};

/** The policy that the real server sends; a test of the real server compares the two. */
export const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "font-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join('; ');

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A server that can die and come back at the same port. */
export class Mock {
  key = null;
  port = 0;
  requests = [];
  pulled = new Set();
  statuses = new Map([['fox-1b', 'loaded'], ['bear-8b', 'unloaded']]);
  pullFailures = 0;
  busyTimes = 0;

  constructor(dist) {
    this.dist = dist;
  }

  get address() {
    return `http://127.0.0.1:${this.port}/`;
  }

  start() {
    this.server = createServer((request, response) => {
      this.handle(request, response).catch((error) => response.destroy(error));
    });
    return new Promise((resolve) => {
      this.server.listen(this.port, '127.0.0.1', () => {
        this.port = this.server.address().port;
        resolve();
      });
    });
  }

  stop() {
    this.server.closeAllConnections();
    return new Promise((resolve) => this.server.close(resolve));
  }

  async handle(request, response) {
    const path = new URL(request.url, 'http://x').pathname;
    const body = await readBody(request);
    if (request.method === 'GET' && (path === '/' || /^\/(assets\/|icon\.svg|licenses\.txt)/.test(path))) {
      return this.file(path, response);
    }
    if (path === '/health') return json(response, 200, { status: 'ok' });
    if (this.key && request.headers.authorization !== `Bearer ${this.key}`) {
      const code = request.headers.authorization ? 'invalid_api_key' : 'missing_api_key';
      return failure(response, 401, code, 'this server needs an API key');
    }
    const route = this.routes[`${request.method} ${path}`];
    if (!route) return failure(response, 404, 'not_found', `no route ${path}`);
    return route.call(this, body, response);
  }

  routes = {
    'GET /v1/models': (_, response) => json(response, 200, { object: 'list', data: this.models() }),
    'GET /v1/catalog': (_, response) => json(response, 200, { data: this.catalog() }),
    'POST /v1/models/load': (body, response) => this.setStatus(body.model, 'loaded', response),
    'POST /v1/models/unload': (body, response) => this.setStatus(body.model, 'unloaded', response),
    'POST /v1/models/pull': (body, response) => this.pull(body, response),
    'POST /v1/chat/completions': (body, response) => this.chat(body, response),
  };

  models() {
    return [...this.statuses].map(([id, status]) => ({
      id,
      object: 'model',
      created: 0,
      owned_by: 'zinc',
      status: { value: status },
      meta: { n_ctx: 8192, n_params: id.includes('8b') ? 8e9 : 1e9, size: id.includes('8b') ? 4.9e9 : 7e8 },
      fit: { fits: true, text: 'fits on cpu at 8,192 tokens' },
    }));
  }

  catalog() {
    const entry = (id, name, size, fits) => ({
      id, name, size, family: name.split(' ')[0], parameters: id.split('-').at(-1).toUpperCase(), quant: 'Q4_K_M',
      license: 'Apache-2.0', context: 40960, thinking: true, tools: true, installed: this.statuses.has(id),
      fit: { fits, text: fits ? 'fits on cpu at 8,192 tokens' : 'needs 71 GB, 24 GB are there; owl-4b fits' },
    });
    return [entry('owl-4b', 'Owl 4B', 2.6e9, true), entry('whale-120b', 'Whale 120B', 6.8e10, false)];
  }

  async setStatus(id, status, response) {
    if (!this.statuses.has(id)) return failure(response, 404, 'model_not_found', `there is no model ${id}`);
    await sleep(150);
    this.statuses.set(id, status);
    json(response, 200, { id, status: { value: status } });
  }

  async pull({ model }, response) {
    const total = 2_600_000_000;
    const half = this.pulled.has(model);
    this.pulled.add(model);
    sse(response);
    send(response, { phase: 'resolve', done: 0 }, 'progress');
    for (let step = half ? 5 : 0; step <= 10; step++) {
      if (step === 5 && this.pullFailures-- > 0) {
        return send(response, { error: { message: 'the disk is full', code: 'disk_full' } }, 'error', true);
      }
      send(response, { phase: 'download', done: (total * step) / 10, total, rate: 5.2e8 }, 'progress');
      await sleep(150);
    }
    send(response, { phase: 'verify', done: total, total }, 'progress');
    this.statuses.set(model, 'unloaded');
    send(response, { id: model }, 'done', true);
  }

  async chat(body, response) {
    this.requests.push(body);
    const last = body.messages.at(-1);
    const answer = answers(String(last?.content ?? ''), body, last);
    if (answer.busy && this.busyTimes++ === 0) return failure(response, 429, 'server_busy', 'too many requests', { 'retry-after': '1' });
    if (answer.failure) return failure(response, ...answer.failure);
    sse(response);
    let gone = false;
    response.on('close', () => (gone = true));
    const started = performance.now();
    let n = 0;
    for (const delta of answer.deltas) {
      if (gone) return;
      if (delta === 'cut') {
        await sleep(100);
        return response.destroy();
      }
      send(response, { choices: [{ index: 0, delta, finish_reason: null }] });
      n++;
      // Ahead of the clock is waited for, behind it is caught up, so the rate holds.
      const ahead = started + (n * 1000) / answer.rate - performance.now();
      if (ahead > 1) await sleep(ahead);
    }
    send(response, { choices: [{ index: 0, delta: {}, finish_reason: answer.finish ?? 'stop' }] });
    const usage = { prompt_tokens: 1200, completion_tokens: n, total_tokens: 1200 + n, prompt_tokens_details: { cached_tokens: 1100 } };
    send(response, { choices: [], usage, timings: { prompt_ms: 31, predicted_per_second: 42.4 } });
    response.end('data: [DONE]\n\n');
  }

  async file(path, response) {
    const name = path === '/' ? 'index.html' : normalize(path).replace(/^\/+/, '');
    try {
      const bytes = await readFile(join(this.dist, name));
      response.writeHead(200, { 'content-type': types[extname(name)], 'content-security-policy': policy, 'x-content-type-options': 'nosniff' });
      response.end(bytes);
    } catch {
      failure(response, 404, 'not_found', name);
    }
  }
}

async function readBody(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  const text = Buffer.concat(parts).toString();
  return text ? JSON.parse(text) : null;
}

function json(response, status, value, headers = {}) {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(value));
}

function failure(response, status, code, message, headers = {}) {
  json(response, status, { error: { message, type: 'error', param: null, code } }, headers);
}

function sse(response) {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  response.write(': hello\n\n');
}

function send(response, value, event, last = false) {
  const text = `${event ? `event: ${event}\n` : ''}data: ${JSON.stringify(value)}\n\n`;
  if (last) response.end(text);
  else response.write(text);
}
