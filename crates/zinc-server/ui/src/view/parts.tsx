/** Small parts that the whole page uses. */

import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { outlines, type IconName } from './icons';

/** An icon, which screen readers pass over. */
export function Icon({ name }: { name: IconName }) {
  return (
    <svg viewBox="0 0 24 24" class="icon" aria-hidden="true">
      {outlines[name].map((d) => <path key={d} d={d} />)}
    </svg>
  );
}

interface IconButtonProps {
  icon: IconName;
  label: string;
  onClick: (event: MouseEvent) => void;
  class?: string;
  disabled?: boolean;
  pressed?: boolean;
  expanded?: boolean;
}

/** A button with an icon alone; its label is read out and shown on hover. */
export function IconButton(props: IconButtonProps) {
  return (
    <button type="button" class={`icon-button ${props.class ?? ''}`} aria-label={props.label} title={props.label}
      disabled={props.disabled} aria-pressed={props.pressed} aria-expanded={props.expanded} onClick={props.onClick}>
      <Icon name={props.icon} />
    </button>
  );
}

/** A button that copies, and says so. */
export function CopyButton({ text, label }: { text: () => string; label: string }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    setDone(await copyText(text()));
    setTimeout(() => setDone(false), 1500);
  };
  return <IconButton icon={done ? 'check' : 'copy'} label={done ? 'Copied' : label} onClick={() => void copy()} />;
}

/** Copies a text; gives whether that worked. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // The clipboard's interface needs HTTPS or this machine itself; elsewhere the old way may work.
    const area = document.createElement('textarea');
    area.value = text;
    area.className = 'visually-hidden';
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}

interface MenuItem {
  label: string;
  icon: IconName;
  run: () => void;
  danger?: boolean;
}

/** A button with a menu, by mouse and by arrow keys. */
export function Menu({ label, items, icon = 'more' }: { label: string; items: MenuItem[]; icon?: IconName }) {
  const [isOpen, setOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  const list = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    if (!isOpen) return;
    place(root.current, list.current);
    list.current?.querySelector('button')?.focus();
    const away = (event: Event) => {
      if (!root.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener('pointerdown', away);
    return () => document.removeEventListener('pointerdown', away);
  }, [isOpen]);
  const close = () => {
    setOpen(false);
    root.current?.querySelector('button')?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (!isOpen) return;
    if (event.key === 'Escape' || event.key === 'Tab') close();
    else if (!moveFocus(event, list.current)) return;
    if (event.key !== 'Tab') event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div class="menu" ref={root} onKeyDown={onKeyDown}>
      <button type="button" class="icon-button" aria-label={label} title={label} aria-haspopup="menu"
        aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
        <Icon name={icon} />
      </button>
      {isOpen && (
        <div class="menu-list" role="menu" aria-label={label} ref={list}>
          {items.map((item) => (
            <button key={item.label} type="button" role="menuitem" tabIndex={-1} class={item.danger ? 'danger' : ''}
              onClick={() => (close(), item.run())}>
              <Icon name={item.icon} />
              {item.label}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}

/** A menu opens to where there is room. */
function place(button: HTMLElement | null, list: HTMLElement | null): void {
  if (!button || !list) return;
  const at = button.getBoundingClientRect();
  if (at.bottom + list.offsetHeight + 8 > innerHeight) list.classList.add('above');
  if (at.right - list.offsetWidth < 4) list.classList.add('to-right');
}

/** Moves the focus among the buttons of a list; gives whether the key was one for that. */
export function moveFocus(event: KeyboardEvent, list: HTMLElement | null): boolean {
  const buttons = [...(list?.querySelectorAll<HTMLElement>('button:not(:disabled)') ?? [])];
  const at = buttons.indexOf(document.activeElement as HTMLElement);
  const steps: Record<string, number> = {
    ArrowDown: (at + 1) % buttons.length,
    ArrowUp: (at - 1 + buttons.length) % buttons.length,
    Home: 0,
    End: buttons.length - 1,
  };
  const next = steps[event.key];
  if (next === undefined) return false;
  buttons[next]?.focus();
  return true;
}

/** Bytes for people. */
export function bytesText(n: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let at = 0;
  let value = n;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at++;
  }
  return `${value < 10 && at > 0 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

/** A duration for people. */
export function durationText(ms: number): string {
  if (ms < 1000) return `${Math.max(1, Math.round(ms))} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 60_000) return `${Math.round(ms / 1000)} s`;
  const minutes = Math.floor(ms / 60_000);
  const seconds = Math.round((ms % 60_000) / 1000);
  return minutes < 60 ? `${minutes} min ${seconds} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const counts = new Intl.NumberFormat('en');

/** A count for people: `8,192`. */
export function countText(n: number): string {
  return counts.format(n);
}
