"""OpenAI's Python client, unmodified, against a running server."""

import json
import os

import openai

URL, KEY = os.environ["ZINC_URL"], os.environ["ZINC_KEY"]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0, timeout=120)
MODEL = client.models.list().data[0].id
ASK = [{"role": "user", "content": "Tell me a story about a fox."}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 16}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": WEATHER}}


def refused(status, call):
    try:
        call()
    except openai.APIStatusError as error:
        assert error.status_code == status, error
        return error
    raise AssertionError("no error")


def chat():
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=20, temperature=0)
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 20
    return answer.choices[0].message.content


def streaming(expected):
    stream = client.chat.completions.create(
        model=MODEL, messages=ASK, max_completion_tokens=20, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )
    text, usage, reasons = "", None, []
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == expected, (text, expected)
    assert usage.completion_tokens == 20 and reasons == ["length"]


def several():
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=8, n=3, seed=1, stop=["xyz"], logit_bias={"0": -100})
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def tools():
    for choice in ["required", {"type": "function", "function": {"name": "get_weather"}}]:
        ask = [{"role": "user", "content": "What is the weather in Paris?"}]
        answer = client.chat.completions.create(model=MODEL, messages=ask, tools=[TOOL], tool_choice=choice, max_tokens=200, temperature=0)
        call = answer.choices[0].message.tool_calls[0]
        assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == "get_weather"
        assert isinstance(json.loads(call.function.arguments)["city"], str)
        ask += [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        assert client.chat.completions.create(model=MODEL, messages=ask, tools=[TOOL], max_tokens=20).choices
    with client.chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": "What is the weather in Rome?"}], tools=[TOOL], tool_choice="required",
        max_tokens=200, temperature=0,
    ) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    assert isinstance(json.loads(final.choices[0].message.tool_calls[0].function.arguments)["city"], str)


def schema():
    ask = [{"role": "user", "content": "Invent a person."}]
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(model=MODEL, messages=ask, response_format=form, max_tokens=200)
    person = json.loads(answer.choices[0].message.content)
    assert set(person) == {"name", "age"} and 0 <= person["age"] <= 120, person
    answer = client.chat.completions.create(model=MODEL, messages=ask, response_format={"type": "json_object"}, max_tokens=300, temperature=0)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)


def logprobs():
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=5, temperature=0, logprobs=True, top_logprobs=2)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == 5
    for entry in entries:
        assert entry.top_logprobs[0].token == entry.token and entry.logprob <= 0
        assert bytes(entry.bytes).decode("utf-8", "replace") == entry.token
    legacy = client.completions.create(model=MODEL, prompt="Once upon a", max_tokens=0, echo=True, logprobs=1)
    scored = legacy.choices[0].logprobs
    assert scored.token_logprobs[0] is None and all(value <= 0 for value in scored.token_logprobs[1:])


def errors():
    error = refused(400, lambda: client.chat.completions.create(model=MODEL, messages=ASK, extra_body={"no_such_field": 1}))
    assert error.param == "no_such_field" and error.code == "unsupported_value", error
    error = refused(404, lambda: client.chat.completions.create(model="no-such-model", messages=ASK))
    assert error.code == "model_not_found"
    refused(400, lambda: client.chat.completions.create(model=MODEL, messages=[]))
    stranger = openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong", max_retries=0)
    assert isinstance(refused(401, stranger.models.list), openai.AuthenticationError)


def cancellation():
    stream = client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=1500, stream=True, extra_body={"ignore_eos": True},
    )
    for i, _ in enumerate(stream):
        if i == 3:
            stream.close()
            break
    # The place that it had is free again: the next answer does not wait for 1500 tokens.
    assert chat()


def responses():
    answer = client.responses.create(model=MODEL, input="Tell me a story.", instructions="Be brief.", max_output_tokens=16, temperature=0)
    assert answer.status == "incomplete" and answer.output_text
    kinds, text = [], ""
    for event in client.responses.create(model=MODEL, input="Tell me a story.", instructions="Be brief.", max_output_tokens=16, temperature=0, stream=True):
        kinds.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert text == answer.output_text and kinds[0] == "response.created" and kinds[-1] == "response.incomplete"
    tool = {"type": "function", "name": "get_weather", "description": "Weather of a city", "parameters": WEATHER, "strict": True}
    items = [{"role": "user", "content": "What is the weather in Paris?"}]
    called = client.responses.create(model=MODEL, input=items, tools=[tool], tool_choice="required", max_output_tokens=200, temperature=0)
    call = next(item for item in called.output if item.type == "function_call")
    assert isinstance(json.loads(call.arguments)["city"], str)
    items += called.output
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    assert client.responses.create(model=MODEL, input=items, tools=[tool], max_output_tokens=20).output
    form = {"format": {"type": "json_schema", "name": "person", "schema": SCHEMA, "strict": True}}
    shaped = client.responses.create(model=MODEL, input="Invent a person.", text=form, max_output_tokens=200)
    assert set(json.loads(shaped.output_text)) == {"name", "age"}


def embeddings():
    one = client.embeddings.create(model=MODEL, input=["a fox", "numbers"])
    two = client.embeddings.create(model=MODEL, input=["a fox", "numbers"], encoding_format="float")
    assert len(one.data) == 2
    for a, b in zip(one.data, two.data):
        assert len(a.embedding) == len(b.embedding)
        assert all(abs(x - y) < 1e-5 for x, y in zip(a.embedding, b.embedding))


text = chat()
streaming(text)
for test in [several, tools, schema, logprobs, errors, cancellation, responses, embeddings]:
    test()
print("ok")
