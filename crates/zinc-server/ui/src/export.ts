/** Conversations as a file, and back. */

import { numberFields, defaultSettings } from './settings';
import type { Attachment, Conversation, Message, Settings, Stats, ToolCall } from './types';

const FORMAT = 'zinc-chat';
const VERSION = 1;

/** A conversation with its messages. */
export interface Archive {
  conversation: Conversation;
  messages: Message[];
}

/** The text of a file with conversations. */
export function exportText(archives: Archive[]): string {
  const conversations = archives.map(({ conversation, messages }) => ({ ...conversation, messages }));
  const file = { format: FORMAT, version: VERSION, exported: new Date().toISOString(), conversations };
  return `${JSON.stringify(file, null, 1)}\n`;
}

/**
 * Reads a file that {@link exportText} wrote, by whomever it was changed since. Every id is made
 * anew, so that nothing that is there already is overwritten.
 *
 * @throws Error with a sentence for people.
 */
export function importText(text: string): Archive[] {
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error('This file is no JSON. Choose one that was exported from this page.');
  }
  const top = object(file);
  if (top?.format !== FORMAT || !Array.isArray(top.conversations)) {
    throw new Error('This file has no zinc conversations. Choose one that was exported from this page.');
  }
  if (top.version !== VERSION) {
    throw new Error(`This file has version ${String(top.version)}, this page reads version ${VERSION}.`);
  }
  return top.conversations.map(readArchive);
}

function readArchive(value: unknown, index: number): Archive {
  const from = object(value);
  if (!from || !Array.isArray(from.messages)) {
    throw new Error(`Conversation ${index + 1} of this file is broken; nothing was imported.`);
  }
  const ids = new Map<string, string>();
  const id = crypto.randomUUID();
  for (const message of from.messages) {
    const old = object(message)?.id;
    if (typeof old === 'string') ids.set(old, crypto.randomUUID());
  }
  const messages = from.messages.map((message) => readMessage(message, id, ids));
  if (messages.includes(null)) {
    throw new Error(`A message of conversation ${index + 1} is broken; nothing was imported.`);
  }
  const now = Date.now();
  const conversation: Conversation = {
    id,
    title: string(from.title) ?? 'Imported conversation',
    named: from.named === true,
    created: number(from.created) ?? now,
    updated: number(from.updated) ?? now,
    leaf: ids.get(string(from.leaf) ?? '') ?? null,
    model: string(from.model) ?? null,
    settings: readSettings(from.settings),
  };
  return { conversation, messages: messages as Message[] };
}

function readMessage(value: unknown, conversation: string, ids: Map<string, string>): Message | null {
  const from = object(value);
  const id = ids.get(string(from?.id) ?? '');
  const role = from?.role;
  const text = string(from?.text);
  if (!from || !id || text === undefined) return null;
  if (role !== 'user' && role !== 'assistant' && role !== 'tool') return null;
  return {
    id,
    conversation,
    parent: ids.get(string(from.parent) ?? '') ?? null,
    role,
    text,
    created: number(from.created) ?? 0,
    state: from.state === 'stopped' || from.state === 'failed' ? from.state : 'done',
    attachments: list(from.attachments, readAttachment),
    thinking: string(from.thinking),
    thinkingMs: number(from.thinkingMs),
    toolCalls: list(from.toolCalls, readToolCall),
    toolCallId: string(from.toolCallId),
    model: string(from.model),
    isJson: from.isJson === true,
    stats: readStats(from.stats),
  };
}

function readAttachment(value: unknown): Attachment | null {
  const from = object(value);
  const name = string(from?.name);
  const text = string(from?.text);
  return name === undefined || text === undefined ? null : { name, text };
}

function readToolCall(value: unknown): ToolCall | null {
  const from = object(value);
  const id = string(from?.id);
  const name = string(from?.name);
  const args = string(from?.arguments);
  return id === undefined || name === undefined || args === undefined ? null : { id, name, arguments: args };
}

function readStats(value: unknown): Stats | undefined {
  const from = object(value);
  if (!from) return undefined;
  return {
    promptTokens: number(from.promptTokens),
    cachedTokens: number(from.cachedTokens),
    answerTokens: number(from.answerTokens),
    firstTokenMs: number(from.firstTokenMs),
    tokensPerSecond: number(from.tokensPerSecond),
    totalMs: number(from.totalMs),
    contextTokens: number(from.contextTokens),
    finish: string(from.finish),
  };
}

function readSettings(value: unknown): Settings {
  const from = object(value) ?? {};
  const settings = defaultSettings();
  settings.system = string(from.system) ?? '';
  settings.schema = string(from.schema) ?? '';
  settings.tools = string(from.tools) ?? '';
  settings.stop = list(from.stop, (stop) => string(stop) ?? null) ?? [];
  for (const { key, min, max } of numberFields) {
    const n = number(from[key]);
    if (n !== undefined && n >= min && n <= max) settings[key] = n;
  }
  if (from.thinking === 'on' || from.thinking === 'off') settings.thinking = from.thinking;
  if (from.effort === 'low' || from.effort === 'medium' || from.effort === 'high') settings.effort = from.effort;
  if (from.output === 'json' || from.output === 'schema') settings.output = from.output;
  return settings;
}

function object(value: unknown): Record<string, unknown> | undefined {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  return isObject ? (value as Record<string, unknown>) : undefined;
}

function string(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

function number(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
}

function list<T>(value: unknown, read: (item: unknown) => T | null): T[] | undefined {
  if (!Array.isArray(value)) return undefined;
  return value.map(read).filter((item) => item !== null);
}
