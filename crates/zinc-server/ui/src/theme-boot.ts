// The chosen theme, set before anything is painted.

try {
  const chosen = localStorage.getItem('zinc.theme');
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is switched off: the system's theme holds.
}
