// New experiment: a form made from the schema that the daemon serves. Every field has its words in both languages, the
// rarer ones lie under a fold, and what the daemon refuses is said at the field.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { Daemon, tinyTeacher, topics } from '../e2e/daemon.mjs';
import { launch, noBrowser } from './browser.mjs';
import { grouped, GROUPS, parseField, printField, specFields } from '../../web/src/fields.js';
import en from '../../web/src/i18n/fields.en.js';
import zh from '../../web/src/i18n/fields.zh.js';

const skip = noBrowser;
let daemon, browser;

before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '1', '--threads', '1'] });
  const made = await daemon.upload('news', { train: { text: topics(300), filename: 'train.tsv' } });
  assert.equal(made.status, 201, made.text);
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'news', save_as: 'teacher', epochs: 1 });
  await daemon.waitState(id, 'finished');
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await daemon?.discard();
});
afterEach(() => browser?.closeContexts());

test('every field of the served schema has its words in both languages, and no words are left over', { skip }, async () => {
  const fields = specFields(await daemon.get('/openapi.json'));
  for (const [path, schema] of Object.entries(fields)) {
    assert.ok(en[path], `${path} has no label in i18n/fields.en.js`);
    assert.equal(zh[path]?.length, 2, `${path} has no label and help in i18n/fields.zh.js`);
    for (const text of zh[path]) assert.ok(text.trim(), `${path} is empty in i18n/fields.zh.js`);
    assert.ok(schema.description, `${path} has no description in the schema, which is the English help`);
  }
  for (const path of Object.keys({ ...en, ...zh })) assert.ok(path in fields, `${path} has words but is no field`);
  for (const path of GROUPS.flatMap(([, shown, folded]) => [...shown, ...folded]))
    assert.ok(path in fields, `${path} has a group but is no field`);
});

test('fields that no group names lie under the last fold, each field once', () => {
  const groups = grouped(['task', 'epochs', 'of_tomorrow', 'heads']);
  assert.deepEqual(groups.map((g) => g.shown), [['task'], [], [], ['epochs'], []]);
  assert.deepEqual(groups.map((g) => g.folded), [[], ['heads'], [], [], ['of_tomorrow']]);
});

test('what is typed becomes the value that the schema wants, or goes as it was typed', () => {
  const list = (type) => ({ type: 'array', items: { type } });
  const cases = [
    [{ type: 'integer' }, '3', 3],
    [{ type: 'number' }, '5e-5', 5e-5],
    [{ type: 'number' }, 'much', 'much'],
    [{ type: 'boolean' }, 'true', true],
    [{ type: 'string' }, '3', '3'],
    [{ type: 'string' }, '', undefined],
    [list('integer'), '1, 3', [1, 3]],
    [list('integer'), '1, x', [1, 'x']],
    [list('string'), 'a, b ,', ['a', 'b']],
    [{ oneOf: [{ type: 'string', enum: ['balanced', 'none'] }, list('number')] }, 'balanced', 'balanced'],
    [{ oneOf: [{ type: 'string', enum: ['balanced', 'none'] }, list('number')] }, '1, 2.5', [1, 2.5]],
    [{ type: 'object' }, '{"a": 1}', { a: 1 }],
    [{ type: 'object' }, '{"a"', '{"a"'],
  ];
  for (const [schema, text, value] of cases) {
    assert.deepEqual(parseField(schema, text), value, `${JSON.stringify(schema)} ${text}`);
    if (value !== undefined) assert.deepEqual(parseField(schema, printField(value)), value, `${text} printed and read`);
  }
});

test('the form speaks Chinese, keeps the rare fields folded, and opens the fold of a fault', { skip }, async () => {
  const page = await browser.open(`${daemon.url}/new?dataset=news&teacher=teacher`, { locale: 'zh-CN' });
  const heads = page.getByLabel('头数');
  await page.getByLabel('层数').waitFor();
  assert.equal(await heads.isVisible(), false, 'folded at first');
  const helps = await page.locator('.form-row small[id$=-help]').allTextContents();
  assert.deepEqual(helps.filter((text) => !/[\u4e00-\u9fff]/.test(text)), [], 'helps that are not Chinese');

  const shape = page.locator('fieldset', { has: page.getByLabel('层数') });
  await shape.locator('summary').click();
  await page.waitForURL(/open=shape/);
  await heads.fill('3');
  await shape.locator('summary', { hasText: '已填 1 项' }).waitFor();
  await page.locator('#field-heads-fault:not(:empty)').waitFor(); // 3 does not divide the teacher's width
  await shape.locator('summary').click();
  assert.equal(await heads.isVisible(), false);
  await page.getByLabel('轮数').fill('2');
  await heads.waitFor(); // the next check finds the fault again and opens the fold

  const twin = await browser.open(page.url(), { context: page.context() });
  await twin.getByLabel('头数').waitFor();
  assert.equal(await twin.getByLabel('头数').inputValue(), '3', 'a link shows the same form');
  assert.equal(await twin.getByLabel('轮数').inputValue(), '2');
  assert.deepEqual(
    [...page.faults, ...twin.faults].filter((f) => !f.includes('422')),
    [],
  );
});
