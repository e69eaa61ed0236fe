/** Models: which one answers, which ones are in memory, which ones can be had. */

import { signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { dialog } from '../state/layout';
import { activeModel, cancelPull, catalog, changing, choose, hasCatalog, models, pull, pulls, refreshCatalog, refreshModels, setLoaded, type Pull } from '../state/models';
import type { CatalogEntry, Fit, Model } from '../types';
import { Dialog } from './dialog';
import { Icon, bytesText, countText, durationText } from './parts';

const query = signal('');

export function ModelsDialog() {
  useEffect(() => {
    void refreshModels();
    void refreshCatalog();
  }, []);
  return (
    <Dialog title="Models" class="models" onClose={() => (dialog.value = null)}>
      <section aria-label="On this machine">
        <h3>On this machine</h3>
        {models.value === null && <p class="note">The server has not said yet which models it has.</p>}
        {models.value?.length === 0 && <p class="note">There is none yet. Get one below.</p>}
        <ul class="cards">{models.value?.map((model) => <Local key={model.id} model={model} />)}</ul>
      </section>
      <Pulls />
      {hasCatalog.value && <Catalog />}
    </Dialog>
  );
}

function Local({ model }: { model: Model }) {
  const isActive = activeModel.value === model.id;
  const isBusy = changing.value.has(model.id) || model.status === 'loading';
  const isLoaded = model.status === 'loaded';
  const facts = [
    model.parameters && `${parametersText(model.parameters)} parameters`,
    model.bytes && bytesText(model.bytes),
    model.context && `${countText(model.context)} tokens of context`,
  ].filter(Boolean).join(' · ');
  return (
    <li class={`card ${isActive ? 'active' : ''}`} data-model={model.id}>
      <div class="card-text">
        <p class="name">{model.id} <Status model={model} isBusy={isBusy} /></p>
        {facts && <p class="note">{facts}</p>}
        <FitText fit={model.fit} />
        {model.error && <p class="note wrong">{model.error}</p>}
      </div>
      <div class="row">
        <button type="button" class="button" disabled={isBusy} onClick={() => void setLoaded(model.id, !isLoaded)}>
          {isLoaded ? 'Unload' : 'Load'}
        </button>
        <button type="button" class={`button ${isActive ? '' : 'primary'}`} disabled={isActive} onClick={() => choose(model.id)}>
          {isActive ? 'In use' : 'Use'}
        </button>
      </div>
    </li>
  );
}

function parametersText(n: number): string {
  if (n >= 1e9) return `${(n / 1e9).toFixed(n < 1e10 ? 1 : 0)}B`;
  return n >= 1e6 ? `${Math.round(n / 1e6)}M` : countText(n);
}

function Status({ model, isBusy }: { model: Model; isBusy: boolean }) {
  const status = isBusy ? 'loading' : model.status;
  const words = { loaded: 'in memory', loading: 'working…', unloaded: '', failed: 'failed' }[status];
  return words ? <span class={`badge ${status}`}>{words}</span> : null;
}

function FitText({ fit }: { fit: Fit | undefined }) {
  if (!fit) return null;
  return <p class={`fit ${fit.fits ? 'yes' : 'no'}`}><Icon name={fit.fits ? 'check' : 'alert'} />{fit.text}</p>;
}

function Pulls() {
  const list = [...pulls.value.values()];
  if (list.length === 0) return null;
  return (
    <section aria-label="Downloads">
      <h3>Downloads</h3>
      <ul class="cards">{list.map((each) => <PullCard key={each.model} pull={each} />)}</ul>
    </section>
  );
}

function PullCard({ pull: { model, progress, problem } }: { pull: Pull }) {
  const total = progress?.total;
  const share = progress && total ? Math.min(1, progress.done / total) : null;
  return (
    <li class="card pull" data-pull={model}>
      <div class="card-text">
        <p class="name">{model}</p>
        {problem ? (
          <p class="note wrong" role="alert">{problem.title} {problem.detail ?? ''} {problem.next}</p>
        ) : (
          <>
            <progress aria-label={`Download of ${model}`} max={1} {...(share === null ? {} : { value: share })} />
            <p class="note">{progressText(progress)}</p>
          </>
        )}
      </div>
      <div class="row">
        {problem && <button type="button" class="button primary" onClick={() => (cancelPull(model), void pull(model))}>Go on</button>}
        <button type="button" class="button" onClick={() => cancelPull(model)}>{problem ? 'Forget' : 'Pause'}</button>
      </div>
    </li>
  );
}

/** What is done apart from downloading, in words. */
const phases: Readonly<Record<string, string>> = {
  resolve: 'Looking for it…',
  wait: 'Another program downloads it; waiting…',
  retry: 'The connection broke; trying again…',
  verify: 'Checking that it is whole…',
};

function progressText(progress: Pull['progress']): string {
  const phase = phases[progress?.phase ?? 'resolve'];
  if (!progress || phase) return phase ?? '…';
  const { done, total, rate } = progress;
  const parts = [total ? `${bytesText(done)} of ${bytesText(total)}` : bytesText(done)];
  if (rate) parts.push(`${bytesText(rate)}/s`);
  if (rate && total) parts.push(`${durationText(((total - done) / rate) * 1000)} left`);
  return parts.join(' · ');
}

function Catalog() {
  const words = query.value.trim().toLowerCase();
  const list = catalog.value ?? [];
  const shown = list.filter((entry) => `${entry.id} ${entry.name} ${entry.family ?? ''}`.toLowerCase().includes(words));
  const isAddress = /^(hf:[^/\s]+\/[^/\s]+|https?:\/\/\S+)$/i.test(query.value.trim());
  const submit = (event: Event) => {
    event.preventDefault();
    if (isAddress) void pull(query.value.trim());
  };
  return (
    <section aria-label="Get a model">
      <h3>Get a model</h3>
      <form class="search wide" onSubmit={submit}>
        <Icon name="search" />
        <input type="search" aria-label="Search models, or an address" placeholder="Search, or hf:owner/repo:Q4_K_M" value={query.value}
          onInput={(event) => (query.value = event.currentTarget.value)} />
        {isAddress && <button type="submit" class="button primary">Pull</button>}
      </form>
      <ul class="cards">{shown.map((entry) => <Offer key={entry.id} entry={entry} />)}</ul>
      {shown.length === 0 && !isAddress && <p class="note">Nothing found. An address such as hf:owner/repo:Q4_K_M works too.</p>}
    </section>
  );
}

function Offer({ entry }: { entry: CatalogEntry }) {
  const facts = [
    entry.parameters,
    entry.quant,
    entry.bytes && bytesText(entry.bytes),
    entry.context && `${countText(entry.context)} tokens`,
    entry.licence,
    entry.thinking && 'thinks',
    entry.tools && 'tools',
  ].filter(Boolean).join(' · ');
  const running = pulls.value.get(entry.id);
  const hasFailed = running !== undefined && running.problem !== null;
  const isPulling = running !== undefined && !hasFailed;
  const begin = () => {
    if (hasFailed) cancelPull(entry.id);
    void pull(entry.id);
  };
  return (
    <li class="card" data-offer={entry.id}>
      <div class="card-text">
        <p class="name">{entry.name} {entry.name !== entry.id && <code>{entry.id}</code>}</p>
        {facts && <p class="note">{facts}</p>}
        <FitText fit={entry.fit} />
      </div>
      <div class="row">
        <button type="button" class="button" disabled={entry.installed || isPulling} onClick={begin}>
          {entry.installed ? 'Here' : isPulling ? 'Coming…' : hasFailed ? 'Go on' : 'Pull'}
        </button>
      </div>
    </li>
  );
}
