/** What an answer cost. */

import type { Message } from '../types';
import { countText, durationText } from './parts';

/** Speed, time to the first token, length, and how full the context is. */
export function StatsLine({ message }: { message: Message }) {
  const { stats } = message;
  if (!stats) return null;
  const { tokensPerSecond: rate, firstTokenMs, answerTokens, promptTokens, cachedTokens, totalMs } = stats;
  const whole = [
    promptTokens !== undefined && `${countText(promptTokens)} tokens read`,
    cachedTokens ? `${countText(cachedTokens)} of them from the cache` : '',
    answerTokens !== undefined && `${countText(answerTokens)} tokens written`,
    totalMs !== undefined && `${durationText(totalMs)} in all`,
    message.model,
  ].filter(Boolean).join(', ');
  return (
    <div class="stats" title={whole}>
      {rate !== undefined && <span><b>{rate < 10 ? rate.toFixed(1) : Math.round(rate)}</b> tokens/s</span>}
      {firstTokenMs !== undefined && <span>first after <b>{durationText(firstTokenMs)}</b></span>}
      {answerTokens !== undefined && <span><b>{countText(answerTokens)}</b> tokens</span>}
      <ContextMeter used={(promptTokens ?? 0) + (answerTokens ?? 0)} length={stats.contextTokens} />
    </div>
  );
}

/** How much of the context a conversation fills. */
export function ContextMeter({ used, length }: { used: number; length: number | undefined }) {
  if (!length || used === 0) return null;
  const share = Math.min(1, used / length);
  const state = share > 0.9 ? 'full' : share > 0.7 ? 'filling' : '';
  const text = `${countText(used)} of ${countText(length)} tokens of context used`;
  return (
    <span class={`context ${state}`} title={text}>
      <meter min={0} max={length} value={Math.min(used, length)} aria-label={text} />
      <b>{Math.max(1, Math.round(share * 100))}%</b> of context
    </span>
  );
}
