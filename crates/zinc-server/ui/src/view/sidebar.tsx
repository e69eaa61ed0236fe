/** The conversations. */

import { signal } from '@preact/signals';
import { useEffect, useRef, useState } from 'preact/hooks';
import * as db from '../db';
import { exportText, importText } from '../export';
import { offerDownload } from '../files';
import { closePanels, dialog, theme, toggleSidebar, type Theme } from '../state/layout';
import { streaming } from '../state/chat';
import { toast } from '../state/notices';
import { adopt, conversations, current, messagesOf, newChat, open, remove, update } from '../state/store';
import type { Conversation } from '../types';
import { focusComposer } from './composer';
import type { IconName } from './icons';
import { Icon, IconButton, Menu } from './parts';

const query = signal('');
/** Conversations whose texts match the query; `null` while nothing is searched. */
const matches = signal<Set<string> | null>(null);

export const SEARCH = 'search';

export function Sidebar() {
  return (
    <aside class="sidebar" id="sidebar" aria-label="Conversations">
      <div class="sidebar-head">
        <a class="brand" href="./" onClick={(event) => (event.preventDefault(), startNew())}>
          <span class="mark" aria-hidden="true" />zinc
        </a>
        <IconButton icon="sidebar" label="Hide conversations" onClick={toggleSidebar} />
      </div>
      <button type="button" class="new-chat" onClick={startNew}><Icon name="plus" />New chat</button>
      <Search />
      <nav class="conversations" aria-label="Conversations">
        <List />
      </nav>
      <Footer />
    </aside>
  );
}

/** Begins a new chat, with the focus where its first message is written. */
export function startNew(): void {
  newChat();
  closePanels();
  setTimeout(focusComposer);
}

function Search() {
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const onInput = (event: Event) => {
    query.value = (event.currentTarget as HTMLInputElement).value;
    clearTimeout(timer.current);
    const words = query.value.trim();
    if (!words) matches.value = null;
    else timer.current = setTimeout(() => void find(words), 120);
  };
  return (
    <label class="search">
      <Icon name="search" />
      <input id={SEARCH} type="search" placeholder="Search" aria-label="Search conversations" value={query.value} onInput={onInput} />
    </label>
  );
}

async function find(words: string): Promise<void> {
  const found = await db.searchTexts(words).catch(() => new Set<string>());
  const wanted = words.toLowerCase();
  for (const { id, title } of conversations.value) {
    if (title.toLowerCase().includes(wanted)) found.add(id);
  }
  if (query.value.trim() === words) matches.value = found;
}

const DAY_MS = 86_400_000;

/** The heading under which a conversation stands. */
function ageOf(conversation: Conversation): string {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (conversation.updated >= midnight) return 'Today';
  if (conversation.updated >= midnight - DAY_MS) return 'Yesterday';
  if (conversation.updated >= midnight - 7 * DAY_MS) return 'Last seven days';
  return 'Earlier';
}

function List() {
  const found = matches.value;
  const shown = conversations.value.filter((each) => !found || found.has(each.id));
  if (shown.length === 0) return <p class="empty">{found ? 'Nothing found.' : 'Your conversations will be here.'}</p>;
  const groups = new Map<string, Conversation[]>();
  for (const conversation of shown) {
    const age = ageOf(conversation);
    groups.set(age, [...(groups.get(age) ?? []), conversation]);
  }
  return (
    <>
      {[...groups].map(([age, list]) => (
        <section key={age} aria-label={age}>
          <h2>{age}</h2>
          <ul>{list.map((conversation) => <Item key={conversation.id} conversation={conversation} />)}</ul>
        </section>
      ))}
    </>
  );
}

function Item({ conversation }: { conversation: Conversation }) {
  const [isRenaming, setRenaming] = useState(false);
  const isCurrent = current.value?.id === conversation.id;
  const show = () => {
    void open(conversation.id);
    closePanels();
  };
  if (isRenaming) return <li><Rename conversation={conversation} close={() => setRenaming(false)} /></li>;
  return (
    <li class={isCurrent ? 'current' : ''}>
      <button type="button" class="title" dir="auto" aria-current={isCurrent ? 'true' : undefined} title={conversation.title}
        onClick={show} onDblClick={() => setRenaming(true)}>
        {conversation.title}
      </button>
      {[...streaming.value.values()].includes(conversation.id) && <span class="pulse" aria-hidden="true" />}
      <Menu label={`Options for ${conversation.title}`} items={[
        { label: 'Rename', icon: 'edit', run: () => setRenaming(true) },
        { label: 'Export', icon: 'download', run: () => void exportSome([conversation]) },
        { label: 'Delete', icon: 'trash', run: () => void removeWithUndo(conversation), danger: true },
      ]} />
    </li>
  );
}

function Rename({ conversation, close }: { conversation: Conversation; close: () => void }) {
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.select(), []);
  const finish = () => {
    const title = input.current?.value.trim();
    if (title && title !== conversation.title) update(conversation.id, { title, named: true });
    close();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    event.stopPropagation();
    if (event.key === 'Enter') finish();
    if (event.key === 'Escape') close();
  };
  return <input class="rename" ref={input} dir="auto" aria-label="New title" defaultValue={conversation.title} maxLength={200} onBlur={finish} onKeyDown={onKeyDown} />;
}

async function removeWithUndo(conversation: Conversation): Promise<void> {
  const undo = await remove(conversation.id);
  toast(`“${conversation.title}” is deleted.`, { label: 'Undo', run: undo });
}

async function exportSome(list: Conversation[]): Promise<void> {
  const archives = [];
  for (const conversation of list) {
    const messages = [...(await messagesOf(conversation.id)).values()];
    archives.push({ conversation, messages });
  }
  const day = new Date().toISOString().slice(0, 10);
  const name = list.length === 1 ? fileName(list[0]?.title ?? '') : 'conversations';
  offerDownload(`zinc-${name}-${day}.json`, exportText(archives));
}

function fileName(title: string): string {
  return title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-|-$/g, '').slice(0, 40) || 'conversation';
}

async function importFiles(files: FileList | null): Promise<void> {
  for (const file of files ?? []) {
    try {
      const archives = importText(await file.text());
      adopt(archives);
      toast(archives.length === 1 ? 'One conversation is imported.' : `${archives.length} conversations are imported.`);
      if (archives[0]) void open(archives[0].conversation.id);
    } catch (error) {
      toast((error as Error).message);
    }
  }
}

const themes: Record<Theme, { icon: IconName; next: Theme; label: string }> = {
  system: { icon: 'system', next: 'light', label: 'Theme: as the system' },
  light: { icon: 'sun', next: 'dark', label: 'Theme: light' },
  dark: { icon: 'moon', next: 'system', label: 'Theme: dark' },
};

function Footer() {
  const picker = useRef<HTMLInputElement>(null);
  const { icon, next, label } = themes[theme.value];
  return (
    <div class="sidebar-foot">
      <IconButton icon={icon} label={label} onClick={() => (theme.value = next)} />
      <IconButton icon="keyboard" label="Keyboard shortcuts" onClick={() => (dialog.value = 'shortcuts')} />
      <span class="grow" />
      <IconButton icon="upload" label="Import conversations" onClick={() => picker.current?.click()} />
      <IconButton icon="download" label="Export all conversations" disabled={conversations.value.length === 0}
        onClick={() => void exportSome(conversations.value)} />
      <input ref={picker} type="file" accept="application/json,.json" multiple hidden tabIndex={-1} aria-label="Conversations to import"
        onChange={(event) => {
          void importFiles(event.currentTarget.files).finally(() => {
            if (picker.current) picker.current.value = '';
          });
        }} />
    </div>
  );
}
