// Builds the page into dist/. The output depends on the sources and the lockfile alone, so that a
// second build anywhere gives the same bytes.

import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as esbuild from 'esbuild';

const root = dirname(fileURLToPath(import.meta.url));
const out = join(root, 'dist');
const assets = join(out, 'assets');

/** KaTeX names three formats of each font; every browser that runs the page takes the first. */
const onlyWoff2 = {
  name: 'only-woff2',
  setup(build) {
    build.onLoad({ filter: /katex(\.min)?\.css$/ }, async ({ path }) => {
      const css = await readFile(path, 'utf8');
      const contents = css.replace(/,\s*url\([^)]*\)\s*format\(["'](?:woff|truetype)["']\)/g, '');
      return { contents, loader: 'css', resolveDir: dirname(path) };
    });
  },
};

const common = {
  absWorkingDir: root,
  bundle: true,
  minify: true,
  target: ['es2022'],
  outdir: 'dist/assets',
  metafile: true,
  legalComments: 'none',
  charset: 'utf8',
  logLevel: 'warning',
  loader: { '.woff2': 'file', '.svg': 'file' },
  assetNames: '[name]-[hash]',
  entryNames: '[name]-[hash]',
  chunkNames: '[name]-[hash]',
  define: { 'process.env.NODE_ENV': '"production"' },
};

async function build() {
  await rm(out, { recursive: true, force: true });
  await mkdir(assets, { recursive: true });
  const page = await esbuild.build({
    ...common,
    entryPoints: { app: 'src/main.tsx', page: 'src/style/page.css', math: 'src/style/math.css' },
    format: 'esm',
    splitting: true,
    jsx: 'automatic',
    jsxImportSource: 'preact',
    plugins: [onlyWoff2],
  });
  // Runs before the first paint, so it is no module.
  const boot = await esbuild.build({
    ...common,
    entryPoints: { theme: 'src/theme-boot.ts' },
    format: 'iife',
  });
  const outputs = { ...page.metafile.outputs, ...boot.metafile.outputs };
  await writePage(outputs);
  await writeFile(join(out, 'icon.svg'), await readFile(join(root, 'src/icon.svg')));
  await writeFile(join(out, 'licenses.txt'), await licences(outputs));
  await report();
}

/** `index.html` with the names that the outputs got. */
async function writePage(outputs) {
  const named = (entry) => {
    const found = Object.entries(outputs).find(([, output]) => output.entryPoint === entry);
    if (!found) throw new Error(`${entry} has no output`);
    return found[0].replace(/^dist\//, '');
  };
  const font = Object.keys(outputs).find((name) => /geist-latin-wght-normal-/.test(name));
  const names = {
    '%APP%': named('src/main.tsx'),
    '%STYLE%': named('src/style/page.css'),
    '%MATH%': named('src/style/math.css'),
    '%THEME%': named('src/theme-boot.ts'),
    '%FONT%': font.replace(/^dist\//, ''),
  };
  let html = await readFile(join(root, 'src/index.html'), 'utf8');
  for (const [mark, name] of Object.entries(names)) html = html.replaceAll(mark, name);
  await writeFile(join(out, 'index.html'), html);
}

/** The licence texts of every package whose code or fonts are in the output. */
async function licences(outputs) {
  const packages = new Set();
  for (const output of Object.values(outputs)) {
    for (const input of Object.keys(output.inputs)) {
      const match = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
      if (match) packages.add(match[1]);
    }
  }
  let text = 'The chat page contains code and fonts of these packages.\n';
  for (const name of [...packages].sort()) {
    const folder = join(root, 'node_modules', name);
    const { version, license } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'));
    const files = (await readdir(folder)).filter((file) => /^licen[cs]e/i.test(file)).sort();
    text += `\n${'='.repeat(80)}\n${name} ${version} (${license})\n\n`;
    for (const file of files) {
      text += `${(await readFile(join(folder, file), 'utf8')).trim()}\n`;
    }
  }
  return text;
}

async function report() {
  let total = 0;
  const hash = createHash('sha256');
  for (const file of (await readdir(out, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort()) {
    const bytes = await readFile(file);
    total += bytes.length;
    hash.update(file.slice(out.length)).update(bytes);
  }
  console.log(`dist: ${total} bytes, sha256 ${hash.digest('hex').slice(0, 16)}`);
}

await build();
