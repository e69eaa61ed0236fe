/** One message of the conversation. */

import { useComputed } from '@preact/signals';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { branchOff, answerTools, askAgain, regenerate, rewrite, stop } from '../state/chat';
import { toast } from '../state/notices';
import { adopt, children, open, removeBranch, show, tickOf } from '../state/store';
import type { Attachment, Message } from '../types';
import { Markdown } from './markdown';
import { CopyButton, Icon, IconButton, Menu, bytesText } from './parts';
import { Problem } from './problem';
import { StatsLine } from './stats';
import { Thinking } from './thinking';
import { ToolCalls } from './tools';

interface TurnProps {
  message: Message;
  isLast: boolean;
}

/** One message, with what can be done with it. */
export function Turn({ message, isLast }: TurnProps) {
  const [isEditing, setEditing] = useState(false);
  const who = { user: 'You', assistant: message.model ?? 'Answer', tool: 'Tool result' }[message.role];
  return (
    <article class={`turn ${message.role} ${isLast ? 'last' : ''}`} data-id={message.id} aria-busy={message.state === 'open'}>
      <h2 class={message.role === 'assistant' ? 'who' : 'visually-hidden'}>
        {message.role === 'assistant' && <span class="mark" aria-hidden="true" />}
        <span dir="auto">{who}</span>
      </h2>
      {message.role === 'assistant' && <Answer message={message} isLast={isLast} isEditing={isEditing} setEditing={setEditing} />}
      {message.role === 'user' && <Question message={message} isEditing={isEditing} setEditing={setEditing} />}
      {message.role === 'tool' && <ToolResult message={message} />}
    </article>
  );
}

interface EditProps {
  message: Message;
  isEditing: boolean;
  setEditing: (on: boolean) => void;
}

function Question({ message, isEditing, setEditing }: EditProps) {
  if (isEditing) {
    const hint = 'Sends this in place of the old message; the old one stays as another branch.';
    return <Editor text={message.text} action="Send" hint={hint} close={() => setEditing(false)} done={(text) => askAgain(message, text)} />;
  }
  return (
    <>
      <div class="bubble">
        <Attachments list={message.attachments ?? []} />
        {message.text && <LongText text={message.text} />}
      </div>
      <div class="actions end">
        <Siblings message={message} />
        <CopyButton text={() => message.text} label="Copy message" />
        <IconButton icon="edit" label="Edit message" class="edit" onClick={() => setEditing(true)} />
      </div>
    </>
  );
}

/** A long message is folded, so that it does not bury the conversation. */
function LongText({ text }: { text: string }) {
  const [isWhole, setWhole] = useState(false);
  const LIMIT = 2400;
  const isLong = text.length > LIMIT * 1.2;
  return (
    <>
      <div class="user-text" dir="auto">{isLong && !isWhole ? `${text.slice(0, LIMIT)}…` : text}</div>
      {isLong && (
        <button type="button" class="link-button" aria-expanded={isWhole} onClick={() => setWhole(!isWhole)}>
          {isWhole ? 'Show less' : 'Show all'}
        </button>
      )}
    </>
  );
}

function Attachments({ list }: { list: Attachment[] }) {
  if (list.length === 0) return null;
  return (
    <ul class="attachments" aria-label="Attached files">
      {list.map(({ name, text }) => (
        <li key={name}>
          <details>
            <summary><Icon name="file" /><span>{name}</span> <small>{bytesText(text.length)}</small></summary>
            <pre tabIndex={0}>{text.slice(0, 20_000)}{text.length > 20_000 && '\n…'}</pre>
          </details>
        </li>
      ))}
    </ul>
  );
}

function Answer({ message, isLast, isEditing, setEditing }: EditProps & { isLast: boolean }) {
  const isOpen = message.state === 'open';
  if (isEditing) {
    const hint = 'Keeps this text beside the model’s own, as another branch.';
    return <Editor text={message.text} action="Save" hint={hint} close={() => setEditing(false)} done={(text) => rewrite(message, text)} />;
  }
  return (
    <>
      <Thinking message={message} />
      {isOpen && <Waiting message={message} />}
      <Markdown message={message} text={shownText} spoken />
      <ToolCalls message={message} isLast={isLast} onResults={(results) => answerTools(message, results)} />
      {message.problem && <Problem problem={message.problem} onRetry={() => void regenerate(message)} />}
      {message.state === 'stopped' && <p class="note">Stopped.</p>}
      {message.stats?.finish === 'length' && <p class="note">The answer reached its longest length. Ask to go on, or allow more in the settings.</p>}
      {isOpen ? (
        <div class="actions"><IconButton icon="stop" label="Stop" class="stop" onClick={() => stop(message.id)} /></div>
      ) : (
        <AnswerActions message={message} setEditing={setEditing} />
      )}
    </>
  );
}

/** JSON is code. */
function shownText(message: Message): string {
  return message.isJson && message.text ? `\`\`\`json\n${message.text}${message.state === 'open' ? '' : '\n```'}` : message.text;
}

function Waiting({ message }: { message: Message }) {
  const tick = tickOf(message.id);
  const hasBegun = useComputed(() => tick.value >= 0 && Boolean(message.text || message.thinking || message.toolCalls));
  return hasBegun.value ? null : <p class="waiting"><span class="pulse" aria-hidden="true" />Reading your message…</p>;
}

function AnswerActions({ message, setEditing }: { message: Message; setEditing: (on: boolean) => void }) {
  const branch = () => {
    const copy = branchOff(message);
    if (!copy) return;
    adopt([copy]);
    void open(copy.conversation.id);
    toast('This is a new conversation with everything up to here.');
  };
  return (
    <div class="actions">
      <Siblings message={message} />
      <CopyButton text={() => message.text} label="Copy answer" />
      <IconButton icon="retry" label="Answer again" class="regenerate" onClick={() => void regenerate(message)} />
      <Menu label="More for this answer" items={[
        { label: 'Edit answer', icon: 'edit', run: () => setEditing(true) },
        { label: 'Branch to a new chat', icon: 'branch', run: branch },
        { label: 'Delete answer', icon: 'trash', run: () => void removeBranch(message), danger: true },
      ]} />
      <StatsLine message={message} />
    </div>
  );
}

function ToolResult({ message }: { message: Message }) {
  return (
    <div class="tool-result">
      <p class="label"><Icon name="tool" />Result given to the model</p>
      <pre tabIndex={0} dir="auto">{message.text}</pre>
    </div>
  );
}

/** Switches between the alternatives to a message. */
function Siblings({ message }: { message: Message }) {
  const siblings = children.value.get(message.parent) ?? [];
  if (siblings.length < 2) return null;
  const at = siblings.findIndex((each) => each.id === message.id);
  const go = (to: number) => {
    const target = siblings[to];
    if (target) show(target.id);
  };
  return (
    <div class="siblings" role="group" aria-label="Versions">
      <IconButton icon="left" label="Earlier version" disabled={at === 0} onClick={() => go(at - 1)} />
      <span aria-live="polite">{at + 1}/{siblings.length}</span>
      <IconButton icon="right" label="Later version" disabled={at === siblings.length - 1} onClick={() => go(at + 1)} />
    </div>
  );
}

interface EditorProps {
  text: string;
  action: string;
  hint: string;
  close: () => void;
  done: (text: string) => void;
}

function Editor({ text, action, hint, close, done }: EditorProps) {
  const area = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(text.length, text.length);
  }, []);
  const finish = () => {
    const value = area.current?.value ?? '';
    if (!value.trim()) return;
    close();
    done(value);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      finish();
    }
    if (event.key === 'Escape') {
      event.stopPropagation();
      close();
    }
  };
  return (
    <div class="editor">
      <textarea ref={area} dir="auto" aria-label="Edit" defaultValue={text} rows={Math.min(14, text.split('\n').length + 1)} onKeyDown={onKeyDown} />
      <p class="note">{hint}</p>
      <div class="row end">
        <button type="button" class="button" onClick={close}>Cancel</button>
        <button type="button" class="button primary" onClick={finish}>{action}</button>
      </div>
    </div>
  );
}
