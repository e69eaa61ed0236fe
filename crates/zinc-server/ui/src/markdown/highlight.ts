/** Colours of code, fetched when the first code comes. */

type Colour = typeof import('./languages').colour;

let colour: Colour | null = null;
let loading = false;
const CACHE_MAX = 200;
const cache = new Map<string, DocumentFragment | null>();

/** Code above this many characters stays plain: colours would cost more than they help. */
const COLOUR_MAX = 60_000;
/** Text above this many characters is cut into blocks that the browser lays out one by one. */
const SEGMENT = 8_000;

/** Fills a `<code>` element: coloured if that is possible now, else plain, and coloured later. */
export function fillCode(element: HTMLElement, code: string, language: string): void {
  if (code.length > COLOUR_MAX) {
    element.replaceChildren(...segments(code));
    return;
  }
  element.textContent = code;
  if (language === '') return;
  if (!colour) {
    element.dataset.language = language;
    void load();
    return;
  }
  const coloured = coloursOf(colour, code, language);
  if (coloured) element.replaceChildren(coloured);
}

async function load(): Promise<void> {
  if (loading) return;
  loading = true;
  try {
    const languages = await import('./languages');
    colour = languages.colour;
    for (const element of document.querySelectorAll<HTMLElement>('code[data-language]')) {
      const coloured = coloursOf(colour, element.textContent ?? '', element.dataset.language ?? '');
      delete element.dataset.language;
      if (coloured) element.replaceChildren(coloured);
    }
  } catch {
    loading = false; // The server is away; the next code tries again.
  }
}

function coloursOf(colour: Colour, code: string, language: string): Node | null {
  const key = `${language}\n${code}`;
  let made = cache.get(key);
  if (made === undefined) {
    made = colour(code, language);
    if (cache.size >= CACHE_MAX) cache.clear();
    cache.set(key, made);
  }
  return made?.cloneNode(true) ?? null;
}

/** A long text as elements of bounded length, cut at line ends where there are any. */
export function segments(text: string): HTMLElement[] {
  const made: HTMLElement[] = [];
  for (let start = 0; start < text.length; ) {
    let end = Math.min(start + SEGMENT, text.length);
    const newline = end < text.length ? text.slice(start, end).lastIndexOf('\n') : -1;
    if (newline > 0) end = start + newline + 1;
    else if (/[\ud800-\udbff]/.test(text[end - 1] ?? '')) end--;
    const span = document.createElement('span');
    span.className = 'segment';
    span.textContent = text.slice(start, end);
    made.push(span);
    start = end;
  }
  return made;
}
