/** The tree of a conversation's messages; pure functions over a map of them. */

import type { Message } from './types';

export type Tree = ReadonlyMap<string, Message>;

/** From the first message to `leaf`; broken links and cycles end the path. */
export function pathTo(tree: Tree, leaf: string | null): Message[] {
  const path: Message[] = [];
  const seen = new Set<string>();
  for (let id = leaf; id !== null && !seen.has(id); ) {
    const message = tree.get(id);
    if (!message) break;
    seen.add(id);
    path.push(message);
    id = message.parent;
  }
  return path.reverse();
}

/** The messages that follow `parent`, oldest first. */
export function childrenOf(tree: Tree, parent: string | null): Message[] {
  const children = [...tree.values()].filter((message) => message.parent === parent);
  return children.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
}

/** The alternatives to a message, itself included, oldest first. */
export function siblingsOf(tree: Tree, message: Message): Message[] {
  return childrenOf(tree, message.parent);
}

/** The end of the newest path through a message. */
export function newestLeaf(tree: Tree, id: string): string {
  const seen = new Set<string>();
  let leaf = id;
  while (!seen.has(leaf)) {
    seen.add(leaf);
    const newest = childrenOf(tree, leaf).at(-1);
    if (!newest) break;
    leaf = newest.id;
  }
  return leaf;
}

/** A message and everything below it. */
export function subtree(tree: Tree, id: string): string[] {
  const ids = [id];
  for (let i = 0; i < ids.length; i++) {
    const parent = ids[i] as string;
    for (const child of tree.values()) {
      if (child.parent === parent && !ids.includes(child.id)) ids.push(child.id);
    }
  }
  return ids;
}
