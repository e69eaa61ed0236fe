"""Conversations as the text a model sees: what `chat_template.jinja` renders, cut into what is given and what is learnt."""

import json
import pathlib

TEMPLATE = (pathlib.Path(__file__).parent / "chat_template.jinja").read_text().rstrip("\n")


def messages_of(chat, n_turns=None):
    """(messages, tools) in the form of the chat API, for the first `n_turns` turns."""
    messages = [{"role": "system", "content": chat.system}] if chat.system else []
    for turn in chat.turns[:n_turns]:
        messages.append({"role": "user", "content": turn.user})
        if turn.tool_calls:
            messages.append(
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": c} for c in turn.tool_calls],
                }
            )
            messages += [{"role": "tool", "content": result} for result in turn.tool_results]
        messages.append({"role": "assistant", "content": turn.answer})
    return messages, chat.tools


def call_text(calls):
    return "\n".join(
        f'<tool_call>\n{{"name": "{c["name"]}", "arguments": {json.dumps(c["arguments"], ensure_ascii=False)}}}\n</tool_call>'
        for c in calls
    )


def system_text(system, tools):
    """The system turn, or nothing."""
    if not system and not tools:
        return ""
    text = "<|im_start|>system\n" + (system or "") + ("\n\n" if system and tools else "")
    if tools:
        listed = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools)
        text += (
            f"You can call these tools:\n<tools>{listed}\n</tools>\nA call looks like this:\n"
            + '<tool_call>\n{"name": "tool", "arguments": {"key": "value"}}\n</tool_call>'
        )
    return text + "<|im_end|>\n"


def segments(chat, keep_reasoning=True):
    """[(text, learnt)] of a whole conversation; `learnt` is None for "<think>", which the template writes and the model never does.

    Only the last turn shows the reasoning, if thinking is on.

    `keep_reasoning`: whether the reasoning before a tool call is still there when the tool has answered.
    """
    head = system_text(chat.system, chat.tools)
    parts = [(head, False)] if head else []
    for index, turn in enumerate(chat.turns):
        last = index == len(chat.turns) - 1
        think = chat.thinking and last
        parts.append((f"<|im_start|>user\n{turn.user}<|im_end|>\n<|im_start|>assistant\n", False))
        if think:
            parts.append(("<think>\n", None))
        reasoning = f"{turn.thinking}\n</think>\n\n"
        if not turn.tool_calls:
            parts.append(((reasoning if think else "") + turn.answer + "<|im_end|>", True))
            parts.append(("\n", False))
            continue
        calls = call_text(turn.tool_calls)
        if think and (not chat.answered or keep_reasoning):
            parts.append((reasoning + calls + "<|im_end|>", True))
        else:
            if think:  # the client did not send the reasoning back
                parts.pop()
            parts.append((calls + "<|im_end|>", True))
        if last and not chat.answered:
            parts.append(("\n", False))
            continue
        results = "".join(f"\n<tool_response>\n{r}\n</tool_response>" for r in turn.tool_results)
        parts.append((f"\n<|im_start|>user{results}<|im_end|>\n<|im_start|>assistant\n", False))
        if think:
            parts.append(("<think>\n", None))
        parts.append((("The tool has answered.\n</think>\n\n" if think else "") + turn.answer + "<|im_end|>", True))
        parts.append(("\n", False))
    return parts
