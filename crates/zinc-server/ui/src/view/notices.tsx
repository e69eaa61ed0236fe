/** Short notices. */

import { dismiss, notices } from '../state/notices';
import { IconButton } from './parts';

/** The notices that are shown now. They stand in the open dialog if there is one: it covers the rest. */
export function Notices() {
  return (
    <div class="notices" role="status" aria-live="polite">
      {notices.value.map(({ id, text, action }) => (
        <div key={id} class="notice">
          <span>{text}</span>
          {action && <button type="button" class="link-button" onClick={() => (action.run(), dismiss(id))}>{action.label}</button>}
          <IconButton icon="close" label="Dismiss" onClick={() => dismiss(id)} />
        </div>
      ))}
    </div>
  );
}
