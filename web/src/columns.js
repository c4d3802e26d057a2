// Series as columns: what the charts draw from, and what one new row is added to.
import { carryOn } from './smooth.js';

const SMOOTHED = '~'; // before the name of a column of averages

/**
 * Columns of equal length, ordered by a key; a row with a known key replaces what was there. `reduced`: the daemon has
 * more rows than these. `tau`: the averages that came with them (0: none); rows that follow carry them on.
 */
export class Columns {
  constructor(key, columns = { [key]: [] }, { reduced = false, tau = 0 } = {}) {
    this.key = key;
    this.columns = columns;
    this.reduced = reduced;
    this.tau = tau;
  }

  /** Of the daemon's rows, each with its averages in `smooth` where they were asked for. */
  static of(key, list, meta) {
    const rows = new Columns(key, undefined, meta);
    for (const row of list) rows.add(row);
    return rows;
  }

  get length() {
    return this.columns[this.key].length;
  }

  get last() {
    return this.columns[this.key][this.length - 1];
  }

  column(name) {
    return this.columns[name] ?? new Array(this.length).fill(null);
  }

  /** The averages of a column over all rows that the daemon has, or null where they did not come with these. */
  averages(name, tau) {
    return this.tau === tau ? (this.columns[SMOOTHED + name] ?? null) : null;
  }

  setAverages(columns) {
    for (const [name, column] of Object.entries(columns))
      if (name !== this.key) this.columns[SMOOTHED + name] = column;
  }

  add({ smooth, ...row }) {
    const keys = this.columns[this.key];
    let at = keys.length;
    while (at > 0 && keys[at - 1] >= row[this.key]) at--;
    const replaces = keys[at] === row[this.key];
    for (const [name, value] of Object.entries(smooth ?? {})) row[SMOOTHED + name] = value;
    if (this.tau && !smooth && !replaces)
      for (const [name, averages] of Object.entries(this.columns))
        if (name.startsWith(SMOOTHED) && !(name in row)) {
          const value = row[name.slice(1)] ?? null;
          row[name] = at === keys.length ? carryOn(keys, averages, row[this.key], value, this.tau) : value;
        }
    for (const name of Object.keys(row))
      if (!(name in this.columns)) this.columns[name] = new Array(keys.length).fill(null);
    for (const [name, column] of Object.entries(this.columns)) {
      const value = row[name] ?? null;
      if (!replaces) column.splice(at, 0, value);
      else if (name in row || !name.startsWith(SMOOTHED)) column[at] = value;
    }
  }

  /** Adds the rows of another that lie behind the last one here. */
  addFrom(other) {
    const names = Object.keys(other.columns);
    const keys = other.column(this.key);
    for (let i = keys.findIndex((key) => !(key <= this.last)); i >= 0 && i < keys.length; i++)
      this.add(Object.fromEntries(names.map((name) => [name, other.columns[name][i]])));
  }

  /** Keeps only these indices. */
  pick(indices) {
    for (const name of Object.keys(this.columns)) this.columns[name] = indices.map((i) => this.columns[name][i]);
    this.reduced = true;
  }

  /**
   * The keys that lie at the values of x (as many as there are rows, rising) from … to: those of the rows next to them
   * on the outer sides.
   */
  keysBetween(x, from, to) {
    const keys = this.columns[this.key];
    let low = 0;
    while (low + 1 < keys.length && x[low + 1] <= from) low++;
    let high = keys.length - 1;
    while (high > low && x[high - 1] >= to) high--;
    return [keys[low], keys[high]];
  }
}
