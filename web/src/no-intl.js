// uPlot makes one formatter of numbers and one of dates when it is read, though our axes write their own words: the first of
// Intl's formatters costs a new page 30 ms. build.mjs puts these in their place.
export class PlainNumbers {
  format = String;
}
export class PlainDates {
  resolvedOptions = () => ({});
}
