// Signing in: the dashboard asks for a token once, keeps a session that scripts cannot read, in both languages, and signs out.
import { after, afterEach, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon, run } from '../e2e/daemon.mjs';
import { launch, noBrowser } from './browser.mjs';

const skip = noBrowser;
let daemon, browser, token;

before(async () => {
  if (skip) return;
  daemon = await Daemon.start();
  const made = await run(['token', 'create', 'alice', '--read-only', '--data-dir', daemon.dataDir]);
  token = made.stdout.trim();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await daemon?.discard();
});
afterEach(() => browser?.closeContexts());

test('one sign-in lasts over reloads and tabs, and the events come through', { skip }, async () => {
  const context = await browser.context();
  const page = await browser.open(`${daemon.url}/runs`, { context });
  const dialog = page.getByRole('dialog', { name: 'Access token' });
  await dialog.getByLabel('Access token').fill('wrong');
  await dialog.getByRole('button', { name: 'Sign in' }).click();
  await dialog.getByText('this token is not valid here').waitFor();
  await dialog.getByLabel('Access token').fill(token);
  await dialog.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('button', { name: 'Sign out' }).waitFor();
  await page.locator('.line-state.live').waitFor();
  assert.equal(await page.getByRole('dialog').count(), 0);
  assert.deepEqual(
    await page.evaluate(() => [document.cookie, JSON.stringify(localStorage)].filter((text) => /distilld[-_]/.test(text))),
    [],
    'scripts see neither the token nor the session',
  );
  const second = await browser.open(`${daemon.url}/system`, { context });
  await second.getByRole('button', { name: 'Sign out' }).waitFor();
  assert.equal(await second.getByRole('button', { name: 'Sign out' }).getAttribute('title'), 'Signed in as alice, may only read');
  assert.deepEqual(second.faults, []);
  await second.getByRole('button', { name: 'Sign out' }).click();
  await second.getByRole('dialog', { name: 'Access token' }).waitFor();
});

test('the dialog speaks Chinese', { skip }, async () => {
  const page = await browser.open(`${daemon.url}/runs`, { locale: 'zh-CN' });
  const dialog = page.getByRole('dialog', { name: '访问令牌' });
  await dialog.getByLabel('访问令牌').fill('wrong');
  await dialog.getByRole('button', { name: '登录' }).click();
  await dialog.getByText('访问令牌不正确').waitFor();
  await dialog.getByLabel('访问令牌').fill(token);
  await dialog.getByRole('button', { name: '登录' }).click();
  await page.getByRole('button', { name: '退出登录' }).waitFor();
});
