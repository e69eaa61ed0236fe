/** Asking and answering. */

import { signal } from '@preact/signals';
import { ApiError, chat, cutOff, isAlive, type Delta } from '../api';
import { requestFields } from '../settings';
import { pathTo } from '../tree';
import type { Attachment, Conversation, Message, Problem, Stats } from '../types';
import { modelFor, modelContext, modelsChanged } from './models';
import { say, toast } from './notices';
import { ensureConversation, messagesOf, path, put, removeBranch, store, tickOf, tree, update } from './store';

/** Answers that stream, by the id of their message. */
const runs = new Map<string, AbortController>();
/** The answers that stream, with their conversations. */
export const streaming = signal<ReadonlyMap<string, string>>(new Map());

const SAVE_EVERY_MS = 800;
/** How often a busy server is asked, and one that loads the model. */
const BUSY_TRIES = 4;
const LOADING_TRIES = 400;
const PAUSE_MAX_MS = 4000;
/** How long deltas are taken in one task. */
const SLICE_MS = 8;

/** Lets the browser draw and react. A timer would do, but those of pages out of sight are slowed down. */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

function newMessage(conversation: string, parent: string | null, role: Message['role'], text: string): Message {
  const created = Date.now();
  return { id: crypto.randomUUID(), conversation, parent, role, text, created, state: 'done' };
}

/** Asks something at the end of the path on the page. */
export function ask(text: string, attachments: Attachment[]): void {
  const conversation = ensureConversation(titleOf(text, attachments));
  askAfter(conversation, path.value.at(-1)?.id ?? null, text, attachments);
}

/** Asks something else in place of a message; the old one stays as another branch. */
export function askAgain(message: Message, text: string): void {
  const conversation = ensureConversation('');
  askAfter(conversation, message.parent, text, message.attachments ?? []);
}

function askAfter(conversation: Conversation, parent: string | null, text: string, attachments: Attachment[]): void {
  const message = newMessage(conversation.id, parent, 'user', text);
  if (attachments.length > 0) message.attachments = attachments;
  put(message);
  void answer(conversation.id, message.id);
}

/** Gives the result of a tool that the model called, and lets it go on. */
export function answerTools(message: Message, results: string[]): void {
  let parent = message.id;
  for (const [i, call] of (message.toolCalls ?? []).entries()) {
    const result = newMessage(message.conversation, parent, 'tool', results[i] ?? '');
    result.created += i;
    result.toolCallId = call.id;
    put(result);
    parent = result.id;
  }
  void answer(message.conversation, parent);
}

/** Makes another answer beside one that is there, or in place of one that has nothing in it. */
export async function regenerate(message: Message): Promise<void> {
  const isEmpty = !message.text && !message.thinking && !message.toolCalls?.length;
  if (isEmpty) await removeBranch(message);
  if (message.parent) await answer(message.conversation, message.parent);
}

/** Keeps a changed text of an answer as another branch. */
export function rewrite(message: Message, text: string): void {
  const changed = { ...newMessage(message.conversation, message.parent, 'assistant', text), model: message.model };
  put(changed);
  update(message.conversation, { leaf: changed.id, updated: Date.now() });
}

/** Ends an answer; what arrived stays. */
export function stop(id?: string): void {
  const wanted = id ?? path.value.at(-1)?.id;
  if (wanted) runs.get(wanted)?.abort();
}

/** A title out of the first message. */
function titleOf(text: string, attachments: Attachment[]): string {
  const line = text.trim().split('\n')[0]?.trim() || attachments[0]?.name || 'New chat';
  return line.length > 60 ? `${line.slice(0, 57).trimEnd()}…` : line;
}

/** Streams an answer to the message `parent`. */
async function answer(conversationId: string, parent: string): Promise<void> {
  const messages = await messagesOf(conversationId);
  const message = newMessage(conversationId, parent, 'assistant', '');
  message.state = 'open';
  message.isJson = modelFor(conversationId).settings.output !== 'text';
  const abort = new AbortController();
  runs.set(message.id, abort);
  streaming.value = new Map(streaming.value).set(message.id, conversationId);
  put(message);
  update(conversationId, { leaf: message.id, updated: Date.now() });
  say('Waiting for the answer.');
  try {
    const body = requestOf(conversationId, pathTo(messages, parent));
    message.model = body.model;
    await streamInto(message, body, abort.signal);
    message.state = 'done';
  } catch (error) {
    endWith(message, abort.signal.aborted ? null : error);
  }
  runs.delete(message.id);
  // An answer that has ended can be relied on, whatever becomes of the page.
  await store(message);
  streaming.value = new Map([...streaming.value].filter(([id]) => id !== message.id));
  put({ ...message });
  // The last block is said when it is drawn, which `put` brings about; the end comes after it.
  setTimeout(() => say(endingOf(message)));
  modelsChanged();
}

function endWith(message: Message, error: unknown): void {
  if (error === null) {
    message.state = 'stopped';
    return;
  }
  message.state = 'failed';
  message.problem = error instanceof ApiError ? error.problem : unexpected(error);
  // A broken stream may mean that the server is gone; then the page waits for it.
  if (message.problem.kind === 'cut') void isAlive();
}

function unexpected(error: unknown): Problem {
  const detail = error instanceof Error ? error.message : String(error);
  return { kind: 'request', title: 'This could not be sent.', next: 'Change what is named below, then try again.', detail };
}

function endingOf(message: Message): string {
  if (message.problem) return `${message.problem.title} ${message.problem.next}`;
  return message.state === 'stopped' ? 'Answer stopped.' : 'Answer finished.';
}

interface ChatRequest extends Record<string, unknown> {
  model: string;
}

function requestOf(conversationId: string, history: Message[]): ChatRequest {
  const { model, settings } = modelFor(conversationId);
  if (model === null) {
    throw new ApiError({ kind: 'model', title: 'There is no model to ask.', next: 'Get one under “Models”, then try again.' });
  }
  const messages = history.flatMap(wireMessage);
  if (settings.system.trim()) messages.unshift({ role: 'system', content: settings.system });
  return { model, messages, stream: true, stream_options: { include_usage: true }, ...requestFields(settings) };
}

/** A message as the API writes it; an answer without anything in it is left out. */
function wireMessage(message: Message): Record<string, unknown>[] {
  if (message.role === 'tool') {
    return [{ role: 'tool', tool_call_id: message.toolCallId ?? '', content: message.text }];
  }
  if (message.role === 'user') return [{ role: 'user', content: contentOf(message) }];
  if (message.toolCalls?.length) {
    const calls = message.toolCalls.map(({ id, name, arguments: args }) => ({
      id, type: 'function', function: { name, arguments: args },
    }));
    return [{ role: 'assistant', content: message.text || null, tool_calls: calls }];
  }
  return message.text ? [{ role: 'assistant', content: message.text }] : [];
}

/** The text of a message with its files, each in a fence that its text cannot close. */
export function contentOf(message: Message): string {
  const files = (message.attachments ?? []).map(({ name, text }) => {
    const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map((match) => match[0].length));
    const fence = '`'.repeat(longest + 1);
    return `${name}\n${fence}\n${text.replace(/\n$/, '')}\n${fence}`;
  });
  return [...files, message.text].filter(Boolean).join('\n\n');
}

async function streamInto(message: Message, body: ChatRequest, signal: AbortSignal): Promise<void> {
  const meter = new Meter(message);
  let savedAt = performance.now();
  let breathedAt = savedAt;
  for (let attempt = 1; ; attempt++) {
    meter.start();
    try {
      for await (const delta of chat(body, signal)) {
        take(message, delta);
        meter.take(delta);
        changed(message);
        const now = performance.now();
        if (now - savedAt > SAVE_EVERY_MS) {
          savedAt = now;
          void store(message);
        }
        // What has arrived is all read in one task otherwise, and no frame is drawn meanwhile.
        if (now - breathedAt > SLICE_MS) {
          await nextTask();
          breathedAt = performance.now();
        }
      }
      break;
    } catch (error) {
      meter.end();
      if (!(await waitForReady(error, attempt, message, signal))) throw error;
    }
  }
  meter.end();
  const isEmpty = !message.text && !message.thinking && !message.toolCalls?.length;
  if (isEmpty && message.stats?.finish === undefined) throw new ApiError(cutOff);
}

/** A server that is busy or still loads the model is asked again, as it wishes. */
async function waitForReady(error: unknown, attempt: number, message: Message, signal: AbortSignal): Promise<boolean> {
  const isWaiting = error instanceof ApiError && ['busy', 'loading'].includes(error.problem.kind);
  if (!isWaiting || message.text || message.thinking) return false;
  if (attempt >= (error.problem.kind === 'busy' ? BUSY_TRIES : LOADING_TRIES)) return false;
  if (attempt === 1) toast(`${error.problem.title} Trying again.`);
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, error.retryAfterMs ?? Math.min(1000 * attempt, PAUSE_MAX_MS));
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
  return !signal.aborted;
}

function take(message: Message, delta: Delta): void {
  message.text += delta.text;
  if (delta.thinking) message.thinking = (message.thinking ?? '') + delta.thinking;
  for (const part of delta.toolCalls) {
    const calls = (message.toolCalls ??= []);
    if (part.index < 0 || part.index > calls.length) continue;
    const call = (calls[part.index] ??= { id: '', name: '', arguments: '' });
    call.id = part.id ?? call.id;
    call.name += part.name ?? '';
    call.arguments += part.arguments ?? '';
  }
}

/** Messages whose views are to be drawn with the next frame. */
const due = new Set<Message>();

function changed(message: Message): void {
  if (due.size === 0) {
    // A page out of sight gets no frames.
    if (document.hidden) setTimeout(drawDue, 200);
    else requestAnimationFrame(drawDue);
  }
  due.add(message);
}

function drawDue(): void {
  const messages = [...due];
  due.clear();
  for (const message of messages) tickOf(message.id).value++;
}

/** Measures an answer; what the server says about itself comes first. */
class Meter {
  private startedAt = 0;
  private firstAt = 0;
  private thoughtAt = 0;
  private nDeltas = 0;

  constructor(private readonly message: Message) {}

  start(): void {
    this.startedAt = performance.now();
  }

  take(delta: Delta): void {
    const now = performance.now();
    const stats: Stats = (this.message.stats ??= {});
    if (delta.text || delta.thinking || delta.toolCalls.length > 0) {
      this.nDeltas++;
      if (this.firstAt === 0) {
        this.firstAt = now;
        stats.firstTokenMs = now - this.startedAt;
      }
    }
    if (delta.thinking && this.thoughtAt === 0) this.thoughtAt = now;
    if (this.thoughtAt > 0 && (delta.thinking || this.message.thinkingMs === undefined)) {
      this.message.thinkingMs = now - this.thoughtAt;
    }
    if (delta.finish !== undefined) stats.finish = delta.finish;
    if (delta.usage) {
      stats.promptTokens = delta.usage.prompt;
      stats.cachedTokens = delta.usage.cached;
      stats.answerTokens = delta.usage.answer;
    }
    if (delta.rate !== undefined) stats.tokensPerSecond = delta.rate;
  }

  end(): void {
    const stats: Stats = (this.message.stats ??= {});
    stats.totalMs = performance.now() - this.startedAt;
    stats.contextTokens = modelContext(this.message.model);
    const seconds = (performance.now() - this.firstAt) / 1000;
    const n = stats.answerTokens ?? this.nDeltas;
    if (stats.tokensPerSecond === undefined && this.firstAt > 0 && n > 1 && seconds > 0) {
      stats.tokensPerSecond = (n - 1) / seconds;
    }
  }
}

/** Copies the path up to a message into a conversation of its own. */
export function branchOff(message: Message): { conversation: Conversation; messages: Message[] } | null {
  const from = pathTo(tree.value, message.id);
  const conversation = ensureConversation('');
  const ids = new Map(from.map((each) => [each.id, crypto.randomUUID()]));
  const id = crypto.randomUUID();
  const now = Date.now();
  const messages = from.map((each) => ({
    ...each,
    id: ids.get(each.id) as string,
    conversation: id,
    parent: each.parent ? ids.get(each.parent) ?? null : null,
  }));
  const leaf = messages.at(-1)?.id;
  if (!leaf) return null;
  const title = `${conversation.title} (branch)`;
  return { conversation: { ...conversation, id, title, leaf, created: now, updated: now }, messages };
}
