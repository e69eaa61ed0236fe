/** The whole page. */

import { useEffect, useState } from 'preact/hooks';
import { keyWanted, online } from '../api';
import { attach } from '../state/draft';
import { closePanels, dialog, isNarrow, isSettingsOpen, isSidebarOpen } from '../state/layout';
import { spoken } from '../state/notices';
import { Composer } from './composer';
import { Header } from './header';
import { KeyDialog } from './key-dialog';
import { ModelsDialog } from './models-dialog';
import { Notices } from './notices';
import { Icon } from './parts';
import { SettingsPanel } from './settings-panel';
import { ShortcutsDialog } from './shortcuts';
import { Sidebar } from './sidebar';
import { Transcript } from './transcript';

export function App() {
  const isCovered = isNarrow.value && (isSidebarOpen.value || isSettingsOpen.value);
  return (
    <div class="page">
      {isSidebarOpen.value && <Sidebar />}
      {isCovered && <div class="scrim" onClick={closePanels} />}
      <main class="main" inert={isCovered}>
        <Header />
        <OfflineBanner />
        <Transcript />
        <Composer />
      </main>
      {isSettingsOpen.value && <SettingsPanel />}
      {dialog.value === 'models' && <ModelsDialog />}
      {dialog.value === 'shortcuts' && <ShortcutsDialog />}
      {keyWanted.value && <KeyDialog />}
      <DropZone />
      {!dialog.value && !keyWanted.value && <Notices />}
      <Spoken />
    </div>
  );
}

/** What is said to screen readers. A component of its own, because it changes while answers stream. */
function Spoken() {
  return (
    <div class="visually-hidden" role="status" aria-live="polite">
      {spoken.value.map(({ id, text }) => <p key={id}>{text}</p>)}
    </div>
  );
}

function OfflineBanner() {
  if (online.value) return null;
  return (
    <div class="banner" role="alert">
      <span class="pulse" aria-hidden="true" />
      The server does not answer. This page waits for it and connects again by itself.
    </div>
  );
}

/** Takes text files that are dropped anywhere. */
function DropZone() {
  const [isOver, setOver] = useState(false);
  useEffect(() => {
    const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes('Files') === true;
    const over = (event: DragEvent) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const leave = (event: DragEvent) => {
      if (event.relatedTarget === null) setOver(false);
    };
    const drop = (event: DragEvent) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setOver(false);
      void attach([...(event.dataTransfer?.files ?? [])]);
    };
    document.addEventListener('dragover', over);
    document.addEventListener('dragleave', leave);
    document.addEventListener('drop', drop);
    return () => {
      document.removeEventListener('dragover', over);
      document.removeEventListener('dragleave', leave);
      document.removeEventListener('drop', drop);
    };
  }, []);
  return isOver ? <div class="drop"><p><Icon name="file" />Drop text files to attach them</p></div> : null;
}
