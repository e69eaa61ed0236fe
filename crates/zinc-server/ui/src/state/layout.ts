/** What is open on the page besides the conversation. */

import { effect, signal } from '@preact/signals';

export type DialogName = 'models' | 'shortcuts';
export type Theme = 'system' | 'light' | 'dark';

const narrow = matchMedia('(max-width: 900px)');

/** Whether panels cover the conversation instead of standing beside it. */
export const isNarrow = signal(narrow.matches);
narrow.addEventListener('change', () => {
  isNarrow.value = narrow.matches;
  if (narrow.matches) closePanels();
});

/** The list of conversations. */
export const isSidebarOpen = signal(!narrow.matches && read('zinc.sidebar') !== 'closed');
/** The settings of the conversation. */
export const isSettingsOpen = signal(false);
/** The open dialog. */
export const dialog = signal<DialogName | null>(null);
/** Light, dark, or as the system is. */
export const theme = signal<Theme>(asTheme(read('zinc.theme')));

effect(() => {
  if (theme.value === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
  write('zinc.theme', theme.value);
});

function asTheme(value: string | null): Theme {
  return value === 'light' || value === 'dark' ? value : 'system';
}

function read(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function write(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Storage is switched off: the choice lives as long as the page.
  }
}

/** Opens or closes the list of conversations. */
export function toggleSidebar(): void {
  isSidebarOpen.value = !isSidebarOpen.value;
  if (isNarrow.value) isSettingsOpen.value = false;
  else write('zinc.sidebar', isSidebarOpen.value ? 'open' : 'closed');
}

/** Opens or closes the settings. */
export function toggleSettings(): void {
  isSettingsOpen.value = !isSettingsOpen.value;
  if (isNarrow.value) isSidebarOpen.value = false;
}

/** Closes what covers the conversation; gives whether there was anything. */
export function closePanels(): boolean {
  const wasOpen = isNarrow.value && (isSidebarOpen.value || isSettingsOpen.value);
  if (isNarrow.value) isSidebarOpen.value = false;
  if (isNarrow.value) isSettingsOpen.value = false;
  return wasOpen;
}
