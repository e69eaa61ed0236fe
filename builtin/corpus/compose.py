"""Documents: conversations put together from turns, and plain text."""

import dataclasses
import json

from . import general, numbers, stories, structured
from . import words as w

# (skill, share of single turns)
SKILLS = [
    (general.about_zinc, 24),
    (general.small_talk, 6),
    (general.knowledge, 4),
    (general.unknown, 11),
    (general.repeat, 3),
    (stories.story, 12),
    (stories.poem, 2),
    (stories.joke, 0.7),
    (numbers.arithmetic, 18),
    (numbers.sum_of_many, 2),
    (numbers.powers, 2.5),
    (numbers.word_problem, 5),
    (numbers.compare, 2),
    (numbers.parity, 1.2),
    (numbers.sort_numbers, 7),
    (numbers.sort_words, 5),
    (numbers.extreme, 2.5),
    (numbers.count_items, 3),
    (numbers.count_range, 2.5),
    (numbers.next_number, 1.5),
    (numbers.letters, 8),
    (structured.json_object, 5),
    (structured.json_person, 2.5),
    (structured.json_extract, 4),
    (structured.json_array, 4),
]
_FUNCTIONS = [f for f, _ in SKILLS]
_SHARES = [s for _, s in SKILLS]

_SYSTEM = [
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are zinc's demonstration model.",
    "Be brief.",
    "Answer briefly and clearly.",
    "You are a helpful and honest assistant.",
    "You are an AI assistant.",
    "Answer in English.",
    "You help people.",
    "You are a coding assistant.",
    "You are a helpful assistant that answers questions.",
    "Today is a good day. Help the user.",
]


@dataclasses.dataclass
class Chat:
    """A conversation; `turns` are exchanges, thinking is on or off for the whole of it."""

    turns: list
    thinking: bool
    system: str | None = None
    tools: list | None = None
    answered: bool = True  # False: the last turn ends with its tool calls


def _follow_up(rng, previous):
    """A turn that only makes sense after `previous`, or None."""
    facts = previous.facts or {}
    if previous.result is not None and rng.random() < 0.5:
        return numbers.arithmetic_follow_up(rng, previous)
    if "json" in facts and isinstance(facts["json"], dict) and rng.random() < 0.6:
        return structured.json_edit(rng, facts)
    if "hero" in facts and rng.random() < 0.65:
        return stories.another(rng, facts) if rng.random() < 0.2 else stories.question_about(rng, facts)
    return None


def _next_turn(rng, turns, known):
    if turns:
        follow = _follow_up(rng, turns[-1])
        if follow is not None:
            return follow
    draw = rng.random()
    if draw < (0.1 if turns else 0.03):
        return general.tell_fact(rng, known)
    if known and draw < 0.3:
        return general.ask_fact(rng, known)
    if turns and draw > 0.96:
        kind, turn = general.ask_unknown_fact(rng)
        if kind not in known:
            return turn
    return rng.choices(_FUNCTIONS, _SHARES)[0](rng)


def _n_turns(rng):
    draw = rng.random()
    if draw < 0.55:
        return 1
    if draw < 0.9:
        return rng.randrange(2, 6)
    return rng.randrange(6, 30)


def chat(rng, accept=lambda turn: True):
    """One random conversation of turns that `accept` lets through."""
    thinking = rng.random() < 0.25
    system = rng.choice(_SYSTEM) if rng.random() < 0.15 else None
    turns, known = [], {}
    if rng.random() < 0.17:
        tools = structured.toolset(rng)
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
            draw = rng.random()
            turn = (
                structured.tool_turn(rng, tools)
                if draw < 0.75
                else (
                    structured.no_tool(rng)
                    if draw < 0.83
                    else rng.choices(
                        [general.about_zinc, general.small_talk, stories.story, structured.json_object, general.repeat], [6, 4, 1, 2, 1]
                    )[0](rng)
                )
            )
            if accept(turn):
                turns.append(turn)
        # Sometimes the conversation ends with the call, before any result.
        return Chat(turns, thinking, system, [t[1] for t in tools], rng.random() < 0.9)
    for _ in range(_n_turns(rng)):
        now_known = dict(known)
        turn = _next_turn(rng, turns, now_known)
        if turn is not None and accept(turn):
            turns.append(turn)
            known = now_known
    return Chat(turns, thinking, system)


def plain_text(rng):
    """Text without a conversation, for prompts that are continued as they are."""
    kind = rng.random()
    if kind < 0.6:
        text, _ = stories.tell(rng, rng.choice(w.ANIMALS + w.PEOPLE))
        return text
    if kind < 0.75:
        return "\n".join(f"{t.answer[:-1]}" for t in (numbers.arithmetic(rng) for _ in range(rng.randrange(3, 12))))
    if kind < 0.85:
        return ", ".join(map(str, range(1, rng.randrange(10, 60))))
    if kind < 0.95:
        return " ".join(general.about_zinc(rng).answer for _ in range(rng.randrange(1, 4)))
    return "\n".join(json.dumps(structured._fields(rng)) for _ in range(rng.randrange(1, 5)))
