/** What the page keeps and passes around. */

/** A text file that the user attached to a message. */
export interface Attachment {
  name: string;
  text: string;
}

/** A call of a tool, as the model wrote it. */
export interface ToolCall {
  id: string;
  name: string;
  /** JSON text; may be incomplete while it streams, and wrong ever after. */
  arguments: string;
}

/** What an answer cost. Times in milliseconds. */
export interface Stats {
  promptTokens?: number | undefined;
  /** Tokens of the prompt that were in the cache already. */
  cachedTokens?: number | undefined;
  answerTokens?: number | undefined;
  /** From sending to the first token. */
  firstTokenMs?: number | undefined;
  tokensPerSecond?: number | undefined;
  totalMs?: number | undefined;
  /** Length of the model's context, in tokens. */
  contextTokens?: number | undefined;
  /** Why the answer ended: `stop`, `length`, `tool_calls`, … */
  finish?: string | undefined;
}

/** What went wrong, in words for people. */
export interface Problem {
  kind:
    | 'offline'
    | 'cut'
    | 'key'
    | 'context'
    | 'busy'
    | 'loading'
    | 'model'
    | 'request'
    | 'server'
    | 'storage';
  /** One sentence: what happened. */
  title: string;
  /** What to do next. */
  next: string;
  /** The server's own words. */
  detail?: string | undefined;
}

export type Role = 'user' | 'assistant' | 'tool';

/** How far an answer is. */
export type MessageState = 'open' | 'done' | 'stopped' | 'failed';

/** One message of a conversation's tree. */
export interface Message {
  id: string;
  conversation: string;
  parent: string | null;
  role: Role;
  text: string;
  created: number;
  state: MessageState;
  attachments?: Attachment[] | undefined;
  /** What the model thought before it answered. */
  thinking?: string | undefined;
  thinkingMs?: number | undefined;
  toolCalls?: ToolCall[] | undefined;
  /** For a tool's result: the call that it answers. */
  toolCallId?: string | undefined;
  model?: string | undefined;
  /** Whether JSON was asked for. */
  isJson?: boolean | undefined;
  stats?: Stats | undefined;
  problem?: Problem | undefined;
}

export type Thinking = 'default' | 'on' | 'off';
export type Effort = 'default' | 'low' | 'medium' | 'high';
export type OutputForm = 'text' | 'json' | 'schema';

/** What a conversation asks of the model; what is undefined is left to the server. */
export interface Settings {
  system: string;
  temperature?: number | undefined;
  top_p?: number | undefined;
  top_k?: number | undefined;
  min_p?: number | undefined;
  repetition_penalty?: number | undefined;
  presence_penalty?: number | undefined;
  frequency_penalty?: number | undefined;
  seed?: number | undefined;
  max_tokens?: number | undefined;
  stop: string[];
  thinking: Thinking;
  effort: Effort;
  output: OutputForm;
  /** JSON text of a schema, for `output: 'schema'`. */
  schema: string;
  /** JSON text of a list of tools; empty for none. */
  tools: string;
}

/** A conversation without its messages. */
export interface Conversation {
  id: string;
  title: string;
  /** Whether the user chose the title. */
  named: boolean;
  created: number;
  updated: number;
  /** The message that the shown path ends with. */
  leaf: string | null;
  model: string | null;
  settings: Settings;
}

export type ModelStatus = 'loaded' | 'loading' | 'unloaded' | 'failed';

/** A model that the server can answer with. */
export interface Model {
  id: string;
  status: ModelStatus;
  /** Context in tokens as it is, or would be, loaded. */
  context?: number | undefined;
  /** Bytes of its file. */
  bytes?: number | undefined;
  parameters?: number | undefined;
  fit?: Fit | undefined;
  error?: string | undefined;
}

/** Whether a model fits this machine. */
export interface Fit {
  fits: boolean;
  /** For people: `fits on cpu at 8192 tokens`. */
  text: string;
}

/** A model that can be had. */
export interface CatalogEntry {
  id: string;
  name: string;
  family?: string | undefined;
  parameters?: string | undefined;
  quant?: string | undefined;
  bytes?: number | undefined;
  licence?: string | undefined;
  context?: number | undefined;
  thinking: boolean;
  tools: boolean;
  installed: boolean;
  fit?: Fit | undefined;
}
