/** Where messages are written. */

import { useLayoutEffect, useRef } from 'preact/hooks';
import { ask, stop, streaming } from '../state/chat';
import { attach, attached, draft } from '../state/draft';
import { activeModel } from '../state/models';
import { changeSettings, path, settings } from '../state/store';
import type { Thinking } from '../types';
import { Icon, IconButton, bytesText } from './parts';

/** Id of the text field, for those who bring the focus back to it. */
export const COMPOSER = 'composer';

/** Puts the focus where messages are written. */
export function focusComposer(): void {
  document.getElementById(COMPOSER)?.focus();
}

const isTouch = matchMedia('(pointer: coarse)');

export function Composer() {
  const area = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  const last = path.value.at(-1);
  const isStreaming = last !== undefined && streaming.value.has(last.id);
  const isEmpty = draft.value.trim() === '' && attached.value.length === 0;
  useLayoutEffect(() => fitHeight(area.current), [draft.value]);
  const send = () => {
    if (isEmpty || isStreaming) return;
    ask(draft.value.trim(), attached.value);
    draft.value = '';
    attached.value = [];
    focusComposer();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    // On a touch keyboard Enter is a new line; the button sends.
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && !isTouch.matches) {
      event.preventDefault();
      send();
    }
    if (event.key === 'ArrowUp' && isEmpty) editLast(event);
  };
  const onPaste = (event: ClipboardEvent) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length > 0) {
      event.preventDefault();
      void attach(files);
    }
  };
  return (
    <form class="composer" onSubmit={(event) => (event.preventDefault(), send())}>
      <Files />
      <textarea id={COMPOSER} ref={area} rows={1} dir="auto" value={draft.value} placeholder="Write a message" aria-label="Message"
        enterkeyhint={isTouch.matches ? 'enter' : 'send'}
        onInput={(event) => (draft.value = event.currentTarget.value)} onKeyDown={onKeyDown} onPaste={onPaste} />
      <div class="composer-row">
        <IconButton icon="clip" label="Attach text files" onClick={() => picker.current?.click()} />
        <input ref={picker} type="file" multiple hidden tabIndex={-1} aria-label="Files to attach"
          onChange={(event) => {
            void attach([...(event.currentTarget.files ?? [])]);
            event.currentTarget.value = '';
          }} />
        <ThinkingSwitch />
        <JsonSwitch />
        <span class="grow" />
        {isStreaming ? (
          <button type="button" class="send" aria-label="Stop the answer" title="Stop the answer (Esc)" onClick={() => stop()}><Icon name="stop" /></button>
        ) : (
          <button type="submit" class="send" aria-label="Send" title="Send (Enter)" disabled={isEmpty || activeModel.value === null}><Icon name="send" /></button>
        )}
      </div>
    </form>
  );
}

/** The arrow up in an empty field edits the last question. */
function editLast(event: KeyboardEvent): void {
  const questions = document.querySelectorAll<HTMLElement>('.turn.user .edit');
  const edit = questions[questions.length - 1];
  if (!edit) return;
  event.preventDefault();
  edit.click();
}

function fitHeight(area: HTMLTextAreaElement | null): void {
  if (!area) return;
  area.style.height = 'auto';
  area.style.height = `${Math.min(area.scrollHeight, Math.round(innerHeight * 0.4))}px`;
}

function Files() {
  if (attached.value.length === 0) return null;
  return (
    <ul class="attached" aria-label="Files to send">
      {attached.value.map(({ name, text }) => (
        <li key={name}>
          <Icon name="file" />
          <span>{name}</span>
          <small>{bytesText(text.length)}</small>
          <IconButton icon="close" label={`Remove ${name}`} onClick={() => (attached.value = attached.value.filter((each) => each.name !== name))} />
        </li>
      ))}
    </ul>
  );
}

const nextThinking: Record<Thinking, Thinking> = { default: 'on', on: 'off', off: 'default' };
const thinkingWords: Record<Thinking, string> = { default: 'as the model likes', on: 'on', off: 'off' };

function ThinkingSwitch() {
  const { thinking } = settings.value;
  const words = thinkingWords[thinking];
  return (
    <button type="button" class={`chip ${thinking === 'on' ? 'on' : ''}`} title={`Thinking before the answer: ${words}`}
      onClick={() => changeSettings({ thinking: nextThinking[thinking] })}>
      {thinking === 'default' ? 'Think: auto' : `Think: ${thinking}`}
    </button>
  );
}

function JsonSwitch() {
  const { output } = settings.value;
  const isOn = output !== 'text';
  return (
    <button type="button" class={`chip ${isOn ? 'on' : ''}`} aria-pressed={isOn} title="The answer is JSON"
      onClick={() => changeSettings({ output: isOn ? 'text' : 'json' })}>
      {output === 'schema' ? 'Schema' : 'JSON'}
    </button>
  );
}
