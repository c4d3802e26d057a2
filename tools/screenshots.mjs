// The pictures of the docs, from a daemon with runs in it:
//
//   node tools/screenshots.mjs URL            writes docs/images/*.png (the best student, the newest sweep, …)
//   node tools/screenshots.mjs URL --all DIR  every page in both themes and languages, wide and as a phone, to look at
//
// Needs chromium and tests/browser/node_modules. Colours are reduced to a palette: the pages have few, and a picture is
// then a third of its size.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deflateSync, inflateSync } from 'node:zlib';
import { launch, noBrowser } from '../tests/browser/browser.mjs';

const images = resolve(fileURLToPath(new URL('../docs/images', import.meta.url)));
const [url, flag, target] = process.argv.slice(2);
if (!url || noBrowser || (flag && flag !== '--all')) {
  console.error(noBrowser || 'usage: node tools/screenshots.mjs URL [--all DIR]');
  process.exit(64);
}
const get = async (path) => (await fetch(`${url}/api/v1/${path}`)).json();

// ---- PNG with a palette -------------------------------------------------------------------------------------------

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});
const NEAR = 64; // squared distance in red, green and blue
function chunk(type, data) {
  const out = Buffer.alloc(12 + data.length);
  out.writeUInt32BE(data.length, 0);
  out.write(type, 4, 'latin1');
  data.copy(out, 8);
  let crc = 0xffffffff;
  for (let i = 4; i < 8 + data.length; i++) crc = CRC[(crc ^ out[i]) & 255] ^ (crc >>> 8);
  out.writeUInt32BE((crc ^ 0xffffffff) >>> 0, 8 + data.length);
  return out;
}

/** Pixels of a PNG of 8 bits without interlacing, as chromium writes them. */
function decode(png) {
  const parts = [];
  let head;
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    const type = png.toString('latin1', at + 4, at + 8);
    const data = png.subarray(at + 8, at + 8 + length);
    if (type === 'IHDR') head = data;
    if (type === 'IDAT') parts.push(data);
    at += 12 + length;
  }
  const [width, height, channels] = [head.readUInt32BE(0), head.readUInt32BE(4), head[9] === 6 ? 4 : 3];
  const raw = inflateSync(Buffer.concat(parts));
  const line = width * channels;
  const pixels = Buffer.alloc(line * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (line + 1)];
    for (let x = 0; x < line; x++) {
      const left = x >= channels ? pixels[y * line + x - channels] : 0;
      const up = y ? pixels[(y - 1) * line + x] : 0;
      const corner = y && x >= channels ? pixels[(y - 1) * line + x - channels] : 0;
      const guess = left + up - corner;
      const [a, b, c] = [left, up, corner].map((v) => Math.abs(guess - v));
      const paeth = a <= b && a <= c ? left : b <= c ? up : corner;
      pixels[y * line + x] = raw[y * (line + 1) + 1 + x] + [0, left, up, (left + up) >> 1, paeth][filter];
    }
  }
  return { width, height, channels, pixels };
}

/**
 * The same picture in 256 colours: those that it uses most, none nearer than NEAR to one before it while there are
 * others, so that a small mark keeps its colour. Every other colour becomes the nearest of them.
 */
function reduce(png) {
  const { width, height, channels, pixels } = decode(png);
  const counts = new Map();
  const colour = (at) => (pixels[at] << 16) | (pixels[at + 1] << 8) | pixels[at + 2];
  for (let at = 0; at < pixels.length; at += channels) counts.set(colour(at), (counts.get(colour(at)) ?? 0) + 1);
  const far = (a, b) => ((a >> 16) - (b >> 16)) ** 2 + (((a >> 8) & 255) - ((b >> 8) & 255)) ** 2 + ((a & 255) - (b & 255)) ** 2;
  const wanted = [...counts].sort((a, b) => b[1] - a[1]).map(([c]) => c);
  const palette = [];
  for (const c of wanted) if (palette.length < 256 && palette.every((p) => far(p, c) >= NEAR)) palette.push(c);
  const index = new Map(palette.map((c, i) => [c, i]));
  for (const c of wanted)
    if (!index.has(c)) index.set(c, palette.reduce((best, p, i) => (far(p, c) < far(palette[best], c) ? i : best), 0));
  const raw = Buffer.alloc((width + 1) * height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) raw[y * (width + 1) + 1 + x] = index.get(colour((y * width + x) * channels));
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 3, 0, 0, 0], 8);
  const colours = Buffer.from(palette.flatMap((c) => [c >> 16, (c >> 8) & 255, c & 255]));
  const parts = [chunk('IHDR', head), chunk('PLTE', colours), chunk('IDAT', deflateSync(raw, { level: 9 })), chunk('IEND', Buffer.alloc(0))];
  return Buffer.concat([Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]), ...parts]);
}

// ---- what to show -------------------------------------------------------------------------------------------------

const { items: finished } = await get('experiments?status=finished&task=distill&limit=500');
const { items: sweeps } = await get('sweeps?limit=20');
const alone = finished.filter((r) => !r.sweep_id && r.progress.epochs >= 8).sort((a, b) => b.best.macro_f1 - a.best.macro_f1);
const student = alone[0] ?? finished[0];
if (!student) throw new Error(`${url} has no finished student`);
const ids = (alone.length > 1 ? alone : finished).slice(0, 4).map((r) => r.id).sort((a, b) => a - b);
const { dataset, teacher } = student.spec;
const wide = { viewport: { width: 1440, height: 900 } };
const light = { colorScheme: 'light', locale: 'en-US', ...wide };
const darkZh = { colorScheme: 'dark', locale: 'zh-CN', ...wide };

const pages = {
  runs: '/runs',
  run: `/runs/${student.id}`,
  predictions: `/runs/${student.id}?tab=predictions`,
  spec: `/runs/${student.id}?tab=spec`,
  log: `/runs/${student.id}?tab=log`,
  compare: `/compare?ids=${ids}`,
  sweeps: '/sweeps',
  ...(sweeps[0] && { sweep: `/sweeps/${sweeps[0].id}` }),
  datasets: '/datasets',
  dataset: `/datasets/${dataset}`,
  models: '/models',
  model: `/models/${teacher}`,
  new: `/new?dataset=${dataset}&teacher=${teacher}`,
  system: '/system',
};
const docs = [
  ['run-light', pages.run, light],
  ['run-dark-zh', pages.run, darkZh],
  ['runs', pages.runs, light],
  ['compare', pages.compare, light],
  ...(pages.sweep ? [['sweep', pages.sweep, light]] : []),
];
const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 };
const looks = { light, 'dark-zh': darkZh, 'phone-light-zh': { ...light, locale: 'zh-CN', ...phone }, 'phone-dark': { ...darkZh, locale: 'en-US', ...phone } };
const everything = Object.entries(pages).flatMap(([name, path]) =>
  Object.entries(looks).map(([look, options]) => [`${name}-${look}`, path, options, true]));

const folder = flag ? resolve(target) : images;
mkdirSync(folder, { recursive: true });
const browser = await launch();
let faults = 0;
try {
  for (const [name, path, options, fullPage = false] of flag ? everything : docs) {
    const page = await browser.open(url + path, options);
    await page.waitForSelector('.page');
    await page.waitForTimeout(fullPage ? 600 : 1800); // charts and tables are asked for and drawn; the event stream never ends
    if (fullPage) {
      // charts are drawn when they are seen
      const height = await page.evaluate(() => document.documentElement.scrollHeight);
      await page.setViewportSize({ width: options.viewport.width, height });
      await page.waitForTimeout(1500);
    }
    const picture = await page.screenshot({ fullPage });
    writeFileSync(join(folder, `${name}.png`), flag ? picture : reduce(picture));
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    for (const fault of [...page.faults, ...(over > 0 ? [`${over} px wider than the window`] : [])]) {
      faults++;
      console.error(`${name}: ${fault}`);
    }
    await browser.closeContexts();
  }
} finally {
  await browser.close();
}
process.exitCode = faults ? 1 : 0;
