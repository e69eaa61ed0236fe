/** The server as the page sees it: requests, and errors in words for people. */

import { signal } from '@preact/signals';
import { eventsOf, type ServerEvent } from './sse';
import type { CatalogEntry, Fit, Model, ModelStatus, Problem } from './types';

/** A request that got no good answer. */
export class ApiError extends Error {
  constructor(readonly problem: Problem, readonly retryAfterMs?: number) {
    super(problem.title);
  }
}

const STORED_KEY = 'zinc.key';

/** The key in use; in memory unless the user asked to keep it. */
export const apiKey = signal<string>(readStoredKey());
/** Whether the server refused a request for want of a key, and of which sort. */
export const keyWanted = signal<'missing' | 'wrong' | null>(null);
/** Whether the server answers. */
export const online = signal(true);

function readStoredKey(): string {
  try {
    return localStorage.getItem(STORED_KEY) ?? '';
  } catch {
    return '';
  }
}

/** Uses a key from now on, and keeps it in this browser if `keep` says so. */
export function setKey(key: string, keep: boolean): void {
  apiKey.value = key;
  keyWanted.value = null;
  try {
    if (keep && key) localStorage.setItem(STORED_KEY, key);
    else localStorage.removeItem(STORED_KEY);
  } catch {
    // Storage is switched off: the key lives as long as the page.
  }
}

interface Call {
  method?: 'GET' | 'POST';
  body?: unknown;
  signal?: AbortSignal | undefined;
}

/** One request; paths are relative, so that the page works below any prefix. */
async function call(path: string, { method = 'GET', body, signal }: Call = {}): Promise<Response> {
  const headers: Record<string, string> = {};
  if (apiKey.value) headers.authorization = `Bearer ${apiKey.value}`;
  if (body !== undefined) headers['content-type'] = 'application/json';
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? null : JSON.stringify(body),
      signal: signal ?? null,
      cache: 'no-store',
      credentials: 'same-origin',
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    online.value = false;
    throw new ApiError(offline);
  }
  online.value = true;
  if (!response.ok) throw await errorOf(response);
  return response;
}

const offline: Problem = {
  kind: 'offline',
  title: 'The server does not answer.',
  next: 'Start it again with “zinc serve”. This page reconnects by itself.',
};

/** The problem of an answer that broke off. */
export const cutOff: Problem = {
  kind: 'cut',
  title: 'The connection broke in the middle of the answer.',
  next: 'What arrived is kept. Try again for a whole answer.',
};

async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => '');
  const seconds = Number(response.headers.get('retry-after'));
  const retryAfterMs = seconds > 0 ? Math.min(seconds, 60) * 1000 : undefined;
  const { message, code } = envelopeOf(text);
  const problem = problemOf(response.status, code, message);
  if (problem.kind === 'key') keyWanted.value = apiKey.value ? 'wrong' : 'missing';
  return new ApiError(problem, retryAfterMs);
}

/** Message and code of OpenAI's error envelope, or the text as it is. */
function envelopeOf(text: string): { message: string; code: string } {
  try {
    const error = (JSON.parse(text) as { error?: { message?: unknown; code?: unknown } }).error;
    return { message: String(error?.message ?? text), code: String(error?.code ?? '') };
  } catch {
    return { message: text.slice(0, 500), code: '' };
  }
}

/** What a status and a code mean for the person before the page. */
export function problemOf(status: number, code: string, message: string): Problem {
  const detail = message.trim() || undefined;
  if (status === 401 || status === 403) {
    return { kind: 'key', title: 'This server needs an API key.', next: 'Enter the key, then try again.', detail };
  }
  if (code === 'context_length_exceeded') {
    const next = 'Start a new chat, shorten your message, or load the model with a longer context.';
    return { kind: 'context', title: 'This conversation is longer than the model’s context.', next, detail };
  }
  if (status === 404) {
    return { kind: 'model', title: 'The server does not know this.', next: 'Choose another model, or get it first.', detail };
  }
  if (status === 413) {
    return { kind: 'request', title: 'The message is too large for the server.', next: 'Shorten it or attach less.', detail };
  }
  if (status === 429) {
    return { kind: 'busy', title: 'The server is busy.', next: 'Try again in a moment.', detail };
  }
  if (status === 503) {
    return { kind: 'loading', title: 'The model is not ready yet.', next: 'It may still be loading. Try again in a moment.', detail };
  }
  if (status >= 500) {
    return { kind: 'server', title: 'The server failed at this request.', next: 'Try again; its log says more.', detail };
  }
  return { kind: 'request', title: 'The server refused this request.', next: 'Change what it names below, then try again.', detail };
}

/** Whether the server answers, whatever it says. */
export async function isAlive(): Promise<boolean> {
  try {
    const response = await fetch('health', { cache: 'no-store' });
    online.value = true;
    return response.ok;
  } catch {
    online.value = false;
    return false;
  }
}

type Json = Record<string, unknown>;

function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function num(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
}

function str(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

/** The models that the server can answer with. */
export async function models(): Promise<Model[]> {
  const body: unknown = await (await call('v1/models')).json();
  const data = isJson(body) && Array.isArray(body.data) ? body.data : [];
  return data.filter(isJson).filter((entry) => typeof entry.id === 'string').map(readModel);
}

function readModel(entry: Json): Model {
  const meta = isJson(entry.meta) ? entry.meta : {};
  const status = isJson(entry.status) ? entry.status.value : entry.status;
  return {
    id: entry.id as string,
    status: statuses[String(status)] ?? 'loaded',
    context: num(meta.n_ctx) ?? num(entry.max_model_len) ?? num(meta.n_ctx_train),
    bytes: num(meta.size),
    parameters: num(meta.n_params),
    fit: readFit(entry.fit),
    error: isJson(entry.status) ? str(entry.status.message) : undefined,
  };
}

/** The server's words for where a model stands. */
const statuses: Readonly<Record<string, ModelStatus>> = {
  loaded: 'loaded', loading: 'loading', unloading: 'loading', unloaded: 'unloaded', failed: 'failed', lost: 'failed',
};

function readFit(value: unknown): Fit | undefined {
  if (!isJson(value) || typeof value.fits !== 'boolean') return undefined;
  return { fits: value.fits, text: str(value.text) ?? (value.fits ? 'fits' : 'does not fit') };
}

/** Loads a model, and waits until it is there. */
export async function loadModel(id: string): Promise<void> {
  await (await call('v1/models/load', { method: 'POST', body: { model: id } })).text();
}

/** Takes a model out of memory. */
export async function unloadModel(id: string): Promise<void> {
  await (await call('v1/models/unload', { method: 'POST', body: { model: id } })).text();
}

/** The models that can be had, or `null` where the server has no catalog. */
export async function catalog(): Promise<CatalogEntry[] | null> {
  try {
    const body: unknown = await (await call('v1/catalog')).json();
    const data = isJson(body) && Array.isArray(body.data) ? body.data : [];
    return data.filter(isJson).filter((entry) => typeof entry.id === 'string').map(readCatalogEntry);
  } catch (error) {
    if (error instanceof ApiError && error.problem.kind === 'model') return null;
    throw error;
  }
}

function readCatalogEntry(entry: Json): CatalogEntry {
  const id = entry.id as string;
  return {
    id,
    name: str(entry.name) ?? id,
    family: str(entry.family),
    parameters: str(entry.parameters),
    quant: str(entry.quant),
    bytes: num(entry.size),
    licence: str(entry.license),
    context: num(entry.context),
    thinking: entry.thinking === true,
    tools: entry.tools === true,
    installed: entry.installed === true,
    fit: readFit(entry.fit),
  };
}

/** How far a download is. Bytes, and bytes per second. */
export interface PullProgress {
  phase: string;
  done: number;
  total?: number | undefined;
  rate?: number | undefined;
}

/**
 * Downloads a model: `POST v1/models/pull {model}` answers with events `progress`
 * (`{phase, done, total, rate}`), then one `done` (`{id}`) or one `error` (OpenAI's envelope).
 * Ending the request pauses the download; the next one goes on from there.
 */
export async function* pullModel(model: string, signal: AbortSignal): AsyncGenerator<PullProgress, string> {
  const response = await call('v1/models/pull', { method: 'POST', body: { model }, signal });
  for await (const { event, data } of streamed(response, signal)) {
    const value = parse(data);
    if (event === 'error' || isJson(value.error)) {
      const { message, code } = envelopeOf(data);
      const next = 'Nothing is lost: pull again to go on where it stopped.';
      throw new ApiError({ kind: 'server', title: 'The download stopped.', next, detail: message || code });
    }
    if (event === 'done') return str(value.id) ?? model;
    const done = num(value.done) ?? 0;
    yield { phase: str(value.phase) ?? 'download', done, total: num(value.total), rate: num(value.rate) };
  }
  throw new ApiError({ ...cutOff, title: 'The connection broke in the middle of the download.', next: 'Pull again to go on where it stopped.' });
}

function parse(data: string): Json {
  try {
    const value: unknown = JSON.parse(data);
    return isJson(value) ? value : {};
  } catch {
    return {};
  }
}

async function* streamed(response: Response, signal: AbortSignal): AsyncGenerator<ServerEvent> {
  if (!response.body) throw new ApiError(cutOff);
  try {
    yield* eventsOf(response.body);
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError(cutOff);
  }
}

/** A piece of a tool call, as it streams. */
export interface ToolCallDelta {
  index: number;
  id?: string | undefined;
  name?: string | undefined;
  arguments?: string | undefined;
}

/** A piece of an answer. */
export interface Delta {
  text: string;
  thinking: string;
  toolCalls: ToolCallDelta[];
  finish?: string | undefined;
  usage?: { prompt?: number | undefined; cached?: number | undefined; answer?: number | undefined } | undefined;
  /** Tokens per second as the server measured it. */
  rate?: number | undefined;
  /** Time to the first token as the server measured it, in milliseconds. */
  promptMs?: number | undefined;
}

/**
 * Streams an answer.
 *
 * @throws ApiError if the server refuses or the stream breaks off before its end.
 */
export async function* chat(body: unknown, signal: AbortSignal): AsyncGenerator<Delta> {
  const response = await call('v1/chat/completions', { method: 'POST', body, signal });
  let ended = false;
  for await (const { data } of streamed(response, signal)) {
    if (data === '[DONE]') {
      ended = true;
      break;
    }
    const chunk = parse(data);
    if (isJson(chunk.error)) {
      const { message, code } = envelopeOf(data);
      const status = num(chunk.error.status) ?? num(chunk.error.code) ?? 500;
      throw new ApiError(problemOf(status, code, message));
    }
    const delta = readDelta(chunk);
    ended ||= delta.finish !== undefined;
    yield delta;
  }
  if (!ended) throw new ApiError(cutOff);
}

function readDelta(chunk: Json): Delta {
  const choice = Array.isArray(chunk.choices) && isJson(chunk.choices[0]) ? chunk.choices[0] : {};
  const delta = isJson(choice.delta) ? choice.delta : {};
  const calls = Array.isArray(delta.tool_calls) ? delta.tool_calls.filter(isJson) : [];
  const read: Delta = {
    text: str(delta.content) ?? '',
    thinking: str(delta.reasoning_content) ?? str(delta.reasoning) ?? '',
    toolCalls: calls.map((part, i) => {
      const fn = isJson(part.function) ? part.function : {};
      return { index: num(part.index) ?? i, id: str(part.id), name: str(fn.name), arguments: str(fn.arguments) };
    }),
    finish: str(choice.finish_reason),
  };
  if (isJson(chunk.usage)) {
    const details = isJson(chunk.usage.prompt_tokens_details) ? chunk.usage.prompt_tokens_details : {};
    read.usage = {
      prompt: num(chunk.usage.prompt_tokens),
      cached: num(details.cached_tokens),
      answer: num(chunk.usage.completion_tokens),
    };
  }
  if (isJson(chunk.timings)) {
    read.rate = num(chunk.timings.predicted_per_second);
    read.promptMs = num(chunk.timings.prompt_ms);
  }
  return read;
}
