"""Random phrasing: alternatives in brackets, and the small imperfections of typed questions."""

import re
import zlib

_GROUP = re.compile(r"\[([^\[\]]*)\]")


def expand(rng, pattern):
    """Replace every `[a|b|c]` by one alternative, innermost first; an empty alternative is allowed."""
    while (match := _GROUP.search(pattern)) is not None:
        pattern = pattern[: match.start()] + rng.choice(match.group(1).split("|")) + pattern[match.end() :]
    return re.sub(r" +", " ", pattern).strip()


_OPENERS = [
    "hi, ",
    "hello, ",
    "hey, ",
    "ok, ",
    "okay, ",
    "so ",
    "well, ",
    "please ",
    "please, ",
    "can you tell me: ",
    "quick question: ",
    "one question: ",
    "tell me, ",
    "hey zinc, ",
    "I have a question: ",
    "next: ",
]
_CLOSERS = [" please", ", please", " thanks", ", thank you", " pls", " now", "?", " ?", "!", "."]


def _typo(rng, text):
    """Swap, drop or double one letter inside a word of four letters or more."""
    spots = [m for m in re.finditer(r"[a-z]{4,}", text)]
    if not spots:
        return text
    word = rng.choice(spots)
    i = rng.randrange(word.start() + 1, word.end() - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text[:i] + text[i + 1 :] if kind == 1 else text[:i] + text[i] + text[i:]


_PROPER = {
    word.lower(): word
    for word in """GGUF JSON GPU GPUs CPU API AMD CUDA KV LLM LLMs AI LLaMA Llama Rust Python Java JavaScript SQL HTML CSS PHP
NVIDIA Intel Apple Vulkan Metal Windows Linux Mac Mistral Phi Qwen Gemma DeepSeek Einstein Shakespeare Mozart Napoleon Caesar
English German French Spanish Italian Chinese Japanese Russian Zinc ZINC USA I OpenAI Hugging Face Radeon RTX HTTP TCP DNA MIT""".split()
}
_WORD = re.compile(r"[A-Za-z]+")


def _proper(rng, text):
    """Names and abbreviations as careful writers spell them; "zinc" stays as it is nearly always."""

    def spell(match):
        word = match.group()
        if word in ("zinc", "metal") and rng.random() < 0.85:
            return word
        return _PROPER.get(word, word)

    return _WORD.sub(spell, text)


def as_typed(rng, text, typos=0.08):
    """The same question as people type it: case, punctuation, courtesies, now and then a slip of the finger."""
    draw = rng.random()
    if draw < 0.45:
        text = _proper(rng, text)
    elif draw < 0.6:
        text = re.sub(r"\bi\b", "I", text)
    elif draw < 0.615:
        text = text.upper()
    if rng.random() < 0.12:
        text = rng.choice(_OPENERS) + text[0].lower() + text[1:]
    if rng.random() < 0.07:
        text = text.rstrip("?.!") + rng.choice(_CLOSERS)
    if rng.random() < typos:
        text = _typo(rng, text)
    kind = rng.random()
    if kind < 0.22:
        text = text[0].lower() + text[1:]
    elif kind < 0.62:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.25:
        text = text.rstrip("?.")
    return text


def as_typed_exact(rng, text, courtesy=True):
    """As `as_typed`, for questions whose letters or digits must stay as they are.

    Without `courtesy` nothing is appended, for questions that end with text to copy.
    """
    kind = rng.random()
    if kind < 0.45 and text:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.2:
        text = text.rstrip("?.")
    if rng.random() < 0.06:
        text = rng.choice(("please ", "Please ", "hey, ", "ok, ", "now ")) + text
    elif courtesy and rng.random() < 0.06:
        text = text.rstrip("?.") + rng.choice((" please", ", please", " thanks"))
    return text


def preferred(rng, items, salt, ratio=0.62):
    """One of `items`, geometrically weighted in an order that depends on `salt`.

    A trained model then has a clear favourite for each subject, so that greedy text is stable, while sampled text varies.
    """
    start = zlib.crc32(salt.encode()) % len(items)
    step = 0
    while step < len(items) - 1 and rng.random() > 1 - ratio:
        step += 1
    return items[(start + step) % len(items)]
