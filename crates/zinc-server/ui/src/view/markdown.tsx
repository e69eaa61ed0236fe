/** Markdown as a component, and the order in which many texts are drawn. */

import { useLayoutEffect, useRef } from 'preact/hooks';
import { MarkdownView } from '../markdown/view';
import { say } from '../state/notices';
import { tickOf } from '../state/store';
import type { Message } from '../types';

const queue: (() => void)[] = [];
let isDraining = false;

/** The page may be busy this long before it is painted first, and this long in each frame after. */
const FIRST_SLICE_MS = 24;
const SLICE_MS = 6;

/** Draws later, the latest first: the end of a conversation is what is seen first. */
function later(draw: () => void): void {
  queue.push(draw);
  if (isDraining) return;
  isDraining = true;
  queueMicrotask(() => drain(FIRST_SLICE_MS));
}

function drain(budgetMs: number): void {
  const end = performance.now() + budgetMs;
  while (queue.length > 0 && performance.now() < end) queue.pop()?.();
  isDraining = queue.length > 0;
  if (isDraining) setTimeout(() => drain(SLICE_MS), 10);
}

interface MarkdownProps {
  message: Message;
  /** What of the message is shown. */
  text: (message: Message) => string;
  /** Whether finished blocks are read out. */
  spoken?: boolean;
}

/** A text of a message, as it grows. */
export function Markdown({ message, text, spoken = false }: MarkdownProps) {
  const ref = useRef<HTMLDivElement>(null);
  const view = useRef<MarkdownView | null>(null);
  const isOpen = message.state === 'open';
  useLayoutEffect(() => {
    const root = ref.current;
    if (!root) return;
    if (isOpen) {
      view.current = new MarkdownView(root);
      if (spoken) view.current.onFinished = (block) => say(block.textContent ?? '');
      return;
    }
    root.textContent = text(message);
    root.classList.add('raw');
    later(() => {
      if (!root.isConnected) return;
      view.current = new MarkdownView(root);
      view.current.update(text(message), false);
    });
    return () => {
      view.current = null;
    };
  }, [message.id]);
  useLayoutEffect(() => {
    if (!isOpen) {
      if (view.current) view.current.update(text(message), false);
      return;
    }
    let retry = 0;
    const draw = () => {
      cancelAnimationFrame(retry);
      if (view.current?.update(text(message), true) === false) retry = requestAnimationFrame(draw);
    };
    const unsubscribe = tickOf(message.id).subscribe(draw);
    return () => {
      unsubscribe();
      cancelAnimationFrame(retry);
    };
  }, [message, isOpen]);
  return <div class="markdown" dir="auto" ref={ref} />;
}
