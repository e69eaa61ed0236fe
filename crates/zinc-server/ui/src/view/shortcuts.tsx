/** The keyboard: what keys do, and the list of them. */

import { stop, streaming, regenerate } from '../state/chat';
import { closePanels, dialog, isSettingsOpen, isSidebarOpen, toggleSettings, toggleSidebar } from '../state/layout';
import { say } from '../state/notices';
import { path } from '../state/store';
import { COMPOSER, focusComposer } from './composer';
import { Dialog } from './dialog';
import { PICKER } from './header';
import { copyText } from './parts';
import { SEARCH, startNew } from './sidebar';

interface Shortcut {
  /** As shown; `Mod` is Ctrl, or Cmd on a Mac. */
  keys: string;
  does: string;
  /** `key` of the event, in lower case, with its modifiers before it. */
  on?: string;
  run?: () => void;
}

const isMac = /mac|iphone|ipad/i.test(navigator.platform);

const shortcuts: Shortcut[] = [
  { keys: 'Enter', does: 'Send' },
  { keys: 'Shift Enter', does: 'New line' },
  { keys: '↑', does: 'Edit the last message, when nothing is written' },
  { keys: 'Esc', does: 'Stop the answer, or close what is open' },
  { keys: 'Mod Shift O', does: 'New chat', on: 'mod+shift+o', run: startNew },
  { keys: 'Mod K', does: 'Search conversations', on: 'mod+k', run: search },
  { keys: 'Mod Shift S', does: 'Show or hide conversations', on: 'mod+shift+s', run: toggleSidebar },
  { keys: 'Mod ,', does: 'Show or hide settings', on: 'mod+,', run: toggleSettings },
  { keys: 'Mod Shift M', does: 'Choose a model', on: 'mod+shift+m', run: () => document.getElementById(PICKER)?.click() },
  { keys: 'Mod Shift C', does: 'Copy the last answer', on: 'mod+shift+c', run: copyLast },
  { keys: 'Mod Shift Enter', does: 'Answer again', on: 'mod+shift+enter', run: again },
  { keys: 'Mod /', does: 'This list', on: 'mod+/', run: () => (dialog.value = 'shortcuts') },
];

function search(): void {
  if (!isSidebarOpen.value) toggleSidebar();
  setTimeout(() => document.getElementById(SEARCH)?.focus());
}

function copyLast(): void {
  const last = path.value.findLast((message) => message.role === 'assistant');
  if (last) void copyText(last.text).then((done) => done && say('Answer copied.'));
}

function again(): void {
  const last = path.value.findLast((message) => message.role === 'assistant');
  if (last && last.state !== 'open') void regenerate(last);
}

/** Acts on a key anywhere on the page. */
export function onKeyDown(event: KeyboardEvent): void {
  if (event.isComposing || document.querySelector('dialog[open]')) return;
  if (event.key === 'Escape') {
    onEscape(event);
    return;
  }
  const isMod = isMac ? event.metaKey : event.ctrlKey;
  const name = `${isMod ? 'mod+' : ''}${event.shiftKey ? 'shift+' : ''}${event.key.toLowerCase()}`;
  const shortcut = shortcuts.find((each) => each.on === name);
  if (shortcut?.run) {
    event.preventDefault();
    shortcut.run();
  } else if (isTyping(event)) {
    focusComposer();
  }
}

function onEscape(event: KeyboardEvent): void {
  if (closePanels()) return focusComposer();
  const last = path.value.at(-1);
  if (last && streaming.value.has(last.id)) {
    event.preventDefault();
    stop();
  } else if (isSettingsOpen.value && document.activeElement?.closest('.settings')) {
    toggleSettings();
    focusComposer();
  }
}

/** Letters typed anywhere go to the message, unless something else takes them. */
function isTyping(event: KeyboardEvent): boolean {
  const isLetter = event.key.length === 1 && event.key !== ' ' && !event.ctrlKey && !event.metaKey && !event.altKey;
  const focused = document.activeElement;
  return isLetter && (focused === document.body || focused?.classList.contains('scroller') === true) && focused.id !== COMPOSER;
}

export function ShortcutsDialog() {
  return (
    <Dialog title="Keyboard shortcuts" class="small" onClose={() => (dialog.value = null)}>
      <dl class="shortcuts">
        {shortcuts.map(({ keys, does }) => (
          <div key={keys}>
            <dt>{keys.split(' ').map((key) => <kbd key={key}>{key === 'Mod' ? (isMac ? '⌘' : 'Ctrl') : key}</kbd>)}</dt>
            <dd>{does}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
