/** Makes one subtree like another while touching as little as possible. */

/**
 * Gives `target` the children of `wanted`. Equal nodes stay, so selection, focus and scrolling in
 * them stay too; growing text is appended to.
 */
export function patchChildren(target: Node, wanted: Node): void {
  let old = target.firstChild;
  let next = wanted.firstChild;
  while (next) {
    const after = next.nextSibling;
    if (!old) {
      target.appendChild(next);
    } else {
      const oldAfter: ChildNode | null = old.nextSibling;
      patchNode(target, old, next);
      old = oldAfter;
    }
    next = after;
  }
  while (old) {
    const oldAfter: ChildNode | null = old.nextSibling;
    old.remove();
    old = oldAfter;
  }
}

function patchNode(parent: Node, old: ChildNode, next: ChildNode): void {
  if (old instanceof Text && next instanceof Text) {
    if (next.data === old.data) return;
    if (next.data.startsWith(old.data)) old.appendData(next.data.slice(old.data.length));
    else old.data = next.data;
    return;
  }
  const isSameKind = old instanceof HTMLElement && next instanceof HTMLElement
    && old.tagName === next.tagName && old.cloneNode().isEqualNode(next.cloneNode());
  if (isSameKind) patchChildren(old, next);
  else if (!old.isEqualNode(next)) parent.replaceChild(next, old);
}
