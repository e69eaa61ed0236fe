/** The bar above the conversation. */

import { useEffect, useRef, useState } from 'preact/hooks';
import { changedCount } from '../settings';
import { dialog, isSettingsOpen, isSidebarOpen, toggleSettings, toggleSidebar } from '../state/layout';
import { activeModel, changing, choose, models, refreshModels } from '../state/models';
import { settings } from '../state/store';
import { Icon, IconButton, moveFocus } from './parts';
import { startNew } from './sidebar';

export const PICKER = 'model-picker';

export function Header() {
  const n = changedCount(settings.value);
  return (
    <header class="bar">
      {!isSidebarOpen.value && (
        <>
          <IconButton icon="menu" label="Show conversations" expanded={false} onClick={toggleSidebar} />
          <IconButton icon="plus" label="New chat" onClick={startNew} />
        </>
      )}
      <ModelPicker />
      <span class="grow" />
      <button type="button" class="icon-button settings-button" aria-expanded={isSettingsOpen.value} aria-label={n > 0 ? `Settings, ${n} changed` : 'Settings'}
        title="Settings of this conversation" onClick={toggleSettings}>
        <Icon name="sliders" />
        {n > 0 && <span class="count" aria-hidden="true">{n}</span>}
      </button>
    </header>
  );
}

function ModelPicker() {
  const [isOpen, setOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  const list = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!isOpen) return;
    void refreshModels();
    const wanted = list.current?.querySelector<HTMLElement>('[aria-checked=true]') ?? list.current?.querySelector('button');
    wanted?.focus();
    const away = (event: Event) => {
      if (!root.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener('pointerdown', away);
    return () => document.removeEventListener('pointerdown', away);
  }, [isOpen]);
  const close = () => {
    setOpen(false);
    document.getElementById(PICKER)?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (!isOpen) return;
    if (event.key === 'Escape' || event.key === 'Tab') close();
    else if (!moveFocus(event, list.current)) return;
    if (event.key !== 'Tab') event.preventDefault();
    event.stopPropagation();
  };
  const pick = (id: string) => {
    choose(id);
    close();
  };
  return (
    <div class="menu picker" ref={root} onKeyDown={onKeyDown}>
      <button type="button" id={PICKER} class="picker-button" aria-haspopup="menu" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
        <span class="visually-hidden">Model: </span>
        <span class="picker-name">{activeModel.value ?? (models.value ? 'No model' : 'zinc')}</span>
        <Icon name="down" />
      </button>
      {isOpen && (
        <div class="menu-list wide" role="menu" aria-label="Models" ref={list}>
          {models.value?.map((model) => (
            <button key={model.id} type="button" role="menuitemradio" tabIndex={-1} aria-checked={model.id === activeModel.value} onClick={() => pick(model.id)}>
              <span class={`dot ${changing.value.has(model.id) ? 'loading' : model.status}`} aria-hidden="true" />
              <span class="picker-item">
                <span>{model.id}</span>
                <small>{[statusWords[model.status], model.fit?.text].filter(Boolean).join(' · ')}</small>
              </span>
              {model.id === activeModel.value && <Icon name="check" />}
            </button>
          ))}
          <button type="button" role="menuitem" tabIndex={-1} class="apart" onClick={() => (close(), (dialog.value = 'models'))}>
            <Icon name="chip" />Manage and get models…
          </button>
        </div>
      )}
    </div>
  );
}

const statusWords = { loaded: 'in memory', loading: 'loading…', unloaded: 'loads when asked', failed: 'failed to load' };
