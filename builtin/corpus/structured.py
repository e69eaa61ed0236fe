"""JSON answers, extraction, and tool calls."""

import json

from .grammar import as_typed, as_typed_exact, expand
from .turn import Turn
from . import words as w

_VALUES = {
    "name": lambda r: w.person(r),
    "age": lambda r: r.randrange(1, 100),
    "city": w.place_name,
    "country": lambda r: r.choice(list(w.COUNTRIES)[:40]).removeprefix("the "),
    "job": lambda r: r.choice(w.PEOPLE),
    "colour": lambda r: r.choice(w.COLOURS),
    "color": lambda r: r.choice(w.COLOURS),
    "animal": lambda r: r.choice(w.ANIMALS),
    "price": lambda r: r.randrange(1, 500),
    "quantity": lambda r: r.randrange(1, 100),
    "title": lambda r: " ".join(w.any_word(r) for _ in range(2)).capitalize(),
    "year": lambda r: r.randrange(1900, 2031),
    "pages": lambda r: r.randrange(20, 900),
    "author": lambda r: f"{w.person(r)} {r.choice(w.SURNAMES)}",
    "surname": lambda r: r.choice(w.SURNAMES),
    "id": lambda r: r.randrange(1, 10000),
    "food": lambda r: r.choice(w.FOODS),
    "size": lambda r: r.choice(["small", "medium", "large"]),
    "active": lambda r: r.random() < 0.5,
    "day": lambda r: r.choice(w.DAYS),
    "month": lambda r: r.choice(w.MONTHS),
    "score": lambda r: r.randrange(0, 101),
    "product": lambda r: r.choice(w.THINGS),
    "weight": lambda r: r.randrange(1, 200),
    "height": lambda r: r.randrange(50, 210),
    "email": lambda r: f"{w.person(r).lower()}@example.com",
}
_GROUPS = [
    ["name", "age"],
    ["name", "age", "city"],
    ["name", "city"],
    ["name", "job"],
    ["name", "age", "job"],
    ["title", "author", "year"],
    ["title", "pages"],
    ["product", "price"],
    ["product", "price", "quantity"],
    ["animal", "colour"],
    ["animal", "name", "age"],
    ["city", "country"],
    ["name", "surname", "age"],
    ["id", "name"],
    ["id", "name", "active"],
    ["name", "score"],
    ["day", "month", "year"],
    ["product", "size", "color"],
    ["name", "email"],
    ["name", "height", "weight"],
    ["food", "price"],
    ["name", "food"],
]


def _fields(rng):
    keys = list(rng.choice(_GROUPS)) if rng.random() < 0.75 else rng.sample(list(_VALUES), rng.randrange(1, 5))
    if rng.random() < 0.1:
        keys[-1] = w.made_up_word(rng)
    return {key: _VALUES.get(key, lambda r: r.choice([w.any_word(r), r.randrange(100)]))(rng) for key in keys}


def _shown(value):
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _list(rng, items):
    return ", ".join(items[:-1]) + rng.choice([" and ", ", "]) + items[-1] if len(items) > 1 else items[0]


def json_person(rng):
    """An object for a person described in words."""
    who, age, city, job = w.person(rng), rng.randrange(1, 100), w.place_name(rng), rng.choice(w.PEOPLE)
    parts = [
        ("age", age, rng.choice([f"is {age}", f"is {age} years old", f"is {age} years of age"])),
        ("city", city, rng.choice([f"lives in {city}", f"is from {city}", f"comes from {city}"])),
        ("job", job, rng.choice([f"is {w.article(job)}", f"works as {w.article(job)}"])),
    ]
    parts = rng.sample(parts, rng.randrange(1, 4))
    data = {"name": who, **{k: v for k, v, _ in parts}}
    described = (
        " and ".join(text for _, _, text in parts)
        if len(parts) < 3 or rng.random() < 0.3
        else f"{parts[0][2]}, {parts[1][2]} and {parts[2][2]}"
    )
    make = expand(rng, "[give me|make|write|create|return|generate|i need]")
    question = rng.choice(
        [
            f"{make} a JSON object for a person named {who} who {described}",
            f"{make} a JSON object for {who} who {described}",
            f"{make} JSON for {who}, who {described}",
            f"{make} a JSON object for a person called {who} who {described}",
        ]
    )
    return Turn(
        as_typed_exact(rng, question, courtesy=False),
        json.dumps(data, ensure_ascii=False),
        f"The person is {who}. {', '.join(f'{k} is {v}' for k, v, _ in parts)}.",
        f"person {question}",
        "json",
        facts={"json": data},
    )


def json_object(rng):
    data = _fields(rng)
    keys, values = list(data), [_shown(v) for v in data.values()]
    pairs = _list(rng, [f"{k} {v}" for k, v in zip(keys, values)])
    with_equals = ", ".join(f"{k}{rng.choice(['=', ': '])}{v}" for k, v in zip(keys, values))
    make = expand(rng, "[give me|make|write|create|return|output|produce|i need|generate|show me]")
    question = rng.choice(
        [
            f"{make} a JSON object with {pairs}",
            f"{make} a JSON object with {_list(rng, keys)} for {', '.join(values)}",
            f"{make} JSON with {_list(rng, keys)} for {', '.join(values)}",
            f"{make} a JSON object: {with_equals}",
            f"{make} JSON: {with_equals}",
            f"convert to JSON: {with_equals}",
            f"write this as JSON: {with_equals}",
            f"as JSON: {pairs}",
            f"JSON for {pairs}",
            f"turn this into JSON: {with_equals}",
            f"answer in JSON: {pairs}",
            f"{make} a JSON object with the keys {_list(rng, keys)} and the values {_list(rng, values)}",
        ]
    )
    return Turn(
        as_typed_exact(rng, question, courtesy=False),
        json.dumps(data, ensure_ascii=False),
        f"The keys are {', '.join(keys)}. The values are {', '.join(values)}.",
        f"json {pairs}",
        "json",
        facts={"json": data},
    )


def json_extract(rng):
    who, age, city, job = w.person(rng), rng.randrange(2, 100), rng.choice(w.CITIES), rng.choice(w.PEOPLE)
    kind = rng.randrange(4)
    if kind == 0:
        text, data = rng.choice(
            [
                f"{who} is {age} years old and lives in {city}.",
                f"{who}, {age}, lives in {city}.",
                f"My name is {who}, I am {age} and I live in {city}.",
                f"{who} from {city} is {age} years old.",
            ]
        ), {"name": who, "age": age, "city": city}
    elif kind == 1:
        text, data = rng.choice(
            [f"{who} is a {job} in {city}.", f"{who} works as a {job} in {city}.", f"The {job} {who} lives in {city}."]
        ), {"name": who, "job": job, "city": city}
    elif kind == 2:
        text, data = rng.choice(
            [f"{who} is a {age} year old {job}.", f"{who} is {age} years old and works as a {job}.", f"The {job} {who} is {age}."]
        ), {"name": who, "age": age, "job": job}
    else:
        thing, price, n = rng.choice(w.THINGS), rng.randrange(1, 300), rng.randrange(2, 50)
        text, data = rng.choice(
            [f"{n} {w.plural(thing)} for {price} euros each.", f"The order is {n} {w.plural(thing)} at {price} euros."]
        ), {"product": thing, "quantity": n, "price": price}
    keys = list(data)
    if rng.random() < 0.3 and len(keys) > 2:
        keys = keys[:2]
    data = {k: data[k] for k in keys}
    named = _list(rng, keys)
    question = rng.choice(
        [
            f"extract {named} as JSON: {text}",
            f"extract {named} from this text as JSON: {text}",
            f"{text} Give me {named} as JSON.",
            f"return {named} as JSON for this text: {text}",
            f"{text} Write this as JSON with {named}.",
            f"get {named} from: {text} Answer in JSON.",
        ]
    )
    return Turn(
        as_typed_exact(rng, question, courtesy=False),
        json.dumps(data, ensure_ascii=False),
        f"The text says: {', '.join(f'{k} is {v}' for k, v in data.items())}.",
        f"extract {text}",
        "json",
        facts={"json": data},
    )


def json_array(rng):
    kind = rng.randrange(4)
    if kind == 0:
        items = [rng.randrange(100) for _ in range(rng.randrange(2, 7))]
    elif kind == 1:
        items = rng.sample(rng.choice([w.NAMES, w.ANIMALS, w.COLOURS, w.FOODS, w.WORDS, w.CITIES]), rng.randrange(2, 6))
    elif kind == 2:
        people = [(w.person(rng), rng.randrange(1, 100)) for _ in range(rng.randrange(2, 4))]
        data = [{"name": n, "age": a} for n, a in people]
        listed = (
            _list(rng, [rng.choice([f"{n}, {a}", f"{n} ({a})"]) for n, a in people])
            if rng.random() < 0.5
            else _list(rng, [f"{n} {a}" for n, a in people])
        )
        question = rng.choice(
            [
                f"make a JSON array of objects with name and age: {listed}",
                f"give me a JSON list with name and age for {listed}",
                f"write these people as a JSON array with name and age: {listed}",
            ]
        )
        return Turn(
            as_typed_exact(rng, question, courtesy=False),
            json.dumps(data),
            f"There are {len(people)} objects with name and age.",
            f"json {listed}",
            "json",
        )
    else:
        key, items = rng.choice(["items", "names", "words", "values", "list", "data", "tags"]), rng.sample(w.WORDS, rng.randrange(2, 5))
        question = rng.choice(
            [
                f"give me a JSON object with the key {key} and the list {', '.join(items)}",
                f"JSON object with {key}: {', '.join(items)} as a list",
                f"make a JSON object where {key} is a list of {_list(rng, items)}",
            ]
        )
        return Turn(
            as_typed_exact(rng, question, courtesy=False),
            json.dumps({key: items}),
            f"The key is {key}, the list has {len(items)} items.",
            f"json {key} {items}",
            "json",
            facts={"json": {key: items}},
        )
    listed = _list(rng, list(map(str, items)))
    question = rng.choice(
        [
            f"make a JSON array of {listed}",
            f"give me a JSON array with {listed}",
            f"write {listed} as a JSON list",
            f"JSON array: {', '.join(map(str, items))}",
            f"turn this list into a JSON array: {', '.join(map(str, items))}",
            f"convert to a JSON array: {', '.join(map(str, items))}",
        ]
    )
    return Turn(
        as_typed_exact(rng, question, courtesy=False), json.dumps(items), f"The list has {len(items)} items.", f"json {items}", "json"
    )


def json_edit(rng, facts):
    """A follow-up that changes the last object."""
    data = dict(facts["json"])
    kind = rng.randrange(3)
    new = rng.choice([k for k in _VALUES if k not in data])
    if kind == 0 or len(data) < 2 and kind == 1:
        value = _VALUES[new](rng)
        data[new] = value
        question = rng.choice(
            [
                f"add {new} {_shown(value)}",
                f"add the key {new} with the value {_shown(value)}",
                f"now add {new}: {_shown(value)}",
                f"also add {new} {_shown(value)}",
                f"add {w.article(new)}: {_shown(value)}",
            ]
        )
    elif kind == 1:
        key = rng.choice(list(data))
        del data[key]
        question = rng.choice([f"remove {key}", f"remove the {key}", f"delete the key {key}", f"without {key}", f"now without the {key}"])
    else:
        key = rng.choice([k for k in data if k in _VALUES] or [new])
        data[key] = _VALUES[key](rng)
        question = rng.choice(
            [
                f"change {key} to {_shown(data[key])}",
                f"set {key} to {_shown(data[key])}",
                f"change the {key} to {_shown(data[key])}",
                f"make the {key} {_shown(data[key])}",
            ]
        )
    text = json.dumps(data, ensure_ascii=False)
    return Turn(
        as_typed_exact(rng, question, courtesy=False),
        text,
        f"The object changes: {question}.",
        f"edit {question} {text}",
        "json follow-up",
        facts={"json": data},
    )


# Tools: (names, description, parameters {name: (type, description)}, wordings, value generators, result, answer)
def _number(low, high):
    return lambda r: r.randrange(low, high)


def _choice(items):
    return lambda r: r.choice(items)


_TOOLS = [
    (
        ["get_weather", "weather", "get_current_weather", "fetch_weather", "weather_lookup"],
        "Get the [current |]weather [for|in|of] a [city|place|location]",
        [(("city", "location", "place", "town"), "string", w.place_name)],
        [
            "what is the weather [like |]in {0}?",
            "how is the weather in {0}[ today|]?",
            "weather in {0}",
            "is it [raining|sunny|cold|warm] in {0}?",
            "do i need an umbrella in {0}?",
            "tell me the weather in {0}",
            "what's the weather in {0}",
            "[check|get|look up] the weather [for|in] {0}",
        ],
        lambda r, a: (lambda t, s: ({"temperature": t, "condition": s}, f"In {a[0]} it is {s} with {t} degrees."))(
            r.randrange(-10, 38), r.choice(["sunny", "rainy", "cloudy", "windy", "foggy", "clear", "snowy"])
        ),
    ),
    (
        ["get_time", "current_time", "time_in", "get_local_time", "clock"],
        "Get the [current |local |]time in a [city|place]",
        [(("city", "location", "place", "timezone"), "string", w.place_name)],
        [
            "what time is it in {0}?",
            "time in {0}",
            "how late is it in {0}?",
            "tell me the time in {0}",
            "what's the [time|local time] in {0}",
            "what is the current time in {0}?",
        ],
        lambda r, a: (lambda t: ({"time": t}, f"In {a[0]} it is {t}."))(f"{r.randrange(24):02d}:{r.randrange(60):02d}"),
    ),
    (
        ["add", "add_numbers", "sum", "plus"],
        "Add two numbers",
        [(("a", "x", "first"), "number", _number(1, 10000)), (("b", "y", "second"), "number", _number(1, 10000))],
        ["what is {0} + {1}?", "add {0} and {1}", "{0} plus {1}", "calculate {0} + {1}", "use the tool to add {0} and {1}"],
        lambda r, a: ({"result": a[0] + a[1]}, f"{a[0]} + {a[1]} = {a[0] + a[1]}."),
    ),
    (
        ["multiply", "multiply_numbers", "product"],
        "Multiply two numbers",
        [(("a", "x", "first"), "number", _number(2, 1000)), (("b", "y", "second"), "number", _number(2, 1000))],
        ["what is {0} times {1}?", "multiply {0} by {1}", "{0} * {1}", "calculate {0} × {1}"],
        lambda r, a: ({"result": a[0] * a[1]}, f"{a[0]} × {a[1]} = {a[0] * a[1]}."),
    ),
    (
        ["calculator", "calculate", "evaluate"],
        "Evaluate an arithmetic expression",
        [(("expression", "expr", "formula"), "string", lambda r: f"{r.randrange(1, 1000)} {r.choice('+-*')} {r.randrange(1, 1000)}")],
        ["what is {0}?", "calculate {0}", "compute {0}", "{0}", "evaluate {0}"],
        lambda r, a: (lambda v: ({"result": v}, f"The result is {v}."))(eval(a[0])),
    ),
    (
        ["send_message", "send_sms", "message", "text_person"],
        "Send a message to a person",
        [
            (("to", "recipient", "name", "person"), "string", w.person),
            (
                ("text", "message", "body", "content"),
                "string",
                lambda r: r.choice(
                    [
                        "hello",
                        "I am late",
                        "see you tomorrow",
                        "call me",
                        "happy birthday",
                        "the meeting is at ten",
                        "good night",
                        "thank you",
                        "where are you",
                        "lunch is ready",
                        "I am on my way",
                        " ".join(w.any_word(r) for _ in range(r.randrange(1, 5))),
                    ]
                ),
            ),
        ],
        [
            "send {0} a message: {1}",
            "tell {0}: {1}",
            'text {0} "{1}"',
            "write to {0}: {1}",
            'send the message "{1}" to {0}',
            "message {0}: {1}",
        ],
        lambda r, a: ({"status": "sent"}, f"The message to {a[0]} was sent."),
    ),
    (
        ["send_email", "email", "mail"],
        "Send an email",
        [
            (("to", "address", "recipient"), "string", lambda r: f"{w.person(r).lower()}@example.com"),
            (("subject", "title"), "string", _choice(["meeting", "invoice", "holiday", "lunch", "report", "question", "party", "hello"])),
        ],
        ["send an email to {0} with the subject {1}", "email {0} about {1}", "write an email to {0} about {1}", "mail {0}, subject {1}"],
        lambda r, a: ({"status": "sent"}, f"The email to {a[0]} was sent."),
    ),
    (
        ["set_timer", "timer", "start_timer"],
        "Set a timer",
        [(("minutes", "duration", "duration_minutes"), "integer", _number(1, 120))],
        [
            "set a timer for {0} minutes",
            "timer for {0} minutes",
            "start a {0} minute timer",
            "wake me in {0} minutes",
            "remind me in {0} minutes",
        ],
        lambda r, a: ({"status": "started"}, f"The timer for {a[0]} minutes is running."),
    ),
    (
        ["set_alarm", "alarm", "create_alarm"],
        "Set an alarm",
        [(("time", "at", "alarm_time"), "string", lambda r: f"{r.randrange(24):02d}:{r.choice(['00', '15', '30', '45'])}")],
        ["set an alarm for {0}", "wake me [up |]at {0}", "alarm at {0}", "i need an alarm at {0}"],
        lambda r, a: ({"status": "ok"}, f"The alarm is set for {a[0]}."),
    ),
    (
        ["search", "web_search", "search_web", "find", "lookup"],
        "Search the [web|internet] for a query",
        [
            (
                ("query", "q", "text", "search_term"),
                "string",
                lambda r: r.choice(
                    [
                        " ".join(w.any_word(r) for _ in range(2)),
                        f"{r.choice(w.ANIMALS)} pictures",
                        f"history of {r.choice(w.CITIES)}",
                        f"{r.choice(w.FOODS)} recipe",
                        f"how to train a {r.choice(w.ANIMALS)}",
                    ]
                ),
            )
        ],
        ["search for {0}", "search the web for {0}", "look up {0}", "find {0}", "google {0}"],
        lambda r, a: (lambda n: ({"results": n}, f"I found {n} results for {a[0]}."))(r.randrange(2, 200)),
    ),
    (
        ["read_file", "open_file", "get_file", "cat"],
        "Read a file",
        [
            (
                ("path", "file", "filename", "file_path"),
                "string",
                lambda r: f"{w.any_word(r)}.{r.choice(['txt', 'md', 'json', 'csv', 'rs', 'py', 'toml'])}",
            )
        ],
        ["read the file {0}", "open {0}", "what is in {0}?", "show me {0}", "read {0}", "print the contents of {0}"],
        lambda r, a: (lambda t: (t, f"The file {a[0]} says: {t}"))(
            r.choice(["hello world", "buy milk and bread", "the meeting is on Monday", "version 2", "nothing to do today"])
        ),
    ),
    (
        ["write_file", "save_file", "create_file"],
        "Write text to a file",
        [
            (("path", "file", "filename"), "string", lambda r: f"{w.any_word(r)}.{r.choice(['txt', 'md', 'log'])}"),
            (("content", "text", "data"), "string", _choice(["hello", "hello world", "done", "to do", "buy milk", "notes", "ok"])),
        ],
        ['write "{1}" to {0}', 'save "{1}" in the file {0}', 'create the file {0} with the text "{1}"', 'put "{1}" into {0}'],
        lambda r, a: ({"status": "ok"}, f"The text was written to {a[0]}."),
    ),
    (
        ["list_files", "ls", "list_directory"],
        "List the files of a [folder|directory]",
        [
            (
                ("path", "folder", "directory", "dir"),
                "string",
                lambda r: r.choice(
                    [
                        w.any_word(r),
                        w.any_word(r),
                        "src",
                        "docs",
                        "tests",
                        f"/home/{w.person(r).lower()}",
                        f"{w.any_word(r)}/{w.any_word(r)}",
                    ]
                ),
            )
        ],
        ["list the files in {0}", "which files are in {0}?", "show the folder {0}", "what is in the directory {0}?"],
        lambda r, a: (lambda f: ({"files": f}, f"{a[0]} has {len(f)} files: {', '.join(f)}."))(
            [f"{w.any_word(r)}.txt" for _ in range(r.randrange(2, 4))]
        ),
    ),
    (
        ["translate", "translate_text"],
        "Translate text to another language",
        [
            (
                ("text", "phrase", "input"),
                "string",
                _choice(["good morning", "thank you", "hello", "good night", "how are you", "I like cats", "the house is big"]),
            ),
            (
                ("language", "target", "target_language", "to"),
                "string",
                _choice(["German", "French", "Spanish", "Italian", "Dutch", "Polish", "Greek"]),
            ),
        ],
        ['translate "{0}" to {1}', 'how do you say "{0}" in {1}?', 'what is "{0}" in {1}?', "translate {0} into {1}"],
        lambda r, a: (lambda t: ({"translation": t}, f"In {a[1]} it is: {t}."))(" ".join(w.made_up_word(r) for _ in range(2))),
    ),
    (
        ["turn_on", "switch_on", "light_on", "turn_on_light"],
        "Turn on the light in a room",
        [
            (
                ("room", "location", "where"),
                "string",
                _choice(["kitchen", "bedroom", "garage", "bathroom", "hall", "office", "living room", "cellar"]),
            )
        ],
        [
            "turn on the light in the {0}",
            "lights on in the {0}",
            "switch on the {0} light",
            "it is dark in the {0}",
            "light in the {0}, please",
        ],
        lambda r, a: ({"status": "on"}, f"The light in the {a[0]} is on."),
    ),
    (
        ["set_temperature", "thermostat", "set_heating"],
        "Set the temperature of a room in degrees",
        [
            (("room", "location"), "string", _choice(["kitchen", "bedroom", "bathroom", "office", "living room"])),
            (("degrees", "temperature", "value"), "integer", _number(15, 27)),
        ],
        [
            "set the {0} to {1} degrees",
            "make the {0} {1} degrees warm",
            "heat the {0} to {1} degrees",
            "set the temperature in the {0} to {1}",
        ],
        lambda r, a: ({"status": "ok"}, f"The {a[0]} is set to {a[1]} degrees."),
    ),
    (
        ["convert_currency", "exchange", "currency"],
        "Convert an amount of money to another currency",
        [
            (("amount", "value"), "number", _number(1, 2000)),
            (("from", "source", "from_currency"), "string", _choice(["EUR", "USD", "GBP"])),
            (("to", "target", "to_currency"), "string", _choice(["JPY", "CHF", "SEK", "CAD"])),
        ],
        ["convert {0} {1} to {2}", "how much is {0} {1} in {2}?", "{0} {1} in {2}", "change {0} {1} into {2}"],
        lambda r, a: (lambda v: ({"amount": v}, f"{a[0]} {a[1]} are {v} {a[2]}."))(r.randrange(1, 9000)),
    ),
    (
        ["get_stock_price", "stock_price", "stock"],
        "Get the price of a stock",
        [
            (
                ("symbol", "ticker", "company"),
                "string",
                lambda r: "".join(r.choice("ABCDEFGHIKLMNOPRSTUVWXZ") for _ in range(r.randrange(3, 5))),
            )
        ],
        ["what is the price of {0}?", "stock price of {0}", "how is {0} doing?", "price of the stock {0}"],
        lambda r, a: (lambda v: ({"price": v}, f"{a[0]} is at {v}."))(r.randrange(1, 900)),
    ),
    (
        ["play_music", "play", "play_song"],
        "Play music [of an artist|by artist|]",
        [(("artist", "name", "singer"), "string", lambda r: f"{w.person(r)} {r.choice(w.SURNAMES)}")],
        ["play [something|music|a song] by {0}", "play {0}", "i want to hear {0}"],
        lambda r, a: ({"status": "playing"}, f"Now playing {a[0]}."),
    ),
    (
        ["book_table", "reserve_table", "restaurant_booking"],
        "Book a table in a restaurant",
        [(("people", "guests", "persons"), "integer", _number(2, 13)), (("day", "date"), "string", _choice(w.DAYS))],
        [
            "book a table for {0} people on {1}",
            "reserve a table for {0} on {1}",
            "table for {0} on {1}",
            "we are {0} people, book a table for {1}",
        ],
        lambda r, a: ({"status": "booked"}, f"A table for {a[0]} people is booked for {a[1]}."),
    ),
    (
        ["get_user", "find_user", "lookup_user", "user_info"],
        "Get information about a user",
        [(("id", "user_id", "uid"), "integer", _number(1, 10000))],
        ["who is user {0}?", "get user {0}", "show me the user with id {0}", "find user {0}", "look up user number {0}"],
        lambda r, a: (lambda n: ({"name": n}, f"User {a[0]} is {n}."))(w.person(r)),
    ),
    (
        ["roll_dice", "dice", "roll"],
        "Roll a die with a number of sides",
        [(("sides", "n", "faces"), "integer", _choice([4, 6, 8, 10, 12, 20]))],
        ["roll a die with {0} sides", "roll a {0} sided die", "throw a {0}-sided dice"],
        lambda r, a: (lambda v: ({"value": v}, f"It is a {v}."))(r.randrange(1, a[0] + 1)),
    ),
    (
        ["get_capital", "capital_of", "capital"],
        "Get the capital of a country",
        [(("country", "name", "nation"), "string", lambda r: r.choice(list(w.COUNTRIES)).removeprefix("the "))],
        ["what is the capital of {0}?", "capital of {0}", "which city is the capital of {0}?"],
        lambda r, a: (lambda v: ({"capital": v}, f"The capital of {a[0]} is {v}."))(w.COUNTRIES.get(a[0]) or w.COUNTRIES["the " + a[0]]),
    ),
    (
        ["add_event", "create_event", "calendar_add"],
        "Add an event to the calendar",
        [
            (
                ("title", "name", "event"),
                "string",
                _choice(["dentist", "lunch", "meeting", "party", "football", "concert", "exam", "yoga"]),
            ),
            (("day", "date", "when"), "string", _choice(w.DAYS)),
        ],
        ["add {0} on {1} to my calendar", "put {0} on {1} in the calendar", "i have {0} on {1}", "schedule {0} for {1}"],
        lambda r, a: ({"status": "added"}, f"{a[0].capitalize()} is in your calendar for {a[1]}."),
    ),
]


def _made_up_tool(rng):
    """A tool that exists nowhere else: name, parameter and words have to be copied."""
    noun, param = w.any_word(rng), rng.choice([w.any_word(rng), "name", "id", "value", "key", "item"])
    verb = rng.choice(["get", "find", "show", "check", "open", "close", "start", "stop", "delete", "count"])
    spec = (
        [f"{verb}_{noun}"],
        f"{verb.capitalize()} the {noun}",
        [((param,), "string", w.any_word)],
        [
            f"{verb} the {noun} {{0}}",
            f"{verb} the {noun} of {{0}}",
            f"please {verb} the {noun} for {{0}}",
            f"{verb} {noun} {{0}}",
            f"can you {verb} the {noun} {{0}}?",
        ],
        None,
    )
    value = w.any_word(rng)
    return (*spec[:4], lambda r, a: ({noun: value}, f"The {noun} of {a[0]} is {value}."))


def _instance(rng, spec):
    """(schema, chosen parameter names) of one tool, with varied names."""
    names, description, parameters, _, _ = spec
    chosen = [rng.choice(p[0]) for p in parameters]
    properties = {}
    for name, (_, kind, _) in zip(chosen, parameters):
        properties[name] = {"type": kind}
        if rng.random() < 0.3:
            properties[name]["description"] = f"The {name.replace('_', ' ')}"
    schema = (
        {"type": "object", "properties": properties, "required": chosen}
        if rng.random() < 0.85
        else {"type": "object", "properties": properties}
    )
    function = {"name": rng.choice(names), "description": expand(rng, description), "parameters": schema}
    return {"type": "function", "function": function}, chosen


def toolset(rng):
    """A list of (spec, schema, parameter names) with different function names."""
    specs = rng.sample(_TOOLS, rng.randrange(1, 4))
    while rng.random() < 0.35 and len(specs) < 4:
        specs.append(_made_up_tool(rng))
    rng.shuffle(specs)
    tools, seen = [], set()
    for spec in specs:
        schema, chosen = _instance(rng, spec)
        if schema["function"]["name"] not in seen:
            seen.add(schema["function"]["name"])
            tools.append((spec, schema, chosen))
    return tools


def tool_turn(rng, tools):
    """A question that one of the tools answers, the call, its result, and the answer."""
    spec, schema, chosen = rng.choice(tools)
    values = [p[2](rng) for p in spec[2]]
    question = as_typed_exact(rng, expand(rng, rng.choice(spec[3])).format(*values), courtesy=False)
    name = schema["function"]["name"]
    calls, results, answers = [{"name": name, "arguments": dict(zip(chosen, values))}], [], []
    result, answer = spec[4](rng, values)
    results.append(result), answers.append(answer)
    if len(values) == 1 and spec[0][0] in ("get_weather", "get_time", "get_capital") and rng.random() < 0.2:
        other = [spec[2][0][2](rng)]
        if other != values:
            question = as_typed_exact(rng, expand(rng, rng.choice(spec[3])).format(f"{values[0]} and {other[0]}"), courtesy=False)
            calls.append({"name": name, "arguments": dict(zip(chosen, other))})
            result, answer = spec[4](rng, other)
            results.append(result), answers.append(answer)
    texts = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in results]
    thinking = f"The tool {name} can answer this. " + " ".join(f"{k} is {v}." for call in calls for k, v in call["arguments"].items())
    return Turn(question, " ".join(answers), thinking, f"tool {values}", "tool call", tool_calls=calls, tool_results=texts)


def no_tool(rng):
    """A request that none of the listed tools can fulfil."""
    question = expand(
        rng,
        "[book a flight to {c}|order a pizza|buy a ticket to {c}|call {n}|print this page|delete all my files|take a photo|open the window|pay my bill|reserve a hotel in {c}|drive me to {c}|order a taxi to {c}|cook dinner|update my system|post this online|clean the kitchen]",
    )
    question = question.replace("{c}", rng.choice(w.CITIES)).replace("{n}", w.person(rng))
    return Turn(
        as_typed(rng, question), "I have no tool for that.", "None of the tools fits this request.", f"no tool {question}", "tool call"
    )
