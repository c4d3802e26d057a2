// Runs before the first paint, so that a kept theme does not flash. Kept apart and tiny because it blocks rendering.
try {
  const theme = localStorage.getItem('distilld.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // no storage: the system's preference decides
}
