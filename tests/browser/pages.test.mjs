// Every page, in both languages and both themes, wide and as a phone: axe finds nothing, nothing is wider than the window,
// and the console stays empty. A page is opened once and then turned around, which is how a reader changes these too.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { Daemon, tinyTeacher, topics, waitFor } from '../e2e/daemon.mjs';
import { axeSource, launch, noBrowser } from './browser.mjs';

const skip = noBrowser;
const WIDE = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };
let daemon, browser;
let student; // a finished one

before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '2', '--threads', '2'] });
  await daemon.upload('news', { train: { text: topics(200), filename: 'train.tsv' }, dev: { text: topics(60, 5), filename: 'dev.tsv' } });
  const teacher = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'news', save_as: 'teacher', tags: ['news'] });
  await daemon.waitState(teacher.id, 'finished');
  const base = { dataset: 'news', teacher: 'teacher', layers: 1, epochs: 3, max_length: 16 };
  student = (await daemon.post('/experiments', { ...base, name: 'student', save_as: 'student' })).id;
  await daemon.post('/sweeps', { name: 'T × alpha', base, grid: { T: [1, 4], alpha: [0.2, 0.9] }, seeds: [1, 2] });
  await daemon.waitState(student, 'finished');
  await daemon.post('/models/student/quantize', { save_as: 'student-int8', dataset: 'news' });
  await waitFor(async () => (await daemon.get('/sweeps/1')).status === 'finished', 120_000, 'the sweep');
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await daemon?.discard();
});
afterEach(() => browser?.closeContexts());

/** [path, what is there when the page is whole] */
const pages = () => [
  ['/runs', 'tbody tr[data-id]'],
  [`/runs/${student}`, '.report-body .report'],
  [`/runs/${student}?tab=predictions&table=loss`, '.predictions tbody tr, .tab-body [role=status]'],
  [`/runs/${student}?tab=spec&smooth=0.5`, '.code pre'],
  [`/runs/${student}?tab=log&x=clock`, '.log-line'],
  [`/compare?ids=${student},${student + 1},${student + 2}&seeds=1&vs=${student + 1}`, 'table.confusion'],
  ['/compare', '.teach a.button'],
  ['/sweeps', '.page table'],
  ['/sweeps/1', '.heat'],
  ['/datasets', '.page table'],
  ['/datasets/news', '.page table'],
  ['/models', '.page table'],
  ['/models/student', '.page table'],
  ['/models/student-int8', '.page table'],
  ['/new?dataset=news&teacher=teacher', '.new-side .figures div'],
  ['/system', '.page table'],
  ['/nowhere', '.page a.button'],
];

/** What axe and the window's width have against the page as it is. */
async function complaints(page) {
  // colours that are on their way are neither the old nor the new
  await page.waitForFunction(() => document.getAnimations().every((a) => a.playState !== 'running'));
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  return [
    ...violations.map((v) => `${v.id} ${v.nodes.slice(0, 3).map((n) => `${n.target} ${n.failureSummary}`).join(' | ')}`),
    ...(wide > 0 ? [`${wide} px wider than the window`] : []),
  ];
}

for (const locale of ['en-US', 'zh-CN'])
  test(`every page in ${locale}: no fault and nothing that axe finds`, { skip }, async () => {
    const context = await browser.context({ locale, bypassCSP: true, viewport: WIDE }); // axe is put in by script
    const found = [];
    for (const [path, whole] of pages()) {
      const page = await browser.open(daemon.url + path, { context });
      await page.locator(whole).first().waitFor();
      assert.equal(await page.evaluate(() => document.documentElement.lang), locale === 'en-US' ? 'en' : 'zh-CN');
      await page.addScriptTag({ content: axeSource() });
      for (const viewport of [WIDE, PHONE]) {
        await page.setViewportSize(viewport);
        for (const colorScheme of ['light', 'dark']) {
          await page.emulateMedia({ colorScheme });
          for (const complaint of await complaints(page)) found.push(`${colorScheme} ${viewport.width} ${path}: ${complaint}`);
        }
      }
      found.push(...page.faults.map((fault) => `${path}: ${fault}`));
      await page.close();
    }
    assert.deepEqual(found, []);
  });
