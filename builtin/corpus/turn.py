"""One exchange of a conversation, and what it needs to be checked."""

import dataclasses
import zlib


@dataclasses.dataclass
class Turn:
    user: str
    answer: str
    thinking: str
    key: str  # what makes the question this question; held-out questions are chosen by it
    skill: str
    result: int | None = None  # for arithmetic that continues
    facts: dict | None = None  # for questions about what was said before
    tool_calls: list | None = None  # the assistant calls tools instead of answering
    tool_results: list | None = None  # what the tools return, as text; the assistant's `answer` follows them
    exact: bool = True  # whether one answer is right

    def held_out(self):
        """One question in 32 is never trained on."""
        return zlib.crc32(self.key.lower().encode()) % 32 == 0
