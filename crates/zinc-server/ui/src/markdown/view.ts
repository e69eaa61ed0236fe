/** A growing Markdown text on the page. */

import { segments } from './highlight';
import { patchChildren } from './patch';
import { closeOpenMarks, parse, settledEnd } from './parse';
import { render } from './render';

/** A line longer than this is no prose; it is shown as it is. */
const LONG_LINE = 12_000;
/** Blocks that share one element, which the browser skips as a whole when it is out of sight. */
const BLOCKS_PER_GROUP = 12;
/** Of the time, the share that drawing may take at most: one part in this many. */
const REST_FACTOR = 3;

/**
 * Shows a text that grows at its end. Finished blocks are drawn once; only the last, open block is
 * parsed and patched again, at most as often as its cost allows.
 */
export class MarkdownView {
  private text = '';
  /** How far the text is drawn for good, and in how many blocks. */
  private settled = 0;
  private nSettled = 0;
  /** Blocks that `onFinished` was called with: a text that is drawn again is not told again. */
  private nTold = 0;
  private group: HTMLElement | null = null;
  private readonly tail = document.createElement('div');
  private notBefore = 0;
  /** The levels of the headings that the settled blocks are under. */
  private levels: number[] = [];

  /** Called once with each block that will not change any more, the last ones when the text ends. */
  onFinished: ((block: Element) => void) | null = null;

  constructor(private readonly root: HTMLElement) {
    this.tail.className = 'group';
    root.classList.remove('raw');
    root.replaceChildren(this.tail);
  }

  /**
   * Shows `text`. Gives whether it did: while the text is `open`, a costly block is left for a
   * later call.
   */
  update(text: string, open: boolean): boolean {
    const now = performance.now();
    if (open && now < this.notBefore) return false;
    if (!text.startsWith(this.text) || this.hasLateReferences(text, open)) this.reset();
    this.text = text;
    while (this.settleLongLine(open));
    this.draw(open);
    this.notBefore = performance.now() + REST_FACTOR * (performance.now() - now);
    return true;
  }

  /** Link definitions hold for the whole text, so an ended text that has any is drawn at once. */
  private hasLateReferences(text: string, open: boolean): boolean {
    return !open && this.settled > 0 && /^ {0,3}\[[^\]\n]{1,200}\]:\s/m.test(text.slice(0, 200_000));
  }

  private reset(): void {
    this.settled = 0;
    this.nSettled = 0;
    this.levels = [];
    this.group = null;
    this.tail.replaceChildren();
    this.root.replaceChildren(this.tail);
  }

  private draw(open: boolean): void {
    const rest = this.text.slice(this.settled);
    if (!open) {
      patchChildren(this.tail, render(parse(rest, false), [...this.levels]));
      [...this.tail.children].forEach((block, at) => this.tell(block, this.nSettled + at));
      return;
    }
    const tokens = parse(rest, true);
    const end = settledEnd(rest, tokens);
    if (end > 0) {
      this.settle(render(parse(rest.slice(0, end), false), this.levels));
      this.settled += end;
    }
    const last = rest.slice(end);
    // Marks in code and formulas are what they are.
    const isProse = !['fence', 'code_block', 'math_block'].includes(tokens.at(-1)?.type ?? '');
    const shown = isProse ? closeOpenMarks(last) : last;
    patchChildren(this.tail, render(shown === rest ? tokens : parse(shown, true), [...this.levels]));
  }

  /** Moves blocks out of the tail for good. */
  private settle(blocks: DocumentFragment): void {
    this.tail.replaceChildren();
    for (const block of [...blocks.children]) {
      if (!this.group || this.group.childElementCount >= BLOCKS_PER_GROUP) {
        this.group = document.createElement('div');
        this.group.className = 'group settled';
        this.root.insertBefore(this.group, this.tail);
      }
      this.group.append(block);
      this.tell(block, this.nSettled++);
    }
  }

  /** Tells of a finished block, by its place in the text, unless that was told before. */
  private tell(block: Element, at: number): void {
    if (at < this.nTold) return;
    this.nTold = at + 1;
    this.onFinished?.(block);
  }

  /** Takes a line that is too long to be Markdown out of the rest; gives whether there was one. */
  private settleLongLine(open: boolean): boolean {
    const rest = this.text.slice(this.settled);
    if (rest.length <= LONG_LINE) return false;
    let start = 0;
    let isCode = false;
    for (;;) {
      const newline = rest.indexOf('\n', start);
      const end = newline < 0 ? rest.length : newline;
      if (/^ {0,3}(```|~~~)/.test(rest.slice(start, start + 6))) isCode = !isCode;
      if (end - start > LONG_LINE && !isCode) {
        if (start > 0) this.settle(render(parse(rest.slice(0, start), false), this.levels));
        this.settlePlain(rest, start, end, open && newline < 0);
        return true;
      }
      if (newline < 0) return false;
      start = newline + 1;
    }
  }

  /** A long line goes in pieces; of one that still grows, the last piece stays in the tail. */
  private settlePlain(rest: string, start: number, end: number, grows: boolean): void {
    const keep = grows ? (end - start) % (LONG_LINE / 2) : 0;
    const plain = document.createDocumentFragment();
    const block = document.createElement('div');
    block.className = 'plain';
    block.dir = 'auto';
    block.append(...segments(rest.slice(start, end - keep)));
    plain.append(block);
    this.settle(plain);
    this.settled += end - keep + (rest[end] === '\n' && !grows ? 1 : 0);
  }
}
