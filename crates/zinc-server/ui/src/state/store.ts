/** What is on the page: conversations, the open one, its messages. */

import { batch, computed, signal, type Signal } from '@preact/signals';
import * as db from '../db';
import { defaultSettings } from '../settings';
import { childrenByParent, newestLeaf, pathTo, subtree, type Tree } from '../tree';
import type { Conversation, Message, Settings } from '../types';
import { toast } from './notices';

/** All conversations, the one used last first. */
export const conversations = signal<Conversation[]>([]);
/** The open conversation; `null` is a new chat that has no message yet. */
export const current = signal<Conversation | null>(null);
/** The messages of the open conversation. */
export const tree = signal<Tree>(new Map());
/** The messages that follow each message of the open conversation, oldest first. */
export const children = computed(() => childrenByParent(tree.value));
/** The messages on the page. */
export const path = computed(() => pathTo(tree.value, current.value?.leaf ?? null));
/** Settings for the next new chat. */
export const draftSettings = signal<Settings>(defaultSettings());
/** The model for the next new chat. */
export const draftModel = signal<string | null>(null);
/** Whether the stored conversations have been read. */
export const isReady = signal(false);

/** Messages in memory, shared by the conversation on the page and by answers that stream. */
const live = new Map<string, Map<string, Message>>();
/** Counts the changes of a message that streams; only its own view listens. */
const ticks = new Map<string, Signal<number>>();
const channel = 'BroadcastChannel' in globalThis ? new BroadcastChannel('zinc-chat') : null;

/** The signal that changes with a message's text. */
export function tickOf(id: string): Signal<number> {
  let tick = ticks.get(id);
  if (!tick) ticks.set(id, (tick = signal(0)));
  return tick;
}

/** Reads what is stored, and opens the conversation that the address names. */
export async function start(): Promise<void> {
  try {
    conversations.value = sorted(await db.conversations());
  } catch (error) {
    toast(`Conversations cannot be kept in this browser: ${(error as Error).message}`);
  }
  const id = decodeURIComponent(location.hash.slice(1));
  const wanted = conversations.value.find((conversation) => conversation.id === id);
  if (wanted) await open(wanted.id);
  isReady.value = true;
  if (channel) channel.onmessage = ({ data }) => void otherTabChanged(String(data));
}

function sorted(list: Conversation[]): Conversation[] {
  return [...list].sort((a, b) => b.updated - a.updated);
}

async function otherTabChanged(id: string): Promise<void> {
  conversations.value = sorted(await db.conversations());
  if (current.value?.id !== id || isStreaming(id)) return;
  live.delete(id);
  const stored = conversations.value.find((conversation) => conversation.id === id);
  if (stored) await open(id);
  else newChat();
}

function isStreaming(conversation: string): boolean {
  return [...(live.get(conversation)?.values() ?? [])].some((message) => message.state === 'open');
}

/** Opens a conversation. */
export async function open(id: string): Promise<void> {
  const conversation = conversations.value.find((candidate) => candidate.id === id);
  if (!conversation) return;
  const messages = await messagesOf(id);
  batch(() => {
    current.value = conversation;
    tree.value = new Map(messages);
  });
  // Each opened conversation is a step back in the browser's history.
  const address = `#${encodeURIComponent(id)}`;
  if (location.hash !== address) history.pushState(null, '', address);
}

/** The messages of a conversation, open on the page or not. */
export async function messagesOf(id: string): Promise<Map<string, Message>> {
  let messages = live.get(id);
  if (!messages) {
    const stored = await db.messagesOf(id).catch(() => []);
    messages = live.get(id) ?? new Map(stored.map((message) => [message.id, orphaned(message)]));
    live.set(id, messages);
  }
  return messages;
}

/** An answer that was open when the page went away has ended. */
function orphaned(message: Message): Message {
  return message.state === 'open' ? { ...message, state: 'stopped' } : message;
}

/** Shows an empty page for a new chat, with the settings of a new one. */
export function newChat(): void {
  batch(() => {
    current.value = null;
    tree.value = new Map();
    draftSettings.value = defaultSettings();
  });
  if (location.hash) history.pushState(null, '', location.pathname + location.search);
}

/** The open conversation, made now if there is none. */
export function ensureConversation(title: string): Conversation {
  if (current.value) return current.value;
  const now = Date.now();
  const conversation: Conversation = {
    id: crypto.randomUUID(),
    title,
    named: false,
    created: now,
    updated: now,
    leaf: null,
    model: draftModel.value,
    settings: draftSettings.value,
  };
  live.set(conversation.id, new Map());
  batch(() => {
    current.value = conversation;
    tree.value = new Map();
    conversations.value = [conversation, ...conversations.value];
  });
  history.replaceState(null, '', `#${conversation.id}`);
  return conversation;
}

/** Changes a conversation, here and in the store. */
export function update(id: string, change: Partial<Conversation>): void {
  const old = conversations.value.find((conversation) => conversation.id === id);
  if (!old) return;
  const next = { ...old, ...change };
  batch(() => {
    conversations.value = sorted(conversations.value.map((each) => (each.id === id ? next : each)));
    if (current.value?.id === id) current.value = next;
  });
  void keep([next], []);
}

/** Puts a message into its conversation and stores it. */
export function put(message: Message): void {
  live.get(message.conversation)?.set(message.id, message);
  if (current.value?.id === message.conversation) {
    tree.value = new Map(live.get(message.conversation));
  }
  tickOf(message.id).value++;
  void keep([], [message]);
}

/** Stores a message that was changed in place, without drawing the page anew; ends when it is kept, or cannot be. */
export function store(message: Message): Promise<void> {
  return keep([], [message]);
}

let hasStorageFailed = false;

async function keep(changed: Conversation[], messages: Message[]): Promise<void> {
  try {
    await db.save(changed, messages);
    channel?.postMessage(changed[0]?.id ?? messages[0]?.conversation ?? '');
  } catch (error) {
    if (hasStorageFailed) return;
    hasStorageFailed = true;
    const why = (error as Error).message;
    toast(`This browser does not keep conversations (${why}). Export what you want to keep.`);
  }
}

/** Shows the newest path through a message. */
export function show(id: string): void {
  if (current.value) update(current.value.id, { leaf: newestLeaf(tree.value, id) });
}

/** Removes a message and what follows it; the page goes on with its newest sibling or its parent. */
export async function removeBranch(message: Message): Promise<void> {
  const conversation = current.value;
  const messages = live.get(message.conversation);
  if (!conversation || !messages) return;
  const ids = subtree(messages, message.id);
  for (const id of ids) messages.delete(id);
  const sibling = [...messages.values()].filter((each) => each.parent === message.parent).at(-1);
  tree.value = new Map(messages);
  update(conversation.id, { leaf: sibling ? newestLeaf(messages, sibling.id) : message.parent });
  await db.removeMessages(ids).catch(() => undefined);
}

/** Removes a conversation; the returned function brings it back. */
export async function remove(id: string): Promise<() => void> {
  const conversation = conversations.value.find((each) => each.id === id);
  const messages = await messagesOf(id);
  conversations.value = conversations.value.filter((each) => each.id !== id);
  if (current.value?.id === id) newChat();
  live.delete(id);
  await db.removeConversation(id).catch(() => undefined);
  channel?.postMessage(id);
  return () => {
    if (conversation) adopt([{ conversation, messages: [...messages.values()] }]);
  };
}

/** Takes conversations with their messages in, and stores them. */
export function adopt(archives: { conversation: Conversation; messages: Message[] }[]): void {
  for (const { conversation, messages } of archives) {
    live.set(conversation.id, new Map(messages.map((message) => [message.id, message])));
    void keep([conversation], messages);
  }
  const added = archives.map((archive) => archive.conversation);
  conversations.value = sorted([...conversations.value, ...added]);
}

/** The settings on the page: those of the open conversation, or those for the next one. */
export const settings = computed(() => current.value?.settings ?? draftSettings.value);

/** Changes the settings on the page. */
export function changeSettings(change: Partial<Settings>): void {
  const next = { ...settings.value, ...change };
  if (current.value) update(current.value.id, { settings: next });
  else draftSettings.value = next;
}
