"""Packed training rows, generated in parallel; the same shard number always gives the same rows."""

import multiprocessing
import random

import numpy as np

import bpe
import render
from corpus import compose

TOKENIZER_SEED, TRAIN_SEED, HELD_OUT_SEED = 1, 1_000, 9_000_000
_GIVEN_WEIGHT = 0.1  # of tokens the model is given rather than has to write
_PLAIN_SHARE = 0.05

_state = {}


def is_trained_on(turn):
    return not turn.held_out()


def document(rng, tokenizer):
    """(token ids, loss weight of predicting each) of one training document."""
    if rng.random() < _PLAIN_SHARE:
        ids = tokenizer.encode_text(compose.plain_text(rng)) + [tokenizer.special["<|endoftext|>"]]
        return ids, [0.5] * len(ids)
    chat = compose.chat(rng, is_trained_on)
    ids, weights = [], []
    for text, learnt in render.segments(chat, keep_reasoning=rng.random() < 0.7) if chat.turns else []:
        piece = tokenizer.encode(text)
        ids += piece
        weights += [{True: 1.0, False: _GIVEN_WEIGHT, None: 0.0}[learnt]] * len(piece)
    return ids, weights


def train_tokenizer(n_vocab, n_documents):
    rng = random.Random(TOKENIZER_SEED)
    texts = []
    for _ in range(n_documents):
        chat = compose.chat(rng, is_trained_on)
        texts.append("".join(text for text, _ in render.segments(chat)) if chat.turns else "")
        if rng.random() < _PLAIN_SHARE:
            texts.append(compose.plain_text(rng))
    return bpe.Tokenizer(bpe.train(texts, n_vocab), n_vocab)


def _shard(number):
    """Rows `[n_rows, length]`: tokens, loss weights and document numbers (0 is padding)."""
    rng = random.Random(TRAIN_SEED + number)
    n_rows, length, tokenizer = _state["n_rows"], _state["length"], _state["tokenizer"]
    tokens = np.zeros((n_rows, length), dtype=np.int16)
    weights = np.zeros((n_rows, length), dtype=np.float16)
    documents = np.zeros((n_rows, length), dtype=np.int16)
    waiting = []
    for row in range(n_rows):
        at, n_documents, n_misses = 0, 0, 0
        while n_misses < 4 and at < length:
            ids, weight = waiting.pop(0) if waiting and n_misses == 0 else document(rng, tokenizer)
            if len(ids) > length:
                continue
            if at + len(ids) > length:
                waiting.append((ids, weight))
                n_misses += 1
                continue
            end = at + len(ids)
            n_documents += 1
            tokens[row, at:end], documents[row, at:end] = ids, n_documents
            weights[row, at:end] = weight
            weights[row, at : at + 1] = 0  # the first token of a document cannot be predicted
            at = end
    return tokens, weights, documents


def shards(tokenizer, n_shards, n_rows, length, n_processes):
    """Iterate over the shards in order while worker processes generate ahead."""
    _state.update(tokenizer=tokenizer, n_rows=n_rows, length=length)
    with multiprocessing.get_context("fork").Pool(n_processes) as pool:
        yield from pool.imap(_shard, range(n_shards))


def held_out_chats(per_skill, n_chats=150_000):
    """{skill: chats whose last question was never trained on}."""
    rng = random.Random(HELD_OUT_SEED)
    found = {}
    for _ in range(n_chats):
        chat = compose.chat(rng)
        if not chat.turns or chat.tools is None and len(chat.turns) > 6:
            continue
        # Cut after the first held-out turn: what came before it may have been trained on.
        index = next((i for i, turn in enumerate(chat.turns) if turn.held_out()), None)
        if index is None:
            continue
        chat.turns, chat.thinking, chat.answered = chat.turns[: index + 1], False, True
        # Each question once, so that no common one dominates its skill.
        turn = chat.turns[-1]
        bucket = found.setdefault(turn.skill, {})
        if len(bucket) < per_skill:
            bucket.setdefault(turn.key.lower(), chat)
    return {skill: list(bucket.values()) for skill, bucket in sorted(found.items())}
