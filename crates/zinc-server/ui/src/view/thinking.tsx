/** What the model thought, folded away. */

import { useComputed, useSignalEffect } from '@preact/signals';
import { useRef, useState } from 'preact/hooks';
import { tickOf } from '../state/store';
import type { Message } from '../types';
import { Markdown } from './markdown';
import { Icon, durationText } from './parts';

/** Open while the model thinks, folded when it answers; the user's choice comes first. */
export function Thinking({ message }: { message: Message }) {
  const tick = tickOf(message.id);
  const state = useComputed(() => {
    if (tick.value < 0 || !message.thinking) return 'none';
    return message.state === 'open' && !message.text ? 'now' : 'past';
  });
  const [chosen, setChosen] = useState<boolean | null>(null);
  const scroller = useRef<HTMLDivElement>(null);
  useSignalEffect(() => {
    if (tick.value >= 0 && state.value === 'now' && scroller.current) scroller.current.scrollTop = scroller.current.scrollHeight;
  });
  if (state.value === 'none') return null;
  const isNow = state.value === 'now';
  const isOpen = chosen ?? isNow;
  const id = `thinking-${message.id}`;
  return (
    <div class={`thinking ${isNow ? 'now' : ''}`}>
      <button type="button" aria-expanded={isOpen} aria-controls={id} onClick={() => setChosen(!isOpen)}>
        <Icon name={isOpen ? 'down' : 'right'} />
        <span>{isNow ? 'Thinking…' : message.thinkingMs === undefined ? 'Thoughts' : `Thought for ${durationText(message.thinkingMs)}`}</span>
      </button>
      <div id={id} hidden={!isOpen}>
        {isOpen && (
          <div class="thoughts" ref={scroller} tabIndex={0} role="region" aria-label="Thoughts">
            <Markdown message={message} text={(each) => each.thinking ?? ''} />
          </div>
        )}
      </div>
    </div>
  );
}
