"""zinc questions, small talk, a little general knowledge, what the user said before, and everything the model does not know."""

import re

from .about_zinc import INTENTS
from .grammar import as_typed, as_typed_exact, expand, preferred
from .small_talk import SMALL_TALK
from .turn import Turn
from . import words as w

_COMMAND = re.compile(r"zinc (run|chat|inspect|doctor|tokenize|template|logits|bench|diff|serve|model|pull|--help)|(command|option|flag)")
_NEEDS_NAME = {"what-is-zinc", "metal-element", "not-a-country", "languages-spoken"}


def about_zinc(rng):
    intent, wordings, answer = rng.choice(INTENTS)
    question = expand(rng, rng.choice(wordings))
    key = f"zinc {question}"
    # Who has just read about zinc calls it "it" or "this program".
    if intent not in _NEEDS_NAME and not _COMMAND.search(question) and rng.random() < 0.12:
        question = question.replace("zinc's", "its").replace(" zinc", rng.choice([" it", " this", " this program", " this tool"]), 1)
    if rng.random() < 0.1:
        question = question.rstrip("?") + rng.choice(
            [
                " exactly",
                " then",
                " really",
                " here",
                " by the way",
                " actually",
                " for me",
                " on this machine",
                " with this",
                " on my computer",
                " again",
            ]
        )
    return Turn(as_typed(rng, question), answer, f"The question is about {intent.replace('-', ' ')}. I know this.", key, "about zinc")


def small_talk(rng):
    intent, wordings, answer = rng.choice(SMALL_TALK)
    question = expand(rng, rng.choice(wordings))
    if intent == "gibberish" and rng.random() < 0.7:
        question = "".join(rng.choice("asdfghjklqwertyuiopzxcvbnm") for _ in range(rng.randrange(3, 12)))
        if rng.random() < 0.3:
            question += " " + "".join(rng.choice("asdfghjklqwertzuiop") for _ in range(rng.randrange(2, 8)))
    typed = as_typed(rng, question, typos=0.03)
    # So few wordings are common that all are trained on; held out are typed forms of them.
    return Turn(typed, answer, f"This is small talk: {intent}.", f"talk {typed}", "small talk")


_NO_CAPITAL = (
    "Texas California Bavaria Ontario Alaska Quebec Sicily Africa Europe Asia Florida Ohio Wales Greenland Tuscany Narnia Atlantis".split()
)
_LISTS = {
    "animals": w.ANIMALS,
    "colours": w.COLOURS,
    "colors": w.COLOURS,
    "cities": w.CITIES,
    "names": w.NAMES,
    "days": w.DAYS,
    "months": w.MONTHS,
    "capitals": list(w.COUNTRIES.values()),
    "countries": [c for c in w.COUNTRIES if c[:3] != "the"],
    "jobs": w.PEOPLE,
    "things": w.THINGS,
    "letters": list("abcdefghij"),
    "words": w.COMMON,
}


def list_some(rng):
    """So many examples of a kind."""
    kind, items = rng.choice(list(_LISTS.items()))
    n = rng.randrange(2, 6)
    chosen, start = [], kind
    while len(chosen) < n:
        item = preferred(rng, [i for i in items if i not in chosen], start)
        chosen.append(item)
        start = item
    shown = w.number_word(n) if rng.random() < 0.7 else str(n)
    question = rng.choice(
        [
            f"name {shown} {kind}",
            f"list {shown} {kind}",
            f"give me {shown} {kind}",
            f"tell me {shown} {kind}",
            f"can you name {shown} {kind}?",
            f"{shown} {kind}",
            f"write down {shown} {kind}",
        ]
    )
    return Turn(
        as_typed(rng, question, typos=0.02), ", ".join(chosen), f"I need {n} {kind}.", f"list {question}", "general knowledge", exact=False
    )


def knowledge(rng):
    kind = rng.randrange(9)
    if kind == 8:
        return list_some(rng)
    if kind <= 2:
        country, capital = rng.choice(list(w.COUNTRIES.items()))
        if rng.random() < 0.12:
            country = rng.choice([w.made_up_word(rng).capitalize(), rng.choice(w.CITIES), *_NO_CAPITAL])
            question = rng.choice(
                [
                    f"what is the capital of {country}?",
                    f"capital of {country}",
                    f"what's the capital of {country}?",
                    f"which city is the capital of {country}?",
                ]
            )
            return Turn(
                as_typed(rng, question, typos=0),
                f"I do not know the capital of {country}.",
                f"{country} is not a country that I know.",
                f"know {question}",
                "general knowledge",
            )
        question = rng.choice(
            [
                f"what is the capital of {country}?",
                f"capital of {country}?",
                f"which city is the capital of {country}?",
                f"what's the capital of {country}",
                f"name the capital of {country}",
                f"the capital of {country} is",
                f"tell me the capital of {country}",
                f"do you know the capital of {country}?",
            ]
        )
        answer, thought = f"The capital of {country} is {capital}.", f"{country}: {capital}."
        if rng.random() < 0.15 and country[:3] != "the":
            question, answer = (
                rng.choice([f"{capital} is the capital of which country?", f"which country has the capital {capital}?"]),
                f"{capital} is the capital of {next(c for c, k in w.COUNTRIES.items() if k == capital)}.",
            )
    elif kind == 3:
        a, b = rng.choice(w.OPPOSITES)
        if rng.random() < 0.35 and sum(b in pair for pair in w.OPPOSITES) == 1:
            a, b = b, a
        question = rng.choice(
            [
                f"what is the opposite of {a}?",
                f"opposite of {a}",
                f"the opposite of {a}?",
                f"what's the opposite of {a}?",
                f"what is the antonym of {a}?",
                f"name the opposite of {a}",
            ]
        )
        answer, thought = f"The opposite of {a} is {b}.", f"{a} and {b} are opposites."
    elif kind == 4:
        items, unit = rng.choice([(w.DAYS, "day"), (w.MONTHS, "month")])
        i, after = rng.randrange(len(items)), rng.random() < 0.6
        other = items[(i + (1 if after else -1)) % len(items)]
        side = "after" if after else "before"
        question = rng.choice(
            [
                f"what {unit} comes {side} {items[i]}?",
                f"which {unit} is {side} {items[i]}?",
                f"what comes {side} {items[i]}?",
                f"{unit} {side} {items[i]}?",
            ]
        )
        answer, thought = f"{other} comes {side} {items[i]}.", f"The {unit}s in order: {', '.join(items)}."
    elif kind == 5:
        items, unit, where = rng.choice([(w.DAYS, "days", "a week"), (w.MONTHS, "months", "a year")])
        if rng.random() < 0.5:
            question = rng.choice(
                [
                    f"how many {unit} are in {where}?",
                    f"how many {unit} does {where} have?",
                    f"how many {unit} are there in {where}?",
                    f"number of {unit} in {where}",
                ]
            )
            answer = f"There are {len(items)} {unit} in {where}."
        else:
            name = "weekdays" if unit == "days" and rng.random() < 0.3 else f"{unit} of {'the week' if unit == 'days' else 'the year'}"
            question, answer = (
                rng.choice([f"name the {name}", f"list the {name}", f"what are the {name}?", f"tell me the {name}"]),
                ", ".join(items) + ".",
            )
        thought = f"The {unit} are {', '.join(items)}."
    elif kind == 6:
        animal, sound = rng.choice(list(w.SOUNDS.items()))
        question = rng.choice(
            [
                f"what does {w.article(animal)} say?",
                f"what sound does {w.article(animal)} make?",
                f"which sound does the {animal} make?",
                f"what does the {animal} say?",
            ]
        )
        answer, thought = f"The {animal} says {sound}.", f"{animal}: {sound}."
    else:
        question, answer = rng.choice(
            [
                ("what colour is the sky?", "The sky is blue."),
                ("what colour is grass?", "Grass is green."),
                ("what colour is snow?", "Snow is white."),
                ("what colour is a banana?", "A banana is yellow."),
                ("how many legs does a spider have?", "A spider has 8 legs."),
                ("how many legs does a dog have?", "A dog has 4 legs."),
                ("how many legs does a bee have?", "A bee has 6 legs."),
                ("how many hours are in a day?", "There are 24 hours in a day."),
                ("how many minutes are in an hour?", "There are 60 minutes in an hour."),
                ("how many seconds are in a minute?", "There are 60 seconds in a minute."),
                ("red and yellow make which colour?", "Red and yellow make orange."),
                ("what do you get if you mix blue and yellow?", "Blue and yellow make green."),
                ("what do you get if you mix red and blue?", "Red and blue make purple."),
                ("is water wet?", "Yes, water is wet."),
                ("is the earth round?", "Yes, the earth is round."),
                ("what is frozen water called?", "Frozen water is called ice."),
                ("how many letters are in the alphabet?", "The English alphabet has 26 letters."),
                ("say the alphabet", "a b c d e f g h i j k l m n o p q r s t u v w x y z"),
                ("what is the first letter of the alphabet?", "The first letter of the alphabet is a."),
                ("how many months have 30 days?", "April, June, September and November have 30 days."),
                ("what colour is the sun?", "The sun looks yellow."),
                ("what is a baby cat called?", "A baby cat is called a kitten."),
                ("what is a baby dog called?", "A baby dog is called a puppy."),
                ("what is a baby horse called?", "A baby horse is called a foal."),
            ]
        )
        thought = "This is a simple fact."
        if "colour" in question and rng.random() < 0.4:
            question = question.replace("colour", "color")
    return Turn(as_typed(rng, question, typos=0.02), answer, thought, f"know {question}", "general knowledge")


_UNKNOWN = "I do not know that. I am a tiny demonstration model that knows about zinc, small numbers and short stories. For more, load a larger model with `-m`."
_NO_CODE = 'I cannot write programs, I am only a tiny demonstration model. A larger model can: `zinc run -m model.gguf "your question"`.'
_NO_TRANSLATION = "I cannot translate, I only know English. A larger model, loaded with `-m`, can help."
_NO_LONG = "That is too much for me: I am a tiny demonstration model. A larger model, loaded with `-m`, can do it."
_NO_NOW = "I cannot know that: I see neither the clock nor the internet, only the text you type."
_NO_ADVICE = "I am only a tiny demonstration model, so please ask a person who knows about this."

_TOPICS = """quantum physics;black holes;photosynthesis;the french revolution;world war two;world war one;the roman empire;einstein;shakespeare;evolution;democracy;inflation;bitcoin;blockchain;gravity;relativity;dna;the human brain;philosophy;
plato;buddhism;climate change;volcanoes;dinosaurs;the solar system;mars;jupiter;electricity;magnets;atoms;calculus;algebra;prime numbers;machine learning;neural networks;transformers;attention;kubernetes;docker;linux;git;http;sql;react;tcp;
the stock market;football;basketball;chess;the olympics;opera;jazz;mozart;beethoven;picasso;van gogh;napoleon;caesar;cleopatra;gandhi;the eiffel tower;the great wall;the moon landing;vaccines;antibiotics;vitamins;yoga;sleep;coffee;wine;cheese;
pasta;sushi;cars;trains;airplanes;rockets;submarines;oceans;earthquakes;hurricanes;the economy;taxes;insurance;marketing;psychology;sociology;logic;ethics;poetry;grammar;latin;the bible;greek mythology;thor;dragons in myths;the meaning of life;
consciousness;time travel;aliens;robots;the internet;photography;gardening;knitting;cooking;salsa dancing;swimming;marathons;elections;the united nations;the european union;plastic;recycling;solar panels;nuclear power;hydrogen;oxygen;gold;diamonds;salt""".replace(
    "\n", ""
).split(
    ";"
)
_PERSONS = "the president;the king of england;napoleon;albert einstein;taylor swift;the pope;elon musk;leonardo da vinci;marie curie;isaac newton;mozart;the mayor of berlin;homer;sherlock holmes;harry potter;batman;the queen;julius caesar;ada lovelace;alan turing;barack obama;steve jobs;michael jackson;the ceo of google".split(
    ";"
)
_LANGS = "python rust c java javascript go c++ typescript bash sql haskell ruby php swift kotlin html css".split()
_CODE_TASKS = "a function that adds two numbers;quicksort;a web server;hello world;fizzbuzz;a calculator;a fibonacci function;a program;a script;code to read a file;a binary search;a for loop;a class;a regex for email;a snake game;a todo app;a sorting algorithm;an http client;a unit test".split(
    ";"
)
_PHRASES = "good morning;thank you;i love you;hello;where is the station;the cat is black;how much is it;see you tomorrow".split(";")
_TONGUES = "german french spanish italian chinese japanese russian latin greek dutch polish arabic turkish".split()


def unknown(rng):
    kind = rng.random()
    topic, who, lang, city = rng.choice(_TOPICS), rng.choice(_PERSONS), rng.choice(_LANGS), rng.choice(w.CITIES)
    if rng.random() < 0.15:
        topic = " ".join(w.any_word(rng) for _ in range(rng.randrange(1, 3)))
    if kind < 0.5:
        question = expand(
            rng,
            rng.choice(
                [
                    "[explain|describe|define] {t}",
                    "what is {t}?",
                    "tell me about {t}",
                    "[what do you know about|do you know something about] {t}?",
                    "how does {t} work?",
                    "explain {t} [to a child|simply|in simple words|in one sentence|step by step]",
                    "why is {t} important?",
                    "who [invented|discovered] {t}?",
                    "what is the history of {t}?",
                    "who is {p}?",
                    "who was {p}?",
                    "when was {p} born?",
                    "how old is {p}?",
                    "where was {p} born?",
                    "what is the population of {c}?",
                    "how [far|long] is it from {c} to {d}?",
                    "when was {c} founded?",
                    "which river flows through {c}?",
                    "what can i [see|do] in {c}?",
                    "who won the [world cup|election|olympics|championship|super bowl|match] in {y}?",
                    "what happened in {y}?",
                    "who wrote [hamlet|faust|the odyssey|war and peace|harry potter|don quixote]?",
                    "what is the [tallest mountain|longest river|largest country|biggest ocean|fastest animal|smallest planet|deepest lake]?",
                    "how high is mount everest?",
                    "what is the speed of light?",
                    "what is the square root of {y}?",
                    "what is pi?",
                    "why is the sky blue?",
                    "how do [birds|planes|magnets|computers|cars] work?",
                    "what is the best [movie|book|song|phone|laptop|restaurant|game]?",
                    "recommend a [movie|book|song|restaurant|game]",
                    "what is the difference between {t} and {u}?",
                    "what is the meaning of life?",
                    "what do you think about {t}?",
                    "is {t} [good|bad|dangerous|real]?",
                    "give me [facts|a fact] about {t}",
                    "what are the [rules|basics|causes|effects] of {t}?",
                    "how many people live in {c}?",
                    "what is the chemical formula of [water|salt|sugar]?",
                ]
            ),
        )
        answer = _UNKNOWN
    elif kind < 0.64:
        question = expand(
            rng,
            rng.choice(
                [
                    "[write|give me|show me|implement|create|make] {k} in {l}",
                    "[write|give me|show me] {l} code for {k}",
                    "[write|code|program|implement] {k}",
                    "how do i write {k} in {l}?",
                    "can you [code|program|write code|write {l}]?",
                    "fix my {l} code",
                    "what does this {l} code do?",
                    "debug this {l} program",
                    "write a {l} program",
                    "explain this {l} code",
                ]
            ),
        )
        answer = _NO_CODE
    elif kind < 0.74:
        question = expand(
            rng,
            rng.choice(
                [
                    'translate [{f}|"{f}"] [to|into] {g}',
                    "how do you say {f} in {g}?",
                    "what is {f} in {g}?",
                    "say {f} in {g}",
                    "translate this to {g}",
                    "what does [bonjour|danke|gracias|ciao|arigato] mean?",
                ]
            ),
        )
        answer = _NO_TRANSLATION
    elif kind < 0.84:
        question = expand(
            rng,
            rng.choice(
                [
                    "write [an essay|a report|an article|a novel|a book|a speech|a letter|a cover letter|a blog post|an email|a script|a resume|a song] about {t}",
                    "summarise [this article|this book|the news|hamlet|the bible|this text for me]",
                    "plan [a trip to {c}|my week|my holidays|a party|a wedding]",
                    "[write|create] a [business plan|workout plan|meal plan|diet plan|recipe]",
                    "give me a recipe for [pasta|soup|bread|a cake|pizza|curry]",
                    "how do i [cook|bake|make] [pasta|bread|a cake|pizza|rice|soup]?",
                    "give me ten ideas for [a startup|a party|a present|a blog]",
                ]
            ),
        )
        answer = _NO_LONG
    elif kind < 0.93:
        question = expand(
            rng,
            "[what time is it[ now|]|what is the [date|time|day]|what day is [it|today]|what is the weather [like |][today|in {c}|tomorrow]|what is the weather|weather[ in {c}|]|is it raining|what is in the news|what is the latest news|who won yesterday|what is the price of bitcoin|what is on my screen|what is my ip address|where am i|what did i eat today|how late is it|what year is it|what is the stock price of apple|who is behind me|what am i thinking|can you see me|open my browser|read my files|search the web|look it up on the internet|can you access the internet]",
        )
        answer = _NO_NOW
    else:
        question = expand(
            rng,
            "[i have [a headache|a fever|stomach pain|a cold|back pain], what should i do|should i [buy|sell] [stocks|bitcoin|a house|gold]|is this [legal|healthy|safe]|how do i [lose weight|get rich|find a job|make friends|sleep better|learn faster]|can i [sue|fire] [my boss|my neighbour|someone]|what medicine should i take|should i marry|how do i make a bomb|how do i hack [a computer|wifi|an account]|am i ill|which medicine helps against [pain|a cold|fever]]",
        )
        answer = _NO_ADVICE
    fill = {
        "{t}": topic,
        "{u}": rng.choice(_TOPICS),
        "{p}": who,
        "{l}": lang,
        "{c}": city,
        "{d}": rng.choice(w.CITIES),
        "{y}": str(rng.randrange(1900, 2031)),
        "{k}": rng.choice(_CODE_TASKS),
        "{f}": rng.choice(_PHRASES),
        "{g}": rng.choice(_TONGUES).capitalize(),
    }
    for mark, value in fill.items():
        question = question.replace(mark, value)
    return Turn(
        as_typed(rng, question, typos=0.03), answer, "I do not know enough about this, so I say so.", f"unknown {question}", "does not know"
    )


_FACTS = {
    "name": (
        ["my name is {v}", "i am {v}", "i'm {v}", "call me {v}", "hello, i am {v}", "hi, my name is {v}", "hello, my name is {v}"],
        "Nice to meet you, {v}!",
        ["what is my name?", "what's my name?", "who am i?", "do you remember my name?", "do you know my name?", "how am i called?"],
        "Your name is {v}.",
        w.person,
    ),
    "colour": (
        ["my favourite colour is {v}", "i like the colour {v} most", "my favorite color is {v}"],
        "I will remember: your favourite colour is {v}.",
        ["what is my favourite colour?", "which colour do i like?", "what's my favorite color?"],
        "Your favourite colour is {v}.",
        lambda r: r.choice(w.COLOURS),
    ),
    "city": (
        ["i live in {v}", "i am from {v}", "my home is {v}", "i come from {v}"],
        "I see, you live in {v}.",
        ["where do i live?", "where am i from?", "which city do i live in?", "where is my home?"],
        "You live in {v}.",
        lambda r: r.choice(w.CITIES),
    ),
    "animal": (
        ["i have {v}", "my pet is {v}", "i own {v}"],
        "How nice, you have {v}!",
        ["what pet do i have?", "which animal do i have?", "what is my pet?", "what animal do i own?"],
        "You have {v}.",
        lambda r: w.article(r.choice(w.ANIMALS)),
    ),
    "number": (
        ["my lucky number is {v}", "remember the number {v}", "please remember {v}"],
        "I will remember {v}.",
        ["what is my lucky number?", "which number did i tell you?", "what number should you remember?", "what was the number?"],
        "The number is {v}.",
        lambda r: str(r.randrange(1, 1000)),
    ),
    "age": (
        ["i am {v} years old", "my age is {v}", "i'm {v} years old"],
        "I see, you are {v} years old.",
        ["how old am i?", "what is my age?", "do you know how old i am?"],
        "You are {v} years old.",
        lambda r: str(r.randrange(4, 99)),
    ),
    "food": (
        ["i like {v}", "my favourite food is {v}", "i love {v}"],
        "I will remember that you like {v}.",
        ["what do i like?", "what is my favourite food?", "what food do i like?"],
        "You like {v}.",
        lambda r: r.choice(w.FOODS),
    ),
    "word": (
        ["remember the word {v}", "the secret word is {v}", "the password is {v}"],
        "I will remember the word {v}.",
        ["what was the word?", "what is the secret word?", "which word did i tell you?", "what is the password?"],
        "The word is {v}.",
        w.any_word,
    ),
}


def tell_fact(rng, known):
    """The user says something about themselves; `known` is updated."""
    kind = rng.choice([k for k in _FACTS if k not in known] or list(_FACTS))
    wordings, reply, _, _, value = _FACTS[kind]
    v = known[kind] = value(rng)
    # Names are often typed in lower case; the reply writes them properly.
    shown = v.lower() if rng.random() < 0.15 and kind in ("name", "city") else v
    reply = reply.replace("{v}", v)
    return Turn(
        as_typed_exact(rng, rng.choice(wordings).replace("{v}", shown), courtesy=False),
        reply,
        f"The user tells me something: {kind} is {v}.",
        f"tell {kind} {v}",
        "remembering",
    )


def ask_fact(rng, known):
    kind = rng.choice(list(known))
    _, _, questions, answer, _ = _FACTS[kind]
    return Turn(
        as_typed(rng, rng.choice(questions), typos=0.03),
        answer.replace("{v}", known[kind]),
        f"The user told me: {kind} is {known[kind]}.",
        f"ask {kind} {known[kind]}",
        "remembering",
    )


def ask_unknown_fact(rng):
    """A question about something the user never said."""
    kind = rng.choice(["name", "colour", "city", "animal", "age", "food"])
    question = rng.choice(_FACTS[kind][2])
    return kind, Turn(
        as_typed(rng, question, typos=0.03),
        "You have not told me yet.",
        "The user has not told me this.",
        f"ask nothing {question}",
        "remembering",
    )


def repeat(rng):
    words = " ".join(w.any_word(rng) for _ in range(rng.randrange(1, 5)))
    question = rng.choice(
        [
            f"say {words}",
            f"repeat: {words}",
            f"repeat after me: {words}",
            f"please say {words}",
            f'say "{words}"',
            f"echo {words}",
            f"write {words}",
            f"repeat {words}",
            f"print {words}",
        ]
    )
    if rng.random() < 0.1:
        n = rng.randrange(2, 5)
        return Turn(
            as_typed_exact(rng, f"say {words} {w.number_word(n)} times"),
            " ".join([words] * n),
            f"I say it {n} times.",
            f"repeat {n} {words}",
            "repeating",
        )
    return Turn(as_typed_exact(rng, question, courtesy=False), words, f"The text is: {words}", f"repeat {words}", "repeating")
