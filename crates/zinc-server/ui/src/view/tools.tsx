/** Calls of tools, and a place for their results. */

import { useComputed } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { fillCode } from '../markdown/highlight';
import { tickOf } from '../state/store';
import type { Message, ToolCall } from '../types';
import { Icon } from './parts';

interface ToolCallsProps {
  message: Message;
  isLast: boolean;
  onResults: (results: string[]) => void;
}

/** The calls of an answer. The page runs none: results are typed in, then the model goes on. */
export function ToolCalls({ message, isLast, onResults }: ToolCallsProps) {
  const tick = tickOf(message.id);
  const n = useComputed(() => (tick.value >= 0 && message.toolCalls ? message.toolCalls.length : 0));
  const form = useRef<HTMLFormElement>(null);
  if (n.value === 0) return null;
  const calls = message.toolCalls ?? [];
  const isWaiting = isLast && message.state === 'done';
  const submit = (event: Event) => {
    event.preventDefault();
    const areas = [...(form.current?.querySelectorAll('textarea') ?? [])];
    onResults(areas.map((area) => area.value));
  };
  return (
    <form class="tool-calls" ref={form} onSubmit={submit}>
      {calls.map((call, i) => (
        <section key={call.id || i} class="tool-call" aria-label={`Tool call ${call.name}`}>
          <p class="label"><Icon name="tool" /><code>{call.name || '…'}</code></p>
          <Arguments message={message} call={call} />
          {isWaiting && <textarea aria-label={`Result of ${call.name}`} placeholder={`Result of ${call.name}`} rows={2} dir="auto" required />}
        </section>
      ))}
      {isWaiting && <div class="row end"><button type="submit" class="button primary">Give {calls.length > 1 ? 'results' : 'the result'}</button></div>}
    </form>
  );
}

function Arguments({ message, call }: { message: Message; call: ToolCall }) {
  const ref = useRef<HTMLElement>(null);
  useEffect(() => tickOf(message.id).subscribe(() => {
    if (ref.current) fillCode(ref.current, indented(call.arguments), 'json');
  }), [message, call]);
  return <pre tabIndex={0} role="region" aria-label="Arguments"><code ref={ref} dir="ltr" /></pre>;
}

/** JSON with line breaks; what is no JSON stays as it is. */
function indented(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
