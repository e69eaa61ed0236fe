/** The conversation, and how it scrolls. */

import { signal } from '@preact/signals';
import type { VNode } from 'preact';
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';
import { draft } from '../state/draft';
import { current, isReady, path } from '../state/store';
import type { Message } from '../types';
import { focusComposer } from './composer';
import { IconButton, copyText } from './parts';
import { Turn } from './turn';

/** Whether the end of the conversation stays in sight as it grows. */
const isPinned = signal(true);
const NEAR_PX = 32;

export function Transcript() {
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const messages = path.value;
  const id = current.value?.id;
  const nMessages = messages.length;
  useLayoutEffect(() => {
    isPinned.value = true;
    toEnd(scroller.current);
  }, [id, nMessages]);
  useEffect(() => follow(scroller.current, content.current), []);
  return (
    <div class="scroller" ref={scroller} tabIndex={-1} onClick={onCopyCode}>
      <div class="transcript" ref={content} role="log" aria-live="off" aria-label="Conversation">
        {messages.length > 0 && <h1 class="visually-hidden">{current.value?.title}</h1>}
        {messages.length === 0 && isReady.value && <Welcome />}
        {messages.map((message, i) => turnOf(message, i === messages.length - 1))}
      </div>
      {!isPinned.value && (
        <div class="to-end">
          <IconButton icon="toBottom" label="To the end" onClick={() => {
            isPinned.value = true;
            toEnd(scroller.current);
          }} />
        </div>
      )}
    </div>
  );
}

/** The turns as they were drawn last: one that has not changed is the same node, and is not compared. */
const drawn = new WeakMap<Message, { isLast: boolean; turn: VNode }>();

function turnOf(message: Message, isLast: boolean): VNode {
  const old = drawn.get(message);
  if (old?.isLast === isLast) return old.turn;
  const turn = <Turn key={message.id} message={message} isLast={isLast} />;
  drawn.set(message, { isLast, turn });
  return turn;
}

function toEnd(scroller: HTMLElement | null): void {
  if (scroller) scroller.scrollTop = scroller.scrollHeight;
}

/** Keeps the end in sight while the content grows, until the user scrolls up. */
function follow(scroller: HTMLElement | null, content: HTMLElement | null): (() => void) | undefined {
  if (!scroller || !content) return undefined;
  let lastTop = scroller.scrollTop;
  const onScroll = () => {
    const distance = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
    if (distance < NEAR_PX) isPinned.value = true;
    else if (scroller.scrollTop < lastTop - 1) isPinned.value = false;
    lastTop = scroller.scrollTop;
  };
  const onWheel = (event: WheelEvent) => {
    if (event.deltaY < 0 && scroller.scrollHeight > scroller.clientHeight) isPinned.value = false;
  };
  const observer = new ResizeObserver(() => {
    if (isPinned.value) toEnd(scroller);
  });
  observer.observe(content);
  observer.observe(scroller);
  scroller.addEventListener('scroll', onScroll, { passive: true });
  scroller.addEventListener('wheel', onWheel, { passive: true });
  return () => {
    observer.disconnect();
    scroller.removeEventListener('scroll', onScroll);
    scroller.removeEventListener('wheel', onWheel);
  };
}

/** The buttons of code blocks are no components, so their clicks are caught here. */
function onCopyCode(event: MouseEvent): void {
  const button = (event.target as Element).closest<HTMLElement>('.copy-code');
  if (!button) return;
  const code = button.closest('.code')?.querySelector('code')?.textContent ?? '';
  void copyText(code).then((done) => {
    const label = button.lastChild;
    if (!done || !label) return;
    label.textContent = 'Copied';
    setTimeout(() => (label.textContent = 'Copy'), 1500);
  });
}

const ideas = [
  'Tell me a story about a fox.',
  'What is 17 + 25?',
  'Write a person as JSON with name, age and city.',
  'Explain what a context window is.',
];

function Welcome() {
  return (
    <div class="welcome">
      <span class="mark large" aria-hidden="true" />
      <h1>What shall we talk about?</h1>
      <p>Everything you write stays on this machine and in this browser.</p>
      <ul>
        {ideas.map((idea) => (
          <li key={idea}>
            <button type="button" onClick={() => {
              draft.value = idea;
              focusComposer();
            }}>{idea}</button>
          </li>
        ))}
      </ul>
    </div>
  );
}
