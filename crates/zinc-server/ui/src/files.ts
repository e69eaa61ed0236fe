/** Text files that are dropped, pasted or chosen. */

import type { Attachment } from './types';

const MAX_BYTES = 2 << 20;

/**
 * Reads a file as text.
 *
 * @throws Error with a sentence for people, if it is too large or no text.
 */
export async function readTextFile(file: File): Promise<Attachment> {
  if (file.size > MAX_BYTES) {
    throw new Error(`${file.name} is too large: at most 2 MB of text can be attached.`);
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes.includes(0)) throw new Error(`${file.name} is no text file; only text can be attached.`);
  try {
    return { name: file.name, text: new TextDecoder('utf-8', { fatal: true }).decode(bytes) };
  } catch {
    throw new Error(`${file.name} is no text in UTF-8; only that can be attached.`);
  }
}

/** Offers a text as a file to keep. */
export function offerDownload(name: string, text: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
  const anchor = document.createElement('a');
  anchor.href = address;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
