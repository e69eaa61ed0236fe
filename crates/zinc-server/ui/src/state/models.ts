/** The models of the server, and downloads. */

import { computed, signal } from '@preact/signals';
import * as api from '../api';
import type { CatalogEntry, Model, Problem, Settings } from '../types';
import { say, toast } from './notices';
import { conversations, current, draftModel, draftSettings, update } from './store';

/** The models that the server can answer with; `null` before it said. */
export const models = signal<Model[] | null>(null);
/** What can be downloaded; `null` before the server said or where it has no catalog. */
export const catalog = signal<CatalogEntry[] | null>(null);
/** Whether the server has a catalog; `null` before it was asked. */
export const hasCatalog = signal<boolean | null>(null);
/** Models that are being loaded or unloaded now. */
export const changing = signal<ReadonlySet<string>>(new Set());

/** The id of the model on the page. */
export const activeModel = computed(() => chosen(current.value?.model ?? draftModel.value));

const LAST_MODEL = 'zinc.model';

/** The wanted model if the server has it, else the one that is loaded, else the first. */
function chosen(wanted: string | null): string | null {
  const list = models.value;
  if (!list) return wanted;
  const has = (id: string | null) => list.some((model) => model.id === id);
  if (wanted && has(wanted)) return wanted;
  const last = lastModel();
  if (last && has(last)) return last;
  return (list.find((model) => model.status === 'loaded') ?? list[0])?.id ?? null;
}

function lastModel(): string | null {
  try {
    return localStorage.getItem(LAST_MODEL);
  } catch {
    return null;
  }
}

/** Model and settings of a conversation. */
export function modelFor(conversation: string): { model: string | null; settings: Settings } {
  const found = conversations.value.find((each) => each.id === conversation);
  return { model: chosen(found?.model ?? draftModel.value), settings: found?.settings ?? draftSettings.value };
}

/** Length of a model's context in tokens, where the server says it. */
export function modelContext(id: string | undefined): number | undefined {
  return models.value?.find((model) => model.id === id)?.context;
}

/** Asks the server for its models. */
export async function refreshModels(): Promise<void> {
  try {
    models.value = await api.models();
  } catch (error) {
    // A server that is away or wants a key says so elsewhere on the page.
    if (!(error instanceof api.ApiError)) throw error;
  }
}

/** Asks again where an answer may have loaded a model. */
export function modelsChanged(): void {
  const active = models.value?.find((model) => model.id === activeModel.value);
  if (!active || active.status !== 'loaded' || active.context === undefined) void refreshModels();
}

let isWaiting = false;

/** Looks for the server until it is back: after one second at first, every ten in the end. */
export function waitForServer(): void {
  if (isWaiting) return;
  isWaiting = true;
  let pause = 1000;
  const look = async (): Promise<void> => {
    // Any answer will do: a server that loads a model is there again.
    await api.isAlive();
    if (api.online.value) {
      isWaiting = false;
      say('Connected again.');
      await refreshModels();
      return;
    }
    pause = Math.min(pause * 1.5, 10_000);
    setTimeout(() => void look(), pause);
  };
  setTimeout(() => void look(), pause);
}

/** Answers with this model from now on. */
export function choose(id: string): void {
  try {
    localStorage.setItem(LAST_MODEL, id);
  } catch {
    // Storage is switched off: the choice lives as long as the page.
  }
  if (current.value) update(current.value.id, { model: id });
  draftModel.value = id;
}

function report(error: unknown): void {
  if (!(error instanceof api.ApiError)) throw error;
  const { title, next, detail } = error.problem;
  toast([detail ?? title, next].join(' '));
}

/** Loads a model into memory, or takes it out. */
export async function setLoaded(id: string, loaded: boolean): Promise<void> {
  changing.value = new Set([...changing.value, id]);
  try {
    if (loaded) await api.loadModel(id);
    else await api.unloadModel(id);
    say(loaded ? `${id} is loaded.` : `${id} is unloaded.`);
  } catch (error) {
    report(error);
  }
  changing.value = new Set([...changing.value].filter((each) => each !== id));
  await refreshModels();
}

/** Reads the catalog. */
export async function refreshCatalog(): Promise<void> {
  try {
    catalog.value = await api.catalog();
    hasCatalog.value = catalog.value !== null;
  } catch (error) {
    report(error);
  }
}

/** A download. */
export interface Pull {
  model: string;
  progress: api.PullProgress | null;
  problem: Problem | null;
}

/** Downloads that run or failed, by the name that was asked for. */
export const pulls = signal<ReadonlyMap<string, Pull>>(new Map());
const pullAborts = new Map<string, AbortController>();

function setPull(pull: Pull): void {
  pulls.value = new Map(pulls.value).set(pull.model, pull);
}

function endPull(model: string): void {
  pullAborts.delete(model);
  const rest = new Map(pulls.value);
  rest.delete(model);
  pulls.value = rest;
}

/** Downloads a model by its catalog id, `hf:owner/repo[:QUANT]` or address. */
export async function pull(model: string): Promise<void> {
  if (pullAborts.has(model)) return;
  const abort = new AbortController();
  pullAborts.set(model, abort);
  setPull({ model, progress: null, problem: null });
  try {
    const id = await followPull(model, abort.signal);
    endPull(model);
    toast(`${id} is here.`, { label: 'Use it', run: () => choose(id) });
    await Promise.all([refreshModels(), refreshCatalog()]);
  } catch (error) {
    pullAborts.delete(model);
    if (abort.signal.aborted) endPull(model);
    else if (error instanceof api.ApiError) setPull({ model, progress: null, problem: error.problem });
    else throw error;
  }
}

async function followPull(model: string, signal: AbortSignal): Promise<string> {
  const events = api.pullModel(model, signal);
  for (;;) {
    const { done, value } = await events.next();
    if (done) return value;
    setPull({ model, progress: value, problem: null });
  }
}

/** Pauses a download, or forgets one that failed. */
export function cancelPull(model: string): void {
  pullAborts.get(model)?.abort();
  if (!pullAborts.has(model)) endPull(model);
}
