/** highlight.js with the languages that models write most; a chunk of its own, fetched when needed. */

import hljs from 'highlight.js/lib/core';
import bash from 'highlight.js/lib/languages/bash';
import c from 'highlight.js/lib/languages/c';
import cpp from 'highlight.js/lib/languages/cpp';
import csharp from 'highlight.js/lib/languages/csharp';
import css from 'highlight.js/lib/languages/css';
import diff from 'highlight.js/lib/languages/diff';
import dockerfile from 'highlight.js/lib/languages/dockerfile';
import go from 'highlight.js/lib/languages/go';
import haskell from 'highlight.js/lib/languages/haskell';
import ini from 'highlight.js/lib/languages/ini';
import java from 'highlight.js/lib/languages/java';
import javascript from 'highlight.js/lib/languages/javascript';
import json from 'highlight.js/lib/languages/json';
import kotlin from 'highlight.js/lib/languages/kotlin';
import latex from 'highlight.js/lib/languages/latex';
import lua from 'highlight.js/lib/languages/lua';
import makefile from 'highlight.js/lib/languages/makefile';
import markdown from 'highlight.js/lib/languages/markdown';
import perl from 'highlight.js/lib/languages/perl';
import php from 'highlight.js/lib/languages/php';
import powershell from 'highlight.js/lib/languages/powershell';
import python from 'highlight.js/lib/languages/python';
import r from 'highlight.js/lib/languages/r';
import ruby from 'highlight.js/lib/languages/ruby';
import rust from 'highlight.js/lib/languages/rust';
import scala from 'highlight.js/lib/languages/scala';
import shell from 'highlight.js/lib/languages/shell';
import sql from 'highlight.js/lib/languages/sql';
import swift from 'highlight.js/lib/languages/swift';
import typescript from 'highlight.js/lib/languages/typescript';
import xml from 'highlight.js/lib/languages/xml';
import yaml from 'highlight.js/lib/languages/yaml';

const languages = {
  bash, c, cpp, csharp, css, diff, dockerfile, go, haskell, ini, java, javascript, json, kotlin, latex, lua,
  makefile, markdown, perl, php, powershell, python, r, ruby, rust, scala, shell, sql, swift, typescript, xml, yaml,
};
for (const [name, language] of Object.entries(languages)) hljs.registerLanguage(name, language);
// CUDA is C++ with more words, and models say `zig` for what looks most like Rust.
hljs.registerAliases(['cuda', 'cu', 'glsl', 'metal'], { languageName: 'cpp' });
hljs.registerAliases(['zig'], { languageName: 'rust' });

/** Collects coloured code as DOM nodes; highlight.js would write HTML text otherwise. */
class DomEmitter {
  readonly root = document.createDocumentFragment();
  private readonly stack: Node[] = [this.root];

  addText(text: string): void {
    if (text) this.top().appendChild(document.createTextNode(text));
  }

  startScope(scope: string): void {
    this.openNode(scope);
  }

  endScope(): void {
    this.closeNode();
  }

  openNode(scope: string): void {
    const span = document.createElement('span');
    span.className = `hl-${scope.split('.')[0]?.replace(/[^a-z]/gi, '') ?? ''}`;
    this.top().appendChild(span);
    this.stack.push(span);
  }

  closeNode(): void {
    if (this.stack.length > 1) this.stack.pop();
  }

  __addSublanguage(emitter: DomEmitter): void {
    this.top().appendChild(emitter.root);
  }

  finalize(): void {}

  /** highlight.js asks for HTML; nobody reads it here. */
  toHTML(): string {
    return '';
  }

  private top(): Node {
    return this.stack.at(-1) ?? this.root;
  }
}

hljs.configure({ __emitter: DomEmitter as never });

/** Coloured code, or `null` for a language that is not known. */
export function colour(code: string, language: string): DocumentFragment | null {
  if (!hljs.getLanguage(language)) return null;
  const { _emitter } = hljs.highlight(code, { language, ignoreIllegals: true });
  return (_emitter as unknown as DomEmitter).root;
}
