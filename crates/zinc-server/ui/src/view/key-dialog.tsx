/** Asks for the server's API key. */

import { useRef, useState } from 'preact/hooks';
import { keyWanted, setKey } from '../api';
import { refreshModels } from '../state/models';
import { Dialog } from './dialog';

export function KeyDialog() {
  const input = useRef<HTMLInputElement>(null);
  const [keep, setKeep] = useState(false);
  const submit = (event: Event) => {
    event.preventDefault();
    const key = input.current?.value.trim();
    if (!key) return;
    setKey(key, keep);
    void refreshModels();
  };
  return (
    <Dialog title="API key" class="small" onClose={() => (keyWanted.value = null)}>
      <form class="key-form" onSubmit={submit}>
        <p>{keyWanted.value === 'wrong' ? 'The server did not take this key. Check it and try again.' : 'This server needs a key. Whoever started it knows it.'}</p>
        <div class="field">
          <label for="api-key">Key</label>
          <input id="api-key" ref={input} type="password" autocomplete="off" spellcheck={false} autofocus aria-invalid={keyWanted.value === 'wrong'} />
        </div>
        <label class="check">
          <input type="checkbox" checked={keep} onChange={(event) => setKeep(event.currentTarget.checked)} />
          Remember it in this browser
        </label>
        <div class="row end"><button type="submit" class="button primary">Use key</button></div>
      </form>
    </Dialog>
  );
}
