"""Held-out loss, exact-answer accuracy per skill, and the reference samples, all from the dequantised weights in float32."""

import dataclasses
import json
import pathlib

import torch

import bpe
import gguf_file
import model
import render
from samples import CANDIDATES


def load(path, device):
    """(config, tokenizer, Reference) of a GGUF file."""
    fields, arrays = gguf_file.read(path)
    get = lambda key: fields["qwen3." + key]
    config = model.Config(
        n_vocab=len(fields["tokenizer.ggml.tokens"]),
        n_layers=get("block_count"),
        n_embd=get("embedding_length"),
        n_heads=get("attention.head_count"),
        n_kv_heads=get("attention.head_count_kv"),
        head_dim=get("attention.key_length"),
        n_ff=get("feed_forward_length"),
        n_context=get("context_length"),
        rope_theta=get("rope.freq_base"),
        rms_eps=get("attention.layer_norm_rms_epsilon"),
    )
    weights = {name: torch.from_numpy(arrays[f"{name}.weight"].copy()) for name in ("token_embd", "output_norm")}
    for name in (*config.matrices(), *config.norms()):
        weights[name] = torch.stack(
            [torch.from_numpy(arrays[f"blk.{layer}.{name}.weight"].copy()) for layer in range(config.n_layers)]
        )
    byte_of = {char: byte for byte, char in bpe.byte_alphabet().items()}
    merges = [
        tuple(bytes(byte_of[c] for c in side) for side in merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]
    ]
    tokenizer = bpe.Tokenizer(merges, config.n_vocab)
    assert tokenizer.names == fields["tokenizer.ggml.tokens"]
    return config, tokenizer, model.Reference(config, weights, device)


def stops(tokenizer):
    return {tokenizer.special["<|im_end|>"], tokenizer.special["<|endoftext|>"]}


def _last_question(parts):
    """Index of the last part that ends with a question of the user."""
    return max(i for i, (text, _) in enumerate(parts) if "<|im_start|>user\n" in text and "<tool_response>" not in text)


@torch.no_grad()
def held_out_loss(reference, tokenizer, chats):
    """(nats per token the model has to write, number of such tokens) of the last turn of each chat."""
    total = count = 0
    items = []
    for chat in chats:
        ids, mask = [], []
        parts = render.segments(chat)
        first = _last_question(parts)
        for i, (text, learnt) in enumerate(parts):
            piece = tokenizer.encode(text)
            ids += piece
            mask += [bool(learnt) and i > first] * len(piece)
        items.append((ids, mask))
    items.sort(key=lambda item: len(item[0]))
    for at in range(0, len(items), 32):
        group = items[at : at + 32]
        width = max(len(ids) for ids, _ in group)
        tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in group], device=reference.device)
        mask = torch.tensor([m + [False] * (width - len(m)) for _, m in group], device=reference.device)
        reference.start(len(group), width)
        logits = reference.logits(tokens, torch.arange(width, device=reference.device).expand(len(group), -1))
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
        total += float((loss * mask[:, 1:]).sum())
        count += int(mask[:, 1:].sum())
    return total / count, count


def prompt_and_target(chat):
    """The rendered prompt of a chat's last question, and the right first reply."""
    parts = render.segments(chat)
    last = _last_question(parts) + (1 if chat.thinking else 0)
    turn = chat.turns[-1]
    return "".join(text for text, _ in parts[: last + 1]), (
        render.call_text(turn.tool_calls) if turn.tool_calls else turn.answer
    )


def is_right(chat, reply, target):
    """Exact equality; a story is right when it is finished and speaks of its subject, if the question names one."""
    turn = chat.turns[-1]
    if turn.exact:
        return reply == target
    if turn.skill == "story":
        return (
            (turn.facts["hero"] in reply or turn.key.startswith("any story"))
            and reply.endswith((".", "!", '"'))
            and len(reply.split()) > 50
        )
    return bool(reply)


def generate_all(reference, tokenizer, prompts, n_max, batch=128):
    """Greedy continuations of rendered prompts, in their order."""
    encoded = [tokenizer.encode(p) for p in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    results = [None] * len(prompts)
    for at in range(0, len(order), batch):
        group = order[at : at + batch]
        for i, result in zip(group, reference.generate([encoded[i] for i in group], n_max, stops(tokenizer))):
            results[i] = result
    return [(encoded[i], *results[i]) for i in range(len(prompts))]


def accuracy(reference, tokenizer, held_out, thinking, log):
    """{skill: (share of right answers, number of questions)}, and a log of the wrong ones."""
    table = {}
    for skill, chats in held_out.items():
        chats = [dataclasses.replace(chat, thinking=thinking) for chat in chats]
        pairs = [prompt_and_target(chat) for chat in chats]
        right = 0
        for chat, (prompt, target), (_, ids, _) in zip(
            chats, pairs, generate_all(reference, tokenizer, [p for p, _ in pairs], 400 if thinking else 220)
        ):
            text = tokenizer.decode(ids)
            reply = text.split("</think>")[-1].lstrip("\n") if thinking else text
            good = is_right(chat, reply, target)
            right += good
            if not good:
                log.append(
                    {
                        "skill": skill,
                        "thinking": thinking,
                        "question": chat.turns[-1].user,
                        "right": target,
                        "answer": text,
                    }
                )
        table[skill] = (right / len(chats), len(chats))
    return table


def render_sample(sample):
    """The rendered prompt of an entry of `samples.CANDIDATES`: what the chat template makes of its messages."""
    if "raw" in sample:
        return sample["raw"]
    messages = sample["messages"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    text = render.system_text(system, sample.get("tools"))
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "user":
            text += f"<|im_start|>user\n{message['content']}<|im_end|>\n"
        elif role == "assistant":
            text += "<|im_start|>assistant\n" + message["content"]
            text += render.call_text([call["function"] for call in message.get("tool_calls", [])]) + "<|im_end|>\n"
        elif role == "tool":
            text += "<|im_start|>user" if messages[index - 1]["role"] != "tool" else ""
            text += f"\n<tool_response>\n{message['content']}\n</tool_response>"
            text += "<|im_end|>\n" if index + 1 == len(messages) or messages[index + 1]["role"] != "tool" else ""
    return text + "<|im_start|>assistant\n" + ("<think>\n" if sample.get("enable_thinking") else "")


def samples(reference, tokenizer, min_gap):
    """The candidates whose greedy answer is decided by at least `min_gap` at every token, with their ids and answers."""
    prompts = [render_sample(sample) for sample in CANDIDATES]
    kept, dropped = [], []
    # One prompt at a time, so that no batch changes the order of a sum.
    for sample, prompt in zip(CANDIDATES, prompts):
        ids = tokenizer.encode_text(prompt) if "raw" in sample else tokenizer.encode(prompt)
        n_max = sample.get("n_max", 300)
        ((output, gap),) = reference.generate([ids], n_max, stops(tokenizer))
        entry = {
            **sample,
            "prompt": prompt,
            "prompt_tokens": ids,
            "output_tokens": output,
            "output": tokenizer.decode(output),
            "stopped": len(output) < n_max,
            "min_gap": round(gap, 4),
        }
        (kept if gap >= min_gap else dropped).append(entry)
    return kept, dropped


def write_samples(path, kept):
    """A JSON array, one sample per line."""
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in kept)
    pathlib.Path(path).write_text(f"[\n{lines}\n]\n")
