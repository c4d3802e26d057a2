// The tables of the quality benchmark, as Markdown, and the same figures as an object.
import { classScores, interval, macroF1 } from './stats.mjs';

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const share = (values) => `${values.filter(Boolean).length} of ${values.length}`;
const f4 = (x) => x.toFixed(4).replace(/^0/, '');
const percent = ({ value, low, high }) => `${(100 * value).toFixed(1)} (${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)})`;
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

function lineOf(gold, group) {
  const own = group.map((run) => classScores(gold, run.predicted));
  return {
    arm: group[0].arm.name, layers: group[0].layers, runs: group.length,
    accuracy: mean(own.map((s) => s.accuracy)), macro_f1: mean(own.map((s) => s.macroF1)),
    retention_accuracy: interval(gold, group, 'accuracy'), retention_macro_f1: interval(gold, group, 'macroF1'),
    agreement: mean(group.map((run) => mean(run.predicted.map((label, i) => Number(label === run.teacher.predicted[i]))))),
    collapsed: share(group.map((run) => run.collapsed)), stuck: share(group.map((run) => run.stuck)), rollbacks: group.reduce((sum, run) => sum + run.rollbacks, 0),
    bytes: group[0].bytes, seconds: mean(group.map((run) => run.seconds)),
  };
}

function shrunkLines(gold, runs) {
  return runs.filter((run) => run.shrunk).map(({ layers, bytes, shrunk: { predicted, seconds, int8, pruned } }) => ({
    layers, bytes, macro_f1: macroF1(gold, predicted),
    int8_bytes: int8.bytes, int8_macro_f1: macroF1(gold, int8.predicted), int8_times_faster: seconds / int8.seconds,
    pruned_bytes: pruned.bytes, pruned_same: pruned.predicted.filter((label, i) => label === predicted[i]).length,
  }));
}

/** { task, gold, teachers, runs } of one data set → its Markdown and its figures. */
export function tableOf({ task, gold, teachers, runs }) {
  const scores = teachers.map((teacher) => classScores(gold, teacher.predicted));
  const keys = [...new Set(runs.map((run) => `${run.arm.name}\t${run.layers}`))];
  const lines = keys.map((key) => lineOf(gold, runs.filter((run) => `${run.arm.name}\t${run.layers}` === key)));
  const small = shrunkLines(gold, runs);
  const text = [
    `### ${task.dataset}\n`,
    `${task.about[0].toUpperCase()}${task.about.slice(1)}. Test split of ${gold.length} rows. Teachers: `
      + `${scores.map((s) => `${f4(s.accuracy)} / ${f4(s.macroF1)}`).join(', ')} (accuracy / macro F1).\n`,
    '| arm | layers | runs | accuracy | macro F1 | % of the teacher\'s accuracy | % of its macro F1 | agrees | collapsed | stuck | MB | s |',
    '|---|---|---|---|---|---|---|---|---|---|---|---|',
    ...lines.map((l) => `| ${l.arm} | ${l.layers} | ${l.runs} | ${f4(l.accuracy)} | ${f4(l.macro_f1)} | ${percent(l.retention_accuracy)} | ${percent(l.retention_macro_f1)} | `
      + `${f4(l.agreement)} | ${l.collapsed} | ${l.stuck} | ${megabytes(l.bytes)} | ${l.seconds.toFixed(0)} |`),
    '',
    ...(small.length === 0 ? [] : [
      'The default student made smaller:\n',
      '| layers | MB | int8 MB | points of macro F1 lost | times as fast | pruned MB | same labels |',
      '|---|---|---|---|---|---|---|',
      ...small.map((s) => `| ${s.layers} | ${megabytes(s.bytes)} | ${megabytes(s.int8_bytes)} | ${(100 * (s.macro_f1 - s.int8_macro_f1)).toFixed(2)} | `
        + `${s.int8_times_faster.toFixed(1)} | ${megabytes(s.pruned_bytes)} | ${s.pruned_same} of ${gold.length} |`),
      '',
    ]),
  ].join('\n');
  return { text, figures: { dataset: task.dataset, teachers: scores, lines, shrunk: small } };
}
