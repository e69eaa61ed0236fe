"""Byte-level byte-pair encoding: training, encoding, and the byte alphabet of GPT-2 vocabularies.

The pre-tokenizer is the one that GGUF files call `qwen2`: contractions, words with one leading non-letter, single digits,
runs of punctuation, line breaks, spaces.
"""

import collections
import heapq

import regex

PATTERN = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Control tokens end up in no text; the others are text that is always one token.
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
SPECIAL = CONTROL + USER_DEFINED
_SPECIAL_PATTERN = regex.compile("(" + "|".join(map(regex.escape, SPECIAL)) + ")")


def byte_alphabet():
    """The printable character that stands for each byte in a vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, n_moved = {}, 0
    for byte in range(256):
        if byte in printable:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + n_moved)
            n_moved += 1
    return table


def train(texts, n_vocab):
    """The list of merges, as pairs of byte strings, learnt from `texts`; ties go to the smaller pair."""
    counts = collections.Counter()
    for text in texts:
        for piece in _SPECIAL_PATTERN.split(text):
            if piece not in SPECIAL:
                counts.update(PATTERN.findall(piece))
    words = [[bytes([b]) for b in word.encode()] for word in counts]
    weights = list(counts.values())
    pair_counts, where = collections.Counter(), collections.defaultdict(set)
    for index, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pair_counts[pair] += weights[index]
            where[pair].add(index)
    heap = [(-n, pair) for pair, n in pair_counts.items()]
    heapq.heapify(heap)
    merges, known = [], {bytes([b]) for b in range(256)}
    while len(known) + len(SPECIAL) < n_vocab and heap:
        negative, pair = heapq.heappop(heap)
        if -negative != pair_counts[pair]:
            continue  # an older count of this pair
        if -negative < 2:
            break
        merges.append(pair)
        known.add(pair[0] + pair[1])
        changed = set()
        for index in list(where[pair]):
            word = words[index]
            for old in zip(word, word[1:]):
                pair_counts[old] -= weights[index]
                changed.add(old)
            words[index] = word = _merge(word, pair)
            for new in zip(word, word[1:]):
                pair_counts[new] += weights[index]
                where[new].add(index)
                changed.add(new)
        for other in sorted(changed):
            if pair_counts[other] > 0:
                heapq.heappush(heap, (-pair_counts[other], other))
    return merges


def _merge(word, pair):
    merged, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            merged.append(word[i] + word[i + 1])
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged


class Tokenizer:
    """Token ids: the 256 bytes in the order of the alphabet, the merges, the special tokens."""

    def __init__(self, merges, n_vocab):
        alphabet = byte_alphabet()
        self.merges = merges
        self.bytes_of = [bytes([b]) for b in sorted(range(256), key=lambda b: alphabet[b])]
        seen = set(self.bytes_of)
        for left, right in merges:
            if left + right not in seen:
                seen.add(left + right)
                self.bytes_of.append(left + right)
        self.names = ["".join(alphabet[b] for b in token) for token in self.bytes_of]
        self.merge_names = [" ".join("".join(alphabet[b] for b in side) for side in pair) for pair in merges]
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.id_of = {token: i for i, token in enumerate(self.bytes_of)}
        # Unused ids, if the text had too few pairs, keep the size of the embedding round.
        n_unused = n_vocab - len(self.names) - len(SPECIAL)
        self.special = {}
        for name in SPECIAL:
            self.special[name] = len(self.names)
            self.names.append(name)
            self.bytes_of.append(name.encode())
        for i in range(n_unused):
            self.names.append(f"<|unused_{i}|>")
            self.bytes_of.append(b"")
        self.n_unused = n_unused
        self.cache = {}

    def _word(self, text):
        word = [bytes([b]) for b in text.encode()]
        while len(word) > 1:
            pair = min(zip(word, word[1:]), key=lambda p: self.rank.get(p, 1 << 30))
            if pair not in self.rank:
                break
            word = _merge(word, pair)
        return [self.id_of[token] for token in word]

    def encode_text(self, text):
        """Ids of plain text: nothing in it becomes a special token."""
        ids = []
        for word in PATTERN.findall(text):
            found = self.cache.get(word)
            if found is None:
                found = self._word(word)
                if len(self.cache) < 500_000:
                    self.cache[word] = found
            ids += found
        return ids

    def encode(self, text):
        """Ids of rendered text, special tokens included."""
        ids = []
        for piece in _SPECIAL_PATTERN.split(text):
            if piece in self.special:
                ids.append(self.special[piece])
            elif piece:
                ids += self.encode_text(piece)
        return ids

    def decode(self, ids):
        return b"".join(self.bytes_of[i] for i in ids).decode(errors="replace")
