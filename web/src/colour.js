// A run's colour, a function of its id alone, so that it is the same on every page, in every list and after a restart.
// Hues step by the golden angle, so that neighbouring ids differ; lightness follows the theme, so that lines keep a
// contrast of at least 3:1 with the paper. Each run also has a dash and a symbol: colour is never the only mark.
import { isDark } from './theme.js';

export const DASHES = ['solid', [7, 3], [2, 3], [9, 3, 2, 3]];
export const SYMBOLS = [
  'circle',
  'rect',
  'triangle',
  'diamond',
  'emptyCircle',
  'emptyRect',
  'emptyTriangle',
  'emptyDiamond',
];

/** OKLCH to "#rrggbb", clamped to sRGB. (Ottosson, "A perceptual color space for image processing", 2020.) */
export function oklch(lightness, chroma, hueDegrees) {
  const a = chroma * Math.cos((hueDegrees * Math.PI) / 180);
  const b = chroma * Math.sin((hueDegrees * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const hex = linear.map((v) => {
    const clamped = Math.min(1, Math.max(0, v));
    const encoded = clamped <= 0.0031308 ? 12.92 * clamped : 1.055 * clamped ** (1 / 2.4) - 0.055;
    return Math.round(255 * encoded)
      .toString(16)
      .padStart(2, '0');
  });
  return `#${hex.join('')}`;
}

const runHue = (id) => (230 + id * 137.508) % 360;

export function runColour(id, dark = isDark()) {
  const hue = runHue(id);
  return dark ? oklch(0.78, 0.125, hue) : oklch(0.54, 0.135, hue);
}

/** Neighbours, which are most often seen together, differ in their dash, which long curves show too. */
export const runDash = (id) => DASHES[(id - 1) % DASHES.length];
export const runSymbol = (id) => SYMBOLS[Math.floor((id - 1) / DASHES.length) % SYMBOLS.length];

const PARTS = [
  ['--c-kl', 62],
  ['--c-ce', 306],
  ['--c-third', 189],
]; // custom properties and their hues
const TOO_NEAR = 40; // degrees
/**
 * The custom properties that colour what is drawn beside a run's own line: KL, CE, and a third. The last of them, which
 * is seldom drawn, gets the hue that comes too near to the run's own.
 */
export function partColours(id) {
  const distance = (hue) => Math.abs(((hue - runHue(id) + 540) % 360) - 180);
  const near = PARTS.filter(([, hue]) => distance(hue) < TOO_NEAR);
  return [...PARTS.filter((part) => !near.includes(part)), ...near].map(([name]) => name);
}
