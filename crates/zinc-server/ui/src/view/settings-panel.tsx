/** The settings of the conversation on the page. */

import { useState } from 'preact/hooks';
import { changedCount, defaultSettings, numberFields, schemaProblem, toolsProblem, type NumberField } from '../settings';
import { toggleSettings } from '../state/layout';
import { changeSettings, settings } from '../state/store';
import type { Effort, OutputForm, Settings, Thinking } from '../types';
import { IconButton } from './parts';

export function SettingsPanel() {
  const values = settings.value;
  return (
    <aside class="settings" id="settings" aria-label="Settings of this conversation">
      <header class="settings-head">
        <h2>Settings</h2>
        <IconButton icon="close" label="Close settings" onClick={toggleSettings} />
      </header>
      <div class="settings-body">
        <p class="note">For this conversation. What is empty is left to the model.</p>
        <Text name="System prompt" value={values.system} rows={4} hint="" placeholder="You are a helpful assistant."
          onChange={(system) => changeSettings({ system })} />
        <Choice name="Thinking" value={values.thinking} options={[['default', 'Auto'], ['on', 'On'], ['off', 'Off']]}
          onChange={(thinking) => changeSettings({ thinking: thinking as Thinking })} />
        <Choice name="Effort" value={values.effort} options={[['default', 'Auto'], ['low', 'Low'], ['medium', 'Mid'], ['high', 'High']]}
          onChange={(effort) => changeSettings({ effort: effort as Effort })} />
        <h3>Sampling</h3>
        {numberFields.map((field) => <NumberInput key={field.key} field={field} value={values[field.key]} />)}
        <Text name="Stop at" value={values.stop.join('\n')} rows={2} hint="One text a line; the answer ends before it."
          onChange={(text) => changeSettings({ stop: text.split('\n').filter(Boolean).slice(0, 16) })} />
        <h3>Form of the answer</h3>
        <Choice name="Form" value={values.output} options={[['text', 'Text'], ['json', 'JSON'], ['schema', 'Schema']]}
          onChange={(output) => changeSettings({ output: output as OutputForm })} />
        {values.output === 'schema' && (
          <Text name="JSON schema" value={values.schema} rows={6} code hint="" placeholder={'{"type": "object"}'}
            problem={values.schema ? schemaProblem(values.schema) : 'Write the schema of the answer.'}
            onChange={(schema) => changeSettings({ schema })} />
        )}
        <h3>Tools</h3>
        <Text name="Tools as JSON" value={values.tools} rows={4} code hint="As in the API. This page shows calls and takes their results; it runs nothing."
          placeholder={'[{"type": "function", "function": {"name": "…"}}]'} problem={toolsProblem(values.tools)}
          onChange={(tools) => changeSettings({ tools })} />
        <div class="row">
          <button type="button" class="button" disabled={changedCount(values) === 0} onClick={() => changeSettings(reset())}>
            Back to defaults
          </button>
        </div>
      </div>
    </aside>
  );
}

/** Defaults, with every number named so that it is cleared. */
function reset(): Partial<Settings> {
  const cleared = Object.fromEntries(numberFields.map(({ key }) => [key, undefined]));
  return { ...defaultSettings(), ...cleared };
}

interface TextProps {
  name: string;
  value: string;
  rows: number;
  hint: string;
  placeholder?: string;
  code?: boolean;
  problem?: string | null;
  onChange: (value: string) => void;
}

function idOf(name: string): string {
  return `setting-${name.toLowerCase().replace(/\W+/g, '-')}`;
}

function Text({ name, value, rows, hint, placeholder, code, problem, onChange }: TextProps) {
  const id = idOf(name);
  return (
    <div class="field">
      <label for={id}>{name}</label>
      <textarea id={id} class={code ? 'mono' : ''} rows={rows} dir="auto" defaultValue={value} placeholder={placeholder} spellcheck={!code}
        aria-invalid={Boolean(problem)} aria-describedby={`${id}-hint`} onInput={(event) => onChange(event.currentTarget.value)} />
      <p id={`${id}-hint`} class={problem ? 'note wrong' : 'note'}>{problem ?? hint}</p>
    </div>
  );
}

interface ChoiceProps {
  name: string;
  value: string;
  options: [string, string][];
  onChange: (value: string) => void;
}

function Choice({ name, value, options, onChange }: ChoiceProps) {
  return (
    <fieldset class="field choice">
      <legend>{name}</legend>
      <div class="segmented">
        {options.map(([key, label]) => (
          <label key={key} class={key === value ? 'on' : ''}>
            <input type="radio" name={idOf(name)} value={key} checked={key === value} onChange={() => onChange(key)} />
            {label}
          </label>
        ))}
      </div>
    </fieldset>
  );
}

function NumberInput({ field, value }: { field: NumberField; value: number | undefined }) {
  const [problem, setProblem] = useState<string | null>(null);
  const id = idOf(field.key);
  const onInput = (event: Event) => {
    const text = (event.currentTarget as HTMLInputElement).value.trim();
    const number = Number(text);
    if (text === '') {
      setProblem(null);
      changeSettings({ [field.key]: undefined });
    } else if (!Number.isFinite(number) || number < field.min || number > field.max || (field.step === 1 && !Number.isInteger(number))) {
      setProblem(`${field.step === 1 ? 'A whole number' : 'A number'} from ${field.min} to ${field.max}.`);
    } else {
      setProblem(null);
      changeSettings({ [field.key]: number });
    }
  };
  return (
    <div class="field inline">
      <label for={id}>{field.label}</label>
      <input id={id} inputMode="decimal" autocomplete="off" placeholder="auto" value={value ?? ''} aria-invalid={Boolean(problem)}
        aria-describedby={`${id}-hint`} onInput={onInput} />
      <p id={`${id}-hint`} class={problem ? 'note wrong' : 'note'}>{problem ?? field.hint}</p>
    </div>
  );
}
