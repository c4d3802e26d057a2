// Builds the dashboard: node build.mjs OUTPUT.c
//
// Bundles and minifies src/ into files whose names carry a hash of their content, compresses each with gzip (level 9,
// no time stamp, so that equal input gives equal bytes), and writes them as one C file of byte arrays (api/pages.h).
// The chart libraries are chunks of their own, fetched when the first chart of their kind is drawn. (A chunk for each page was tried: the
// ten more requests cost as much as the code that is not read.)
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import en from './src/i18n/en.js';
import zh from './src/i18n/zh.js';
import { NAV } from './src/first.js';

const here = path.dirname(fileURLToPath(import.meta.url));
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
};

const common = {
  bundle: true,
  minify: true,
  write: false,
  format: 'esm',
  target: ['es2022', 'chrome111', 'firefox111', 'safari16.4'],
  charset: 'utf8',
  legalComments: 'none',
  entryNames: '[name]-[hash]',
  chunkNames: '[name]-[hash]',
  assetNames: '[name]-[hash]',
  outdir: path.join(here, 'assets'),
  absWorkingDir: here,
  logLevel: 'warning',
};

const asAssets = (result) =>
  result.outputFiles.map((file) => ({
    path: `/assets/${path.basename(file.path)}`,
    bytes: Buffer.from(file.contents),
  }));

/** [{path, type, bytes, immutable, etag}]: everything the daemon serves but the API. */
export async function buildAssets() {
  const worker = asAssets(await build({ ...common, entryPoints: ['src/stream-worker.js'], format: 'iife' }));
  const early = asAssets(await build({ ...common, entryPoints: ['src/early.js'], format: 'iife' }));
  const bundle = await build({
    ...common,
    entryPoints: ['src/main.js'],
    splitting: true,
    metafile: true,
    define: { STREAM_WORKER: JSON.stringify(worker[0].path), 'Intl.NumberFormat': 'PlainNumbers', 'Intl.DateTimeFormat': 'PlainDates' },
    inject: ['src/no-intl.js'],
  });
  const app = asAssets(bundle);
  const style = asAssets(await build({ ...common, entryPoints: ['src/style.css'] }));
  const icon = readFileSync(path.join(here, 'src/icon.svg'));
  const iconAsset = { path: `/assets/icon-${digest(icon).slice(0, 8)}.svg`, bytes: icon };
  const hashed = [...app, ...worker, ...early, ...style, iconAsset];

  const find = (name) => {
    const stem = path.parse(name).name;
    const found = hashed.find(
      (asset) => path.basename(asset.path).startsWith(`${stem}-`) && path.extname(asset.path) === path.extname(name),
    );
    if (!found) throw new Error(`index.html asks for ${name}, which was not built`);
    return found.path;
  };
  const html = readFileSync(path.join(here, 'index.html'), 'utf8')
    .replace('{{preload}}', chunksOf(bundle.metafile, 'main.js').map((path) => preload(path)).join(''))
    .replace('{{nav}}', NAV.map(navLink).join(''))
    .replace(/\{\{([\w.]+)\}\}/g, (_, name) => find(name))
    .replace(/>\s+</g, '><');
  const index = { path: '/index.html', bytes: Buffer.from(html) };

  return [index, ...hashed]
    .map((asset) => ({
      ...asset,
      type: TYPES[path.extname(asset.path)],
      immutable: asset !== index,
      etag: digest(asset.bytes).slice(0, 16),
    }))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** The files of an entry: its own and those that it imports at once, so that they are fetched beside one another. */
function chunksOf(metafile, entry) {
  const [file, output] = Object.entries(metafile.outputs).find(([, o]) => o.entryPoint === `src/${entry}`);
  const needed = output.imports.filter(({ kind }) => kind === 'import-statement').map((i) => i.path);
  return [file, ...needed].map((path_) => `/assets/${path.basename(path_)}`);
}

/** Fetched, but not compiled before the first paint, as modulepreload would do. */
const preload = (file) => `<link rel="preload" as="script" crossorigin href="${file}" />`;

/** A link of the header as it is seen before any script has run; style.css hides the other language. */
function navLink(page) {
  const words = [
    ['en', en],
    ['zh-CN', zh],
  ].map(([lang, words_]) => `<span lang="${lang}">${words_[`nav.${page}`]}</span>`);
  return `<a href="/${page}">${words.join('')}</a>`;
}

function digest(bytes) {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Deterministic: no name, no time, and the byte that names the compressing system set to "unknown". */
export function compress(bytes) {
  const out = gzipSync(bytes, { level: 9 });
  out.writeUInt32LE(0, 4);
  out[9] = 255;
  return out;
}

/** A C string literal: compiles faster than a list of numbers. Octal escapes are always three digits long. */
function literal(bytes) {
  const lines = [];
  let line = '';
  for (const byte of bytes) {
    const plain = byte >= 0x20 && byte < 0x7f && byte !== 0x22 && byte !== 0x5c && byte !== 0x3f;
    line += plain ? String.fromCharCode(byte) : `\\${byte.toString(8).padStart(3, '0')}`;
    if (line.length > 110) {
      lines.push(line);
      line = '';
    }
  }
  lines.push(line);
  return lines.map((text) => `    "${text}"`).join('\n');
}

function cSource(assets) {
  const parts = ['/* Made by web/build.mjs from web/src. Do not edit. */', '#include "api/pages.h"', ''];
  const rows = [];
  assets.forEach((asset, i) => {
    const gzip = compress(asset.bytes);
    parts.push(`static const unsigned char page_${i}[] =\n${literal(gzip)};`);
    rows.push(
      `    {"${asset.path}", "${asset.type}", "${asset.etag}", page_${i}, ${gzip.length}, ${asset.bytes.length}, ${asset.immutable}},`,
    );
  });
  parts.push(
    '',
    'const struct dd_page dd_pages[] = {',
    ...rows,
    '};',
    'const size_t dd_pages_count = sizeof(dd_pages) / sizeof(dd_pages[0]);',
    '',
  );
  return parts.join('\n');
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const output = process.argv[2];
  if (!output) {
    console.error('usage: node build.mjs OUTPUT.c');
    process.exit(64);
  }
  const assets = await buildAssets();
  mkdirSync(path.dirname(path.resolve(output)), { recursive: true });
  writeFileSync(output, cSource(assets));
  if (process.env.V === '1')
    for (const asset of assets)
      console.log(
        `${String(asset.bytes.length).padStart(8)} ${String(compress(asset.bytes).length).padStart(8)}  ${asset.path}`,
      );
}
