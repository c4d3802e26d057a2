// Series as columns: what the charts draw from, and what one new row is added to.

/** Columns of equal length, ordered by a key; a row with a known key replaces what was there. */
export class Columns {
  constructor(key, columns = { [key]: [] }) {
    this.key = key;
    this.columns = columns;
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

  add(row) {
    const keys = this.columns[this.key];
    let at = keys.length;
    while (at > 0 && keys[at - 1] >= row[this.key]) at--;
    const replaces = keys[at] === row[this.key];
    for (const name of Object.keys(row))
      if (!(name in this.columns)) this.columns[name] = new Array(keys.length).fill(null);
    for (const [name, column] of Object.entries(this.columns)) {
      const value = row[name] ?? null;
      if (replaces) column[at] = value;
      else column.splice(at, 0, value);
    }
  }

  /** Keeps only these indices. */
  pick(indices) {
    for (const name of Object.keys(this.columns)) this.columns[name] = indices.map((i) => this.columns[name][i]);
  }
}
