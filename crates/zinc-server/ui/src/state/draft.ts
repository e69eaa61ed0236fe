/** The message that is being written. */

import { signal } from '@preact/signals';
import { readTextFile } from '../files';
import type { Attachment } from '../types';
import { toast } from './notices';

/** Its text. */
export const draft = signal('');
/** Its files. */
export const attached = signal<Attachment[]>([]);

const FILES_MAX = 20;

/** Attaches files; says why where one cannot be. */
export async function attach(files: Iterable<File>): Promise<void> {
  for (const file of files) {
    if (attached.value.length >= FILES_MAX) {
      toast(`At most ${FILES_MAX} files can be attached to a message.`);
      return;
    }
    try {
      const read = await readTextFile(file);
      const others = attached.value.filter((each) => each.name !== read.name);
      attached.value = [...others, read];
    } catch (error) {
      toast((error as Error).message);
    }
  }
}
