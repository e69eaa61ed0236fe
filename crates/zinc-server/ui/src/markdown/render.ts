/** Tokens to DOM nodes. Text becomes text nodes and nothing else, so no output can become HTML. */

import { icon } from '../view/icon-nodes';
import { fillCode } from './highlight';
import { fillMath } from './math';
import type { Token } from './parse';

/** Tokens of containers, and the elements they become. */
const containers: Readonly<Record<string, string>> = {
  paragraph_open: 'p',
  blockquote_open: 'blockquote',
  bullet_list_open: 'ul',
  ordered_list_open: 'ol',
  list_item_open: 'li',
  table_open: 'table',
  thead_open: 'thead',
  tbody_open: 'tbody',
  tr_open: 'tr',
  th_open: 'th',
  td_open: 'td',
  em_open: 'em',
  strong_open: 'strong',
  s_open: 's',
};

/**
 * The element of a heading. Answers sit below the page's second level and often skip levels; what is
 * shown begins with the third and skips none, so that the outline can be walked. `levels` holds
 * those of the headings above, outermost first, and takes this one.
 */
function headingTag(tag: string, levels: number[]): string {
  const level = Number(tag.slice(1));
  while (levels.length > 0 && (levels.at(-1) ?? 0) >= level) levels.pop();
  levels.push(level);
  return `h${Math.min(6, 2 + levels.length)}`;
}

/** The nodes of tokens that come after headings of these `levels`, which it keeps up to date. */
export function render(tokens: Token[], levels: number[] = []): DocumentFragment {
  const root = document.createDocumentFragment();
  const stack: Node[] = [root];
  for (const token of tokens) {
    const parent = stack.at(-1) ?? root;
    if (token.nesting === 1) {
      stack.push(open(token, parent, levels));
    } else if (token.nesting === -1) {
      if (stack.length > 1) stack.pop();
    } else {
      leaf(token, parent);
    }
  }
  return root;
}

/** Opens a container in `parent` and gives the node that takes its children. */
function open(token: Token, parent: Node, levels: number[]): Node {
  // Paragraphs of tight lists have no element.
  if (token.hidden) return parent;
  if (token.type === 'link_open') return openLink(token, parent);
  const tag = token.type === 'heading_open' ? headingTag(token.tag, levels) : containers[token.type];
  if (!tag) return parent;
  const element = document.createElement(tag);
  if (tag === 'p' || tag === 'ul' || tag === 'ol' || /^h\d$/.test(tag)) element.dir = 'auto';
  const start = Number(token.attrGet('start'));
  if (tag === 'ol' && Number.isSafeInteger(start) && start !== 1 && token.attrGet('start') !== null) {
    (element as HTMLOListElement).start = start;
  }
  const align = /text-align:(left|center|right)/.exec(String(token.attrGet('style') ?? ''));
  if (align) element.className = `align-${align[1]}`;
  if (tag !== 'table') return parent.appendChild(element);
  const scroller = document.createElement('div');
  scroller.className = 'table';
  scroller.tabIndex = 0;
  scroller.setAttribute('role', 'region');
  scroller.setAttribute('aria-label', 'Table');
  scroller.append(element);
  parent.appendChild(scroller);
  return element;
}

/** Whether an address may be a link: web and mail, with nothing hidden in it. */
export function isSafeAddress(address: string): boolean {
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return false;
  try {
    const { protocol } = new URL(address);
    return protocol === 'https:' || protocol === 'http:' || protocol === 'mailto:';
  } catch {
    return false;
  }
}

function openLink(token: Token, parent: Node): Node {
  const address = String(token.attrGet('href') ?? '');
  if (!isSafeAddress(address)) return parent.appendChild(document.createElement('span'));
  return parent.appendChild(link(address));
}

function link(address: string): HTMLAnchorElement {
  const anchor = document.createElement('a');
  anchor.href = address;
  anchor.target = '_blank';
  anchor.rel = 'noopener noreferrer nofollow';
  anchor.title = address;
  return anchor;
}

function leaf(token: Token, parent: Node): void {
  switch (token.type) {
    case 'inline':
      parent.appendChild(inline(token, parent));
      break;
    case 'hr':
      parent.appendChild(document.createElement('hr'));
      break;
    case 'fence':
    case 'code_block':
      parent.appendChild(codeBlock(token.content, token.info.trim().split(/\s+/)[0] ?? ''));
      break;
    case 'math_block':
      parent.appendChild(mathBlock(token));
      break;
    default:
      if (token.content) parent.appendChild(document.createTextNode(token.content));
  }
}

/** A paragraph of more parts than this is no prose; it is shown as it was written. */
const PARTS_MAX = 1000;

function inline(block: Token, parent: Node): Node {
  const tokens = block.children ?? [];
  if (tokens.length > PARTS_MAX) return document.createTextNode(block.content);
  const root = document.createDocumentFragment();
  const stack: Node[] = [root];
  for (const [idx, token] of tokens.entries()) {
    const top = stack.at(-1) ?? root;
    if (token.nesting === 1) stack.push(open(token, top, []));
    else if (token.nesting === -1) {
      if (stack.length > 1) stack.pop();
    } else if (!(idx === 0 && isListItem(parent) && checkbox(token, top, parent))) inlineLeaf(token, top);
  }
  return root;
}

function isListItem(node: Node): node is HTMLElement {
  return node instanceof HTMLElement && node.tagName === 'LI';
}

/** `[ ]` and `[x]` at the beginning of a list item. */
function checkbox(token: Token, top: Node, item: HTMLElement): boolean {
  const match = token.type === 'text' ? /^\[([ xX])\] +/.exec(token.content) : null;
  if (!match) return false;
  item.className = 'task';
  const box = document.createElement('input');
  box.type = 'checkbox';
  box.disabled = true;
  box.checked = match[1] !== ' ';
  box.setAttribute('aria-label', box.checked ? 'done' : 'to do');
  top.appendChild(box);
  top.appendChild(document.createTextNode(token.content.slice(match[0].length)));
  return true;
}

function inlineLeaf(token: Token, parent: Node): void {
  switch (token.type) {
    case 'softbreak':
    case 'hardbreak':
      parent.appendChild(document.createElement('br'));
      break;
    case 'code_inline': {
      const code = document.createElement('code');
      code.textContent = token.content;
      parent.appendChild(code);
      break;
    }
    case 'math_inline': {
      const span = document.createElement('span');
      const { display } = token.meta as { display: boolean };
      span.className = display ? 'math display' : 'math';
      fillMath(span, token.content, display);
      parent.appendChild(span);
      break;
    }
    case 'image':
      parent.appendChild(image(token));
      break;
    default:
      parent.appendChild(document.createTextNode(token.content));
  }
}

/** An image stays a link: fetching it would tell a foreign host about this conversation. */
function image(token: Token): Node {
  const address = String(token.attrGet('src') ?? '');
  const words = token.content || 'image';
  if (!isSafeAddress(address)) return document.createTextNode(words);
  const anchor = link(address);
  anchor.className = 'image';
  anchor.append(icon('image'), words);
  return anchor;
}

function mathBlock(token: Token): Node {
  const block = document.createElement('div');
  const { open } = token.meta as { open: boolean };
  block.className = open ? 'math block open' : 'math block';
  block.tabIndex = 0;
  block.setAttribute('role', 'group');
  block.setAttribute('aria-label', 'Formula');
  if (open) block.textContent = token.content;
  else fillMath(block, token.content, true);
  return block;
}

/** A block of code with its language and a button that copies it. */
function codeBlock(code: string, language: string): HTMLElement {
  const text = code.endsWith('\n') ? code.slice(0, -1) : code;
  const name = /^[\w+#.-]{1,30}$/.test(language) ? language : '';
  const block = document.createElement('div');
  block.className = 'code';
  const head = document.createElement('div');
  head.className = 'code-head';
  const label = document.createElement('span');
  label.textContent = name || 'text';
  const copy = document.createElement('button');
  copy.type = 'button';
  copy.className = 'copy-code';
  copy.append(icon('copy'), 'Copy');
  head.append(label, copy);
  const pre = document.createElement('pre');
  pre.tabIndex = 0;
  pre.setAttribute('role', 'region');
  pre.setAttribute('aria-label', name ? `Code, ${name}` : 'Code');
  const body = document.createElement('code');
  body.dir = 'ltr';
  fillCode(body, text, name.toLowerCase());
  pre.append(body);
  block.append(head, pre);
  return block;
}
