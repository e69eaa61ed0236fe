"""Anthropic's Python client, unmodified, against a running server."""

import os

import anthropic

URL, KEY = os.environ["ZINC_URL"], os.environ["ZINC_KEY"]
client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
# The client has no field for it any more.
GREEDY = {"temperature": 0}
MODEL = client.models.list().data[0].id
ASK = [{"role": "user", "content": "Tell me a story about a fox."}]
TOOL = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 16}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def messages():
    answer = client.messages.create(model=MODEL, max_tokens=20, messages=ASK, system="Be brief.", extra_body=GREEDY)
    assert answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 20
    counted = client.messages.count_tokens(model=MODEL, messages=ASK, system="Be brief.")
    assert counted.input_tokens == answer.usage.input_tokens + answer.usage.cache_read_input_tokens
    return answer.content[0].text


def streaming(expected):
    with client.messages.stream(model=MODEL, max_tokens=20, messages=ASK, system="Be brief.", extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == expected == final.content[0].text, (text, expected)
    assert final.stop_reason == "max_tokens" and final.usage.output_tokens == 20


def stop_sequences():
    answer = client.messages.create(model=MODEL, max_tokens=200, messages=ASK, stop_sequences=["fox"], extra_body=GREEDY)
    assert answer.stop_reason == "stop_sequence" and answer.stop_sequence == "fox", answer
    assert "fox" not in answer.content[0].text


def tools():
    ask = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = client.messages.create(model=MODEL, max_tokens=200, messages=ask, tools=[TOOL], tool_choice={"type": "any"}, extra_body=GREEDY)
    assert answer.stop_reason == "tool_use", answer
    use = next(block for block in answer.content if block.type == "tool_use")
    assert use.name == "get_weather" and isinstance(use.input["city"], str)
    ask += [
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]},
    ]
    assert client.messages.create(model=MODEL, max_tokens=20, messages=ask, tools=[TOOL]).role == "assistant"
    with client.messages.stream(
        model=MODEL, max_tokens=200, messages=ask[:1], tools=[TOOL], tool_choice={"type": "tool", "name": "get_weather"}, extra_body=GREEDY,
    ) as stream:
        final = stream.get_final_message()
    assert any(block.type == "tool_use" and isinstance(block.input["city"], str) for block in final.content), final


def thinking():
    answer = client.messages.create(
        model=MODEL, max_tokens=1200, messages=[{"role": "user", "content": "What is 2 + 3?"}],
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    assert answer.content[0].type == "thinking" and answer.content[0].thinking, answer


def errors():
    for status, kind, call in [
        (400, anthropic.BadRequestError, lambda: client.messages.create(model=MODEL, max_tokens=5, messages=[])),
        (404, anthropic.NotFoundError, lambda: client.messages.create(model="no-such-model", max_tokens=5, messages=ASK)),
        (401, anthropic.AuthenticationError, lambda: anthropic.Anthropic(base_url=URL, api_key="wrong", max_retries=0).messages.create(model=MODEL, max_tokens=5, messages=ASK)),
    ]:
        try:
            call()
        except kind as error:
            assert error.status_code == status and error.body["type"] == "error", error.body
            assert error.request_id
        else:
            raise AssertionError(f"no error {status}")


def cancellation():
    with client.messages.stream(model=MODEL, max_tokens=1500, messages=ASK) as stream:
        for _ in stream.text_stream:
            break
    assert messages()


text = messages()
streaming(text)
for test in [stop_sequences, tools, thinking, errors, cancellation]:
    test()
print("ok")
