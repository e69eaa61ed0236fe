/** The settings of a conversation: defaults, what may be typed, what is sent. */

import type { Settings } from './types';

/** Settings that leave everything to the server and the model. */
export function defaultSettings(): Settings {
  return {
    system: '',
    stop: [],
    thinking: 'default',
    effort: 'default',
    output: 'text',
    schema: '',
    tools: '',
  };
}

/** A number of the settings. */
export interface NumberField {
  key: 'temperature' | 'top_p' | 'top_k' | 'min_p' | 'repetition_penalty' | 'presence_penalty'
    | 'frequency_penalty' | 'seed' | 'max_tokens';
  label: string;
  hint: string;
  min: number;
  max: number;
  step: number;
}

/** All numbers, in the order in which they are shown. */
export const numberFields: readonly NumberField[] = [
  { key: 'temperature', label: 'Temperature', hint: '0 is exact, higher is freer', min: 0, max: 2, step: 0.05 },
  { key: 'top_p', label: 'Top-p', hint: 'Share of probability kept', min: 0, max: 1, step: 0.01 },
  { key: 'top_k', label: 'Top-k', hint: 'Tokens kept, 0 keeps all', min: 0, max: 1000, step: 1 },
  { key: 'min_p', label: 'Min-p', hint: 'Least share of the best token', min: 0, max: 1, step: 0.01 },
  { key: 'repetition_penalty', label: 'Repetition penalty', hint: '1 is off', min: 0.5, max: 2, step: 0.01 },
  { key: 'presence_penalty', label: 'Presence penalty', hint: '0 is off', min: -2, max: 2, step: 0.1 },
  { key: 'frequency_penalty', label: 'Frequency penalty', hint: '0 is off', min: -2, max: 2, step: 0.1 },
  { key: 'seed', label: 'Seed', hint: 'The same seed gives the same text', min: 0, max: 4294967295, step: 1 },
  { key: 'max_tokens', label: 'Longest answer', hint: 'In tokens', min: 1, max: 1048576, step: 1 },
];

/** How many settings differ from the defaults. */
export function changedCount(settings: Settings): number {
  let n = numberFields.filter((field) => settings[field.key] !== undefined).length;
  n += Number(settings.system.trim() !== '') + Number(settings.stop.length > 0);
  n += Number(settings.thinking !== 'default') + Number(settings.effort !== 'default');
  n += Number(settings.output !== 'text') + Number(settings.tools.trim() !== '');
  return n;
}

/** What is wrong with a text that should be a JSON schema, or `null`. */
export function schemaProblem(text: string): string | null {
  try {
    const value: unknown = JSON.parse(text);
    const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
    return isObject ? null : 'A schema is a JSON object.';
  } catch (error) {
    return `This is no JSON: ${(error as Error).message}`;
  }
}

/** What is wrong with a text that should be a list of tools, or `null`. */
export function toolsProblem(text: string): string | null {
  if (text.trim() === '') return null;
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) ? null : 'Tools are a JSON list, as in the API.';
  } catch (error) {
    return `This is no JSON: ${(error as Error).message}`;
  }
}

/**
 * The fields of a chat request that follow from settings.
 *
 * @throws Error with a sentence for people, if a schema or the tools are no JSON.
 */
export function requestFields(settings: Settings): Record<string, unknown> {
  const fields: Record<string, unknown> = {};
  for (const { key } of numberFields) {
    if (settings[key] !== undefined) fields[key] = settings[key];
  }
  if (settings.stop.length > 0) fields.stop = settings.stop;
  if (settings.thinking !== 'default') {
    fields.chat_template_kwargs = { enable_thinking: settings.thinking === 'on' };
  }
  if (settings.effort !== 'default') fields.reasoning_effort = settings.effort;
  if (settings.output === 'json') fields.response_format = { type: 'json_object' };
  if (settings.output === 'schema') {
    const problem = schemaProblem(settings.schema);
    if (problem) throw new Error(`The JSON schema in the settings cannot be used. ${problem}`);
    const schema: unknown = JSON.parse(settings.schema);
    fields.response_format = { type: 'json_schema', json_schema: { name: 'answer', schema } };
  }
  if (settings.tools.trim() !== '') {
    const problem = toolsProblem(settings.tools);
    if (problem) throw new Error(`The tools in the settings cannot be used. ${problem}`);
    fields.tools = JSON.parse(settings.tools);
  }
  return fields;
}
