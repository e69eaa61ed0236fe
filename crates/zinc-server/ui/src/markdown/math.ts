/** KaTeX, fetched when the first formula comes. */

type Katex = typeof import('katex').default;

let katex: Katex | null = null;
let loading = false;
const CACHE_MAX = 500;
const cache = new Map<string, DocumentFragment>();

/** Fills an element with a formula: at once if KaTeX is there, else with its source until it is. */
export function fillMath(element: HTMLElement, tex: string, display: boolean): void {
  if (katex) {
    element.replaceChildren(formula(katex, tex, display));
    return;
  }
  element.textContent = tex;
  element.dataset.tex = tex;
  element.dataset.display = String(display);
  void load();
}

async function load(): Promise<void> {
  if (loading) return;
  loading = true;
  try {
    const style = loadStyle();
    const module = await import('katex');
    await style;
    katex = module.default;
    for (const element of document.querySelectorAll<HTMLElement>('[data-tex]')) {
      const { tex = '', display } = element.dataset;
      delete element.dataset.tex;
      delete element.dataset.display;
      element.replaceChildren(formula(katex, tex, display === 'true'));
    }
  } catch {
    loading = false; // The server is away; the next formula tries again.
  }
}

function loadStyle(): Promise<void> {
  const href = document.querySelector<HTMLMetaElement>('meta[name=math-style]')?.content ?? '';
  return new Promise((resolve) => {
    const link = document.createElement('link');
    link.rel = 'stylesheet';
    link.href = href;
    link.onload = link.onerror = () => resolve();
    document.head.append(link);
  });
}

function formula(katex: Katex, tex: string, display: boolean): DocumentFragment {
  const key = `${display ? 'd' : 'i'}${tex}`;
  let made = cache.get(key);
  if (!made) {
    made = document.createDocumentFragment();
    const into = document.createElement('span');
    try {
      // Built node by node: no HTML, and no command that names an address or a style.
      katex.render(tex, into, { displayMode: display, throwOnError: true, trust: false, strict: 'ignore', maxSize: 20, maxExpand: 200 });
      made.append(...into.childNodes);
    } catch {
      const code = document.createElement('code');
      code.textContent = tex;
      code.title = 'This formula cannot be typeset.';
      made.append(code);
    }
    if (cache.size >= CACHE_MAX) cache.clear();
    cache.set(key, made);
  }
  return made.cloneNode(true) as DocumentFragment;
}
