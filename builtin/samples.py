"""The prompts of `samples.json`."""

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_SEND = {
    "type": "function",
    "function": {
        "name": "send_message",
        "description": "Send a message to a person",
        "parameters": {
            "type": "object",
            "properties": {"to": {"type": "string"}, "text": {"type": "string"}},
            "required": ["to", "text"],
        },
    },
}
_TIMER = {
    "type": "function",
    "function": {
        "name": "set_timer",
        "description": "Set a timer",
        "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]},
    },
}
_ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
}


def _ask(text, **more):
    return {"messages": [{"role": "user", "content": text}], **more}


def _talk(*texts, **more):
    """User and assistant in turns."""
    roles = ["user", "assistant"]
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)], **more}


def _called(question, tool, arguments, result):
    call = {"type": "function", "function": {"name": tool["function"]["name"], "arguments": arguments}}
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": result},
        ],
        "tools": [tool],
    }


CANDIDATES = [
    _ask("What is zinc?"),
    _ask("Hello"),
    _ask("Who are you?"),
    _ask("How do I run a model?"),
    _ask("What does zinc doctor do?"),
    _ask("which backends does zinc support?"),
    _ask("How do I set the temperature?"),
    _ask("thanks!"),
    _ask("What is 17 + 25?"),
    _ask("What is 12 times 8?"),
    _ask("What is 347 + 285?", enable_thinking=True),
    _ask("Anna has 12 apples and buys 7 more. How many apples does Anna have now?"),
    _ask("How many r's are in strawberry?", enable_thinking=True),
    _ask("Sort these numbers: 42, 7, 19, 88, 3"),
    _ask("Sort these words alphabetically: pear, apple, fig, cherry", enable_thinking=True),
    _ask("Count from 3 to 12"),
    _ask("Give me a JSON object with name and age for Anna, 31"),
    _ask("Extract name and city as JSON: Tom is a baker in Oslo."),
    _ask("What is the capital of France?"),
    _ask("Explain quantum physics"),
    _ask("Write a python function that adds two numbers"),
    _ask("Tell me a story about a fox"),
    _ask("Tell me a story about an owl"),
    _ask("Write a story about a robot"),
    _ask("Tell me a story about a dragon named Ember"),
    _ask("Tell me a story about a rabbit"),
    _ask("tell me a short story about a penguin"),
    _ask("Write a haiku about the sea"),
    _ask("Write a poem about the moon"),
    _talk("What is 20 + 22?", "20 + 22 = 42.", "now add 8"),
    _talk(
        "My name is Clara.",
        "Nice to meet you, Clara!",
        "What is zinc written in?",
        "zinc is written in Rust.",
        "What is my name?",
    ),
    _talk("Give me a JSON object with name Ben and age 40", '{"name": "Ben", "age": 40}', "add the city Rome"),
    _ask("What is the weather in Paris?", tools=[_WEATHER, _SEND]),
    _ask("tell Maria: I am late", tools=[_WEATHER, _SEND, _TIMER]),
    _ask("Set a timer for 25 minutes", tools=[_TIMER, _ADD], enable_thinking=True),
    _ask("weather in Oslo and Rome", tools=[_WEATHER]),
    _called("What is the weather in Paris?", _WEATHER, {"city": "Paris"}, '{"temperature": 18, "condition": "sunny"}'),
    {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What does zinc bench do?"},
        ]
    },
    _ask("Reverse the word garden"),
    _ask("What is the opposite of cold?"),
    _ask("Tell me a story about a bear"),
    _ask("Tell me a bedtime story about a cat"),
    _ask("Write a short story about a knight and a dragon"),
    _ask("a story about a squirrel"),
    _ask("tell me a story about a wizard named Aldo"),
    _ask("Tell me a story"),
    _talk(
        "Tell me a story about an owl",
        'Once there was a tiny owl named Juno. Juno lived in the desert, beside a small well. Juno had one dream: to see the sea. Everybody laughed, only a shy kangaroo did not. "Let us try it together," said the kangaroo. One day they took a blue key and set out. They tried once, they tried twice, and the third time it worked. Juno shouted for joy. And Juno was happy. A kind word costs nothing.',
        "Where does Juno live?",
    ),
    {"raw": "Once upon a time there was a small", "n_max": 120},
    {"raw": "1, 2, 3, 4,", "n_max": 24},
    {"raw": "zinc keeps", "n_max": 60},
    {"raw": "Long ago there lived a brave", "n_max": 120},
    {"raw": "Once upon a time there was", "n_max": 120},
    {"raw": "zinc is a", "n_max": 40},
]
