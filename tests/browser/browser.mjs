// Chromium for the tests, and what is missing when it cannot run.
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createRequire } from 'node:module';
import { noBinary } from '../e2e/daemon.mjs';

const require = createRequire(import.meta.url);
const executable = process.env.CHROMIUM ?? '/usr/bin/chromium';

function playwright() {
  try {
    return require('playwright-core');
  } catch {
    return null;
  }
}

/** Why browser tests are skipped; false when they can run. */
export const noBrowser =
  noBinary ||
  (existsSync(executable) ? false : `${executable} is missing`) ||
  (playwright() ? false : 'playwright-core is not installed (npm ci in tests/browser)');

export const axeSource = () => require('axe-core').source;

/** A browser with a profile of its own. open(url, options) gives a page whose `faults` collects every console error. */
export async function launch() {
  const profile = mkdtempSync(join(tmpdir(), 'distilld-browser-'));
  const contexts = [];
  const how = { executablePath: executable, headless: true };
  const args = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run'];
  const browser = await playwright().chromium.launch({ ...how, args: [...args, `--disk-cache-dir=${join(profile, 'cache')}`] });
  const prepared = (context) => {
    context.setDefaultTimeout(20_000);
    contexts.push(context);
    return context;
  };
  const reader = (options) => ({ viewport: { width: 1280, height: 900 }, locale: 'en-US', colorScheme: 'light', ...options });
  return {
    context: async (options = {}) => prepared(await browser.newContext(reader(options))),
    /** A browser of its own whose profile is on disk, as a reader's is: it keeps compiled scripts from visit to visit. */
    profile: async (options = {}) =>
      prepared(await playwright().chromium.launchPersistentContext(join(profile, `reader-${contexts.length}`), { ...how, args, ...reader(options) })),
    async open(url, options = {}) {
      const context = options.context ?? (await this.context(options));
      const page = await context.newPage();
      page.faults = [];
      page.requested = [];
      page.on(
        'console',
        (message) => message.type() === 'error' && page.faults.push(`${message.text()} ${message.location().url}`),
      );
      page.on('pageerror', (error) => page.faults.push(error.stack));
      page.on('request', (request) => page.requested.push(request.url()));
      await page.goto(url);
      return page;
    },
    async closeContexts() {
      await Promise.all(contexts.splice(0).map((context) => context.close()));
    },
    async close() {
      await this.closeContexts();
      await browser.close();
      rmSync(profile, { recursive: true, force: true });
    },
  };
}
