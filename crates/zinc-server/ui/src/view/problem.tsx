/** Errors, said plainly. */

import { apiKey, keyWanted } from '../api';
import { dialog, isSettingsOpen } from '../state/layout';
import { newChat } from '../state/store';
import type { Problem as ProblemType } from '../types';
import { Icon } from './parts';

/** What happened, what to do next, and the button that does it. */
export function Problem({ problem, onRetry }: { problem: ProblemType; onRetry: () => void }) {
  return (
    <div class="problem" role="alert">
      <Icon name="alert" />
      <div>
        <p><strong>{problem.title}</strong> {problem.next}</p>
        {problem.detail && problem.detail !== problem.title && <p class="detail" dir="auto">{problem.detail.slice(0, 1000)}</p>}
        <div class="row">
          <button type="button" class="button" onClick={onRetry}>Try again</button>
          <NextStep kind={problem.kind} />
        </div>
      </div>
    </div>
  );
}

function NextStep({ kind }: { kind: ProblemType['kind'] }) {
  if (kind === 'key') {
    const ask = () => (keyWanted.value = apiKey.value ? 'wrong' : 'missing');
    return <button type="button" class="button" onClick={ask}>Enter the key</button>;
  }
  if (kind === 'context') return <button type="button" class="button" onClick={newChat}>New chat</button>;
  if (kind === 'model') return <button type="button" class="button" onClick={() => (dialog.value = 'models')}>Models</button>;
  if (kind === 'request') return <button type="button" class="button" onClick={() => (isSettingsOpen.value = true)}>Settings</button>;
  return null;
}
