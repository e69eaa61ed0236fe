/** Mathematics in Markdown: `$x$`, `\(x\)`, `$$x$$` and `\[x\]`, the last two over several lines. */

import MarkdownIt from 'markdown-it';

type Parser = InstanceType<typeof MarkdownIt>;

/** Adds the tokens `math_inline` and `math_block`, whose content is TeX. */
export function mathPlugin(md: Parser): void {
  md.inline.ruler.before('escape', 'math', (state, silent) => {
    const found = inlineMath(state.src, state.pos, state.posMax);
    if (!found) return false;
    if (!silent) {
      const token = state.push('math_inline', 'span', 0);
      token.content = found.tex;
      token.meta = { display: found.display };
    }
    state.pos = found.end;
    return true;
  });
  md.block.ruler.before('fence', 'math_block', (state, startLine, endLine, silent) => {
    const start = (state.bMarks[startLine] ?? 0) + (state.tShift[startLine] ?? 0);
    const open = state.src.slice(start, start + 2);
    if (open !== '$$' && open !== '\\[') return false;
    if ((state.sCount[startLine] ?? 0) - state.blkIndent >= 4) return false;
    const close = open === '$$' ? '$$' : '\\]';
    const closing = closingLine(state.src, state, startLine, endLine, start + 2, close);
    if (closing === null && state.env.open !== true) return false;
    if (silent) return true;
    const lastLine = closing?.line ?? endLine - 1;
    const end = closing?.at ?? state.eMarks[lastLine] ?? state.src.length;
    const token = state.push('math_block', 'div', 0);
    token.content = state.src.slice(start + 2, end).trim();
    token.map = [startLine, lastLine + 1];
    token.meta = { open: closing === null };
    state.line = lastLine + 1;
    return true;
  }, { alt: ['paragraph', 'reference', 'blockquote', 'list'] });
}

interface Lines {
  bMarks: number[];
  eMarks: number[];
  tShift: number[];
  sCount: number[];
  blkIndent: number;
}

/** The line that ends with `close`; text after it on the line means that this is no block. */
function closingLine(src: string, lines: Lines, startLine: number, endLine: number, from: number, close: string): { line: number; at: number } | null {
  for (let line = startLine; line < endLine; line++) {
    const begin = line === startLine ? from : (lines.bMarks[line] ?? 0) + (lines.tShift[line] ?? 0);
    const end = lines.eMarks[line] ?? src.length;
    if (line > startLine && begin < end && (lines.sCount[line] ?? 0) < lines.blkIndent) return null;
    const at = src.slice(begin, end).indexOf(close);
    if (at < 0) continue;
    const rest = src.slice(begin + at + close.length, end).trim();
    return rest === '' || rest === '.' || rest === ',' ? { line, at: begin + at } : null;
  }
  return null;
}

interface Found {
  tex: string;
  end: number;
  display: boolean;
}

const LONGEST_INLINE = 2000;

/** The mathematics that begin at `pos`, if any. */
function inlineMath(src: string, pos: number, max: number): Found | null {
  const two = src.slice(pos, pos + 2);
  if (two === '\\(') return upTo(src, pos, max, '\\)', false);
  if (two === '\\[') return upTo(src, pos, max, '\\]', true);
  if (two === '$$') return upTo(src, pos, max, '$$', true);
  if (src[pos] !== '$') return null;
  // As in Pandoc: no space inside the dollars, no digit after them, so that prices stay prices.
  if (/\s/.test(src[pos + 1] ?? ' ') || (pos > 0 && src[pos - 1] === '\\')) return null;
  const limit = Math.min(max, pos + LONGEST_INLINE);
  for (let end = pos + 1; end < limit; end++) {
    if (src[end] === '\n' && src[end + 1] === '\n') return null;
    if (src[end] === '\\') {
      end++;
    } else if (src[end] === '$') {
      if (/\s/.test(src[end - 1] ?? ' ') || /[0-9]/.test(src[end + 1] ?? '')) return null;
      return { tex: src.slice(pos + 1, end), end: end + 1, display: false };
    }
  }
  return null;
}

function upTo(src: string, pos: number, max: number, close: string, display: boolean): Found | null {
  const limit = Math.min(max, pos + LONGEST_INLINE);
  const end = src.slice(pos + 2, limit).indexOf(close);
  if (end <= 0) return null;
  return { tex: src.slice(pos + 2, pos + 2 + end).trim(), end: pos + 4 + end, display };
}
