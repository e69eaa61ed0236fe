// OpenAI's JavaScript client, unmodified, against a running server.
import assert from "node:assert/strict";
import OpenAI from "openai";

const { ZINC_URL, ZINC_KEY } = process.env;
const client = new OpenAI({ baseURL: `${ZINC_URL}/v1`, apiKey: ZINC_KEY, maxRetries: 0, timeout: 120_000 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "Tell me a story about a fox." }];
const weather = {
  type: "object",
  properties: { city: { type: "string", maxLength: 16 } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "get_weather", description: "Weather of a city", parameters: weather } }];

const whole = await client.chat.completions.create({ model, messages, max_completion_tokens: 20, temperature: 0 });
const text = whole.choices[0].message.content;
assert.ok(text.length > 0);

let streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, max_completion_tokens: 20, temperature: 0, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(streamed, text);

const called = await client.chat.completions.create({
  model, tools, tool_choice: "required", max_tokens: 200, temperature: 0,
  messages: [{ role: "user", content: "What is the weather in Paris?" }],
});
assert.equal(typeof JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).city, "string");

const shaped = await client.chat.completions.create({
  model, messages, max_tokens: 200,
  response_format: { type: "json_schema", json_schema: { name: "place", schema: weather, strict: true } },
});
assert.equal(typeof JSON.parse(shaped.choices[0].message.content).city, "string");

const scored = await client.chat.completions.create({ model, messages, max_tokens: 3, temperature: 0, logprobs: true, top_logprobs: 1 });
assert.equal(scored.choices[0].logprobs.content.length, 3);

await assert.rejects(
  client.chat.completions.create({ model, messages, no_such_field: 1 }),
  (error) => error instanceof OpenAI.BadRequestError && error.param === "no_such_field",
);
await assert.rejects(
  new OpenAI({ baseURL: `${ZINC_URL}/v1`, apiKey: "wrong", maxRetries: 0 }).models.list(),
  (error) => error instanceof OpenAI.AuthenticationError,
);

const controller = new AbortController();
const endless = await client.chat.completions.create(
  { model, messages, max_tokens: 1500, ignore_eos: true, stream: true },
  { signal: controller.signal },
);
for await (const _ of endless) {
  controller.abort();
}

let kinds = [];
for await (const event of await client.responses.create({ model, input: "Tell me a story.", max_output_tokens: 8, stream: true })) {
  kinds.push(event.type);
}
assert.equal(kinds[0], "response.created");
assert.equal(kinds.at(-1), "response.incomplete");
console.log("ok");
