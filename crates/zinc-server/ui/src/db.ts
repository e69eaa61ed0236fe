/** Conversations in the browser's IndexedDB. Nothing leaves the browser from here. */

import type { Conversation, Message } from './types';

const NAME = 'zinc-chat';
const VERSION = 1;

let opened: Promise<IDBDatabase> | null = null;

function open(): Promise<IDBDatabase> {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      const db = request.result;
      db.createObjectStore('conversations', { keyPath: 'id' });
      const messages = db.createObjectStore('messages', { keyPath: 'id' });
      messages.createIndex('conversation', 'conversation');
    };
    request.onsuccess = () => {
      // A newer page in another tab must be able to change the layout.
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => reject(request.error ?? new Error('the database cannot be opened'));
  });
  return opened;
}

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error('the database refused a request'));
  });
}

async function change(act: (of: (store: string) => IDBObjectStore) => void): Promise<void> {
  const db = await open();
  const transaction = db.transaction(['conversations', 'messages'], 'readwrite');
  const finished = new Promise<void>((resolve, reject) => {
    const fail = () => reject(transaction.error ?? new Error('the database did not keep a change'));
    transaction.oncomplete = () => resolve();
    transaction.onerror = fail;
    transaction.onabort = fail;
  });
  act((store) => transaction.objectStore(store));
  return finished;
}

/** All conversations, in no order. */
export async function conversations(): Promise<Conversation[]> {
  const db = await open();
  return result(db.transaction('conversations').objectStore('conversations').getAll());
}

/** All messages of a conversation, in no order. */
export async function messagesOf(conversation: string): Promise<Message[]> {
  const db = await open();
  const index = db.transaction('messages').objectStore('messages').index('conversation');
  return result(index.getAll(conversation));
}

/** Writes conversations and messages, all or none. */
export function save(conversations: Conversation[], messages: Message[]): Promise<void> {
  return change((of) => {
    for (const conversation of conversations) of('conversations').put(conversation);
    for (const message of messages) of('messages').put(message);
  });
}

/** Removes messages. */
export function removeMessages(ids: string[]): Promise<void> {
  return change((of) => {
    for (const id of ids) of('messages').delete(id);
  });
}

/** Removes a conversation with its messages. */
export function removeConversation(id: string): Promise<void> {
  return change((of) => {
    of('conversations').delete(id);
    const request = of('messages').index('conversation').openKeyCursor(id);
    request.onsuccess = () => {
      const cursor = request.result;
      if (!cursor) return;
      of('messages').delete(cursor.primaryKey);
      cursor.continue();
    };
  });
}

/** The conversations with a message that contains `words`, without regard to case. */
export async function searchTexts(words: string): Promise<Set<string>> {
  const db = await open();
  const wanted = words.toLowerCase();
  const found = new Set<string>();
  const request = db.transaction('messages').objectStore('messages').openCursor();
  await new Promise<void>((resolve, reject) => {
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      const cursor = request.result;
      if (!cursor) return resolve();
      const message = cursor.value as Message;
      if (!found.has(message.conversation) && message.text.toLowerCase().includes(wanted)) {
        found.add(message.conversation);
      }
      cursor.continue();
    };
  });
  return found;
}
