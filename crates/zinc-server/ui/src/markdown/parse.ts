/** Markdown to tokens: CommonMark, tables, strike-through and mathematics; never HTML. */

import MarkdownIt from 'markdown-it';
import { mathPlugin } from './math-syntax';

const parser = new MarkdownIt('default', { html: false, linkify: true, breaks: true, maxNesting: 40 });
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
parser.use(mathPlugin);

/** A token of the parser. */
export type Token = ReturnType<typeof parser.parse>[number];

/** Tokens of a text. While it still grows (`open`), unfinished mathematics are tokens too. */
export function parse(text: string, open: boolean): Token[] {
  return parser.parse(text, { open });
}

/**
 * Where the last top-level block of the text begins, as an offset. What comes before it will not
 * change, whatever is appended: the block's first line is complete, so it is certain that it is a
 * block of its own.
 */
export function settledEnd(text: string, tokens: Token[]): number {
  let line = 0;
  for (const token of tokens) {
    if (token.level === 0 && token.nesting >= 0 && token.map && token.type !== 'inline') line = token.map[0];
  }
  let at = 0;
  for (let i = 0; i < line; i++) {
    at = text.indexOf('\n', at) + 1;
    if (at === 0) return 0;
  }
  return text.indexOf('\n', at) < 0 ? 0 : at;
}

/**
 * Closes what is open at the end of a growing text, so that half a word of emphasis does not
 * flicker between stars and bold. Only the last paragraph is looked at.
 */
export function closeOpenMarks(text: string): string {
  const start = text.lastIndexOf('\n\n') + 1;
  const last = text.slice(start);
  if (/^\s{0,3}(```|~~~|\$\$|\\\[)/m.test(last) || last.length > 4000) return text;
  const nTicks = last.split('`').length - 1;
  if (nTicks % 2 === 1) return last.endsWith('`') ? text.slice(0, -1) : `${text}\``;
  // A link whose address is not there yet is its words.
  const link = /!?\[([^\][\n]*)\]\([^)\s]*$/.exec(last);
  const shown = link ? text.slice(0, start + link.index) + link[1] : text;
  const code = shown.slice(start).replace(/`[^`]*`/g, '');
  const nStrong = code.split('**').length - 1;
  if (nStrong % 2 === 0) return shown;
  const bare = shown.replace(/\s*\**$/, '');
  return /\*\*\s*$/.test(shown) ? bare : `${bare}**`;
}
