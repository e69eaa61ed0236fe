/** Server-sent events out of a response's bytes. */

/** One event: its name (`message` unless said otherwise) and its data. */
export interface ServerEvent {
  event: string;
  data: string;
}

/** Cuts a growing text into events; whatever the chunks, the events are the same. */
export class EventParser {
  private rest = '';
  private event = '';
  private data: string[] = [];

  /** Takes the next piece of text and gives the events that it completes. */
  push(piece: string): ServerEvent[] {
    const events: ServerEvent[] = [];
    const text = this.rest + piece;
    let start = 0;
    for (;;) {
      const end = lineEnd(text, start);
      if (end === null) break;
      this.line(text.slice(start, end.at), events);
      start = end.next;
    }
    this.rest = text.slice(start);
    return events;
  }

  private line(line: string, events: ServerEvent[]): void {
    if (line === '') {
      if (this.data.length > 0) {
        events.push({ event: this.event || 'message', data: this.data.join('\n') });
      }
      this.event = '';
      this.data = [];
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return; // A comment, which servers send as a heartbeat.
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    if (field === 'event') this.event = value;
    if (field === 'data') this.data.push(value);
  }
}

/** Where the line that begins at `start` ends, and where the next one begins. */
function lineEnd(text: string, start: number): { at: number; next: number } | null {
  const newline = text.indexOf('\n', start);
  if (newline < 0) return null;
  const at = text[newline - 1] === '\r' && newline > start ? newline - 1 : newline;
  return { at, next: newline + 1 };
}

/** The events of a response's body. */
export async function* eventsOf(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
    yield* parser.push(`${decoder.decode()}\n\n`);
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
