// Whether a lead is more than noise: the daemon's paired bootstrap, as a table. Shared by Compare and Sweeps.
import { h } from '../dom.js';
import { t } from '../i18n.js';
import { delta, number } from '../format.js';

/** "+.0123 … −.0040": the interval of a row, as text. */
export const intervalText = (row) => (row.low === null ? '–' : `${delta(row.low)} … ${delta(row.high)}`);

export const verdict = (row) =>
  t(row.within_noise === null ? 'lead.unknown' : row.within_noise ? 'lead.within' : 'lead.beyond');

/** How many of the others cannot be told from the baseline. */
export const ties = (significance) => significance.others.filter((row) => row.within_noise).length;

/** What kind of test it was, in a sentence. */
export const testText = (significance) =>
  t('lead.test', {
    rows: number(significance.rows),
    resamples: number(significance.resamples),
    confidence: String(Math.round(significance.confidence * 100)),
    metric: t(`metric.${significance.metric}`),
  });

/** The whole table; name(row) labels a row. */
export function leadTable(significance, name, baseline) {
  const columns = ['other', 'difference', 'interval', 'verdict'];
  return [
    h('p', { class: 'lead' }, t('lead.of', { name: baseline }), ' ', testText(significance)),
    h(
      'table',
      { class: 'data' },
      h('thead', {}, h('tr', {}, columns.map((c) => h('th', { scope: 'col', class: c === 'difference' || c === 'interval' ? 'num' : '' }, t(`lead.${c}`))))),
      h(
        'tbody',
        {},
        significance.others.map((row) =>
          h(
            'tr',
            {},
            h('th', { scope: 'row' }, name(row)),
            h('td', { class: 'num' }, row.difference === null ? '–' : delta(row.difference)),
            h('td', { class: 'num' }, intervalText(row)),
            h('td', {}, verdict(row)),
          ),
        ),
      ),
    ),
  ];
}
