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

/** The messages that follow each message, oldest first; those that begin a conversation follow `null`. */
export type Children = ReadonlyMap<string | null, Message[]>;

/** Sorts messages by what they follow. */
export function childrenByParent(tree: Tree): Children {
  const children = new Map<string | null, Message[]>();
  for (const message of tree.values()) {
    const list = children.get(message.parent);
    if (list) list.push(message);
    else children.set(message.parent, [message]);
  }
  for (const list of children.values()) list.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
  return children;
}

/** The end of the newest path through a message. */
export function newestLeaf(tree: Tree, id: string): string {
  const children = childrenByParent(tree);
  const seen = new Set<string>();
  let leaf = id;
  while (!seen.has(leaf)) {
    seen.add(leaf);
    leaf = children.get(leaf)?.at(-1)?.id ?? leaf;
  }
  return leaf;
}

/** A message and everything below it. */
export function subtree(tree: Tree, id: string): string[] {
  const children = childrenByParent(tree);
  const ids = new Set([id]);
  for (const parent of ids) {
    for (const child of children.get(parent) ?? []) ids.add(child.id);
  }
  return [...ids];
}
