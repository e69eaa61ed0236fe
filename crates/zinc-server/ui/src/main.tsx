/** Where the page begins. */

import { effect } from '@preact/signals';
import { render } from 'preact';
import { isAlive, online } from './api';
import { refreshModels, waitForServer } from './state/models';
import { current, newChat, open, start } from './state/store';
import { App } from './view/app';
import { focusComposer } from './view/composer';
import { onKeyDown } from './view/shortcuts';

const root = document.getElementById('app');
if (root) {
  render(<App />, root);
  performance.mark('zinc-interactive');
  if (!matchMedia('(pointer: coarse)').matches) focusComposer();
}

document.addEventListener('keydown', onKeyDown);
addEventListener('hashchange', () => {
  const id = decodeURIComponent(location.hash.slice(1));
  if (id) void open(id);
  else newChat();
});
effect(() => {
  document.title = current.value ? `${current.value.title} · zinc` : 'zinc';
});
effect(() => {
  if (!online.value) waitForServer();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) void isAlive();
});

void refreshModels();
void start();
