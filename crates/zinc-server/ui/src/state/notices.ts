/** Short notices, and what screen readers are told. */

import { signal } from '@preact/signals';

export interface Notice {
  id: number;
  text: string;
  action?: { label: string; run: () => void } | undefined;
}

/** Notices on the page. */
export const notices = signal<Notice[]>([]);
/** What was said last; a live region reads it. */
export const spoken = signal<{ id: number; text: string }[]>([]);

const SHOWN_MS = 6000;
let nextId = 1;

/** Shows a notice for some seconds, with an action if there is one. */
export function toast(text: string, action?: Notice['action']): void {
  const notice = { id: nextId++, text, action };
  notices.value = [...notices.value.slice(-2), notice];
  setTimeout(() => dismiss(notice.id), action ? 2 * SHOWN_MS : SHOWN_MS);
}

/** Takes a notice away. */
export function dismiss(id: number): void {
  notices.value = notices.value.filter((notice) => notice.id !== id);
}

/** Says something to screen readers, after what is being said. */
export function say(text: string): void {
  const words = text.trim();
  if (words) spoken.value = [...spoken.value.slice(-7), { id: nextId++, text: words.slice(0, 2000) }];
}
