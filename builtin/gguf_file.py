"""GGUF version 3: writing the demonstration model in Q8_0, and reading it in that and in the K formats it is quantised to."""

import json
import struct

import numpy as np

_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _INT32 = 4, 6, 7, 8, 9, 5
_F32, _Q8_0, _Q4_K, _Q5_K, _Q6_K = 0, 8, 12, 13, 14
_ALIGNMENT = 32
_BLOCK = 32
_SUPER_BLOCK = 256
_FILE_TYPE_MOSTLY_Q8_0 = 7
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def quantize_q8_0(x):
    """Blocks of 32 values: scale amax/127 as float16, values rounded half away from zero, as ggml's reference does."""
    blocks = np.ascontiguousarray(x, dtype=np.float32).reshape(-1, _BLOCK)
    scale = np.abs(blocks).max(axis=1) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0)).astype(np.float32)
    scaled = blocks * inverse[:, None]
    quants = (np.sign(scaled) * np.floor(np.abs(scaled) + np.float32(0.5))).astype(np.int8)
    out = np.empty(len(blocks), dtype=[("d", "<f2"), ("qs", "i1", _BLOCK)])
    out["d"], out["qs"] = scale.astype(np.float16), quants
    return out


def dequantize_q8_0(data, shape):
    blocks = np.frombuffer(data, dtype=[("d", "<f2"), ("qs", "i1", _BLOCK)])
    return (blocks["d"].astype(np.float32)[:, None] * blocks["qs"].astype(np.float32)).reshape(shape)


def _scales_and_mins(packed):
    """Eight 6-bit scales and eight 6-bit minima out of the 12 bytes of each Q4_K or Q5_K block; `[block, 8]` each."""
    low, high = packed[:, :4], packed[:, 4:8]
    rest = packed[:, 8:]
    scales = np.concatenate([low & 63, (rest & 15) | (low >> 6 << 4)], axis=1)
    mins = np.concatenate([high & 63, (rest >> 4) | (high >> 6 << 4)], axis=1)
    return scales.astype(np.float32), mins.astype(np.float32)


def dequantize_q4_or_q5_k(data, shape, has_fifth_bit):
    """Blocks of 256: eight groups of 32 values `d * scale * q - dmin * min`; two groups share 32 bytes of low halves."""
    fields = [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12)]
    fields += [("qh", "u1", 32)] if has_fifth_bit else []
    blocks = np.frombuffer(data, dtype=[*fields, ("qs", "u1", 128)])
    scales, mins = _scales_and_mins(blocks["scales"])
    halves = blocks["qs"].reshape(-1, 4, 1, 32)
    quants = np.concatenate([halves & 15, halves >> 4], axis=2).reshape(-1, 8, 32)
    if has_fifth_bit:
        quants = quants | ((blocks["qh"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << 4)
    d, dmin = (blocks[name].astype(np.float32)[:, None] for name in ("d", "dmin"))
    return ((d * scales)[:, :, None] * quants - (dmin * mins)[:, :, None]).reshape(shape)


def dequantize_q6_k(data, shape):
    """Blocks of 256: sixteen groups of 16 values `d * scale * (q - 32)`, each half of the block with its own bytes."""
    blocks = np.frombuffer(data, dtype=[("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")])
    low = blocks["ql"].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = blocks["qh"].reshape(-1, 2, 1, 32) >> (2 * np.arange(4, dtype=np.uint8))[:, None] & 3
    quants = (low | high << 4).reshape(-1, 16, 16).astype(np.float32) - 32
    scales = blocks["d"].astype(np.float32)[:, None] * blocks["scales"].astype(np.float32)
    return (scales[:, :, None] * quants).reshape(shape)


# Type: values and bytes of a block, and what makes values of it.
_FORMATS = {
    _F32: (1, 4, lambda raw, shape: np.frombuffer(raw, dtype=np.float32).reshape(shape)),
    _Q8_0: (_BLOCK, 34, dequantize_q8_0),
    _Q4_K: (_SUPER_BLOCK, 144, lambda raw, shape: dequantize_q4_or_q5_k(raw, shape, False)),
    _Q5_K: (_SUPER_BLOCK, 176, lambda raw, shape: dequantize_q4_or_q5_k(raw, shape, True)),
    _Q6_K: (_SUPER_BLOCK, 210, dequantize_q6_k),
}


def _string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value):
    """(type, bytes) of one metadata value; integers are written unsigned."""
    if isinstance(value, bool):
        return _BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return _UINT32, struct.pack("<I", value)
    if isinstance(value, float):
        return _FLOAT32, struct.pack("<f", value)
    if isinstance(value, str):
        return _STRING, _string(value)
    if isinstance(value[0], str):
        return _ARRAY, struct.pack("<IQ", _STRING, len(value)) + b"".join(map(_string, value))
    return _ARRAY, struct.pack("<IQ", _INT32, len(value)) + struct.pack(f"<{len(value)}i", *value)


def _token_types(tokenizer, control, user_defined):
    types = []
    for name in tokenizer.names:
        special = name in tokenizer.special
        unused = name.startswith("<|unused_") and not special
        types.append(
            _CONTROL
            if name in control and special
            else _USER_DEFINED if name in user_defined and special else _UNUSED if unused else _NORMAL
        )
    return types


def metadata(config, tokenizer, template, control, user_defined):
    special = tokenizer.special
    arch = "qwen3"
    return {
        "general.architecture": arch,
        "general.type": "model",
        "general.name": "zinc demo",
        "general.author": "the zinc authors",
        "general.description": "zinc's built-in demonstration model: small talk about zinc, small sums and small stories. Trained on generated text only; do not rely on its answers.",
        "general.license": "mit",
        "general.size_label": "10M",
        "general.languages": ["en"],
        "general.tags": ["text-generation", "demonstration"],
        "general.file_type": _FILE_TYPE_MOSTLY_Q8_0,
        "general.quantization_version": 2,
        f"{arch}.block_count": config.n_layers,
        f"{arch}.context_length": config.n_context,
        f"{arch}.embedding_length": config.n_embd,
        f"{arch}.feed_forward_length": config.n_ff,
        f"{arch}.vocab_size": config.n_vocab,
        f"{arch}.attention.head_count": config.n_heads,
        f"{arch}.attention.head_count_kv": config.n_kv_heads,
        f"{arch}.attention.key_length": config.head_dim,
        f"{arch}.attention.value_length": config.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_eps,
        f"{arch}.rope.freq_base": config.rope_theta,
        f"{arch}.rope.dimension_count": config.head_dim,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokenizer.names,
        "tokenizer.ggml.token_type": _token_types(tokenizer, control, user_defined),
        "tokenizer.ggml.merges": tokenizer.merge_names,
        "tokenizer.ggml.bos_token_id": special["<|endoftext|>"],
        "tokenizer.ggml.eos_token_id": special["<|im_end|>"],
        "tokenizer.ggml.eot_token_id": special["<|endoftext|>"],
        "tokenizer.ggml.padding_token_id": special["<|endoftext|>"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": template,
    }


def tensors(config, weights):
    """(GGUF name, float32 array) in file order; matrices are 2-D, norms 1-D."""
    yield "token_embd.weight", weights["token_embd"]
    for layer in range(config.n_layers):
        for name in (
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_q_norm",
            "attn_k_norm",
            "attn_output",
            "ffn_norm",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ):
            yield f"blk.{layer}.{name}.weight", weights[name][layer]
    yield "output_norm.weight", weights["output_norm"]


def write(path, config, weights, fields):
    """Matrices as Q8_0, norms as F32."""
    infos, data = b"", []
    offset = n_tensors = 0
    for name, array in tensors(config, weights):
        array = np.asarray(array, dtype=np.float32)
        raw = quantize_q8_0(array).tobytes() if array.ndim == 2 else array.tobytes()
        infos += _string(name) + struct.pack("<I", array.ndim) + struct.pack(f"<{array.ndim}Q", *reversed(array.shape))
        infos += struct.pack("<IQ", _Q8_0 if array.ndim == 2 else _F32, offset)
        padding = -len(raw) % _ALIGNMENT
        data.append(raw + bytes(padding))
        offset += len(raw) + padding
        n_tensors += 1
    head = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, len(fields))
    for key, value in fields.items():
        kind, raw = _value(value)
        head += _string(key) + struct.pack("<I", kind) + raw
    head += infos
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % _ALIGNMENT) + b"".join(data))


class _Reader:
    def __init__(self, raw):
        self.raw, self.at = raw, 0

    def take(self, form):
        values = struct.unpack_from("<" + form, self.raw, self.at)
        self.at += struct.calcsize("<" + form)
        return values[0] if len(values) == 1 else values

    def string(self):
        n = self.take("Q")
        self.at += n
        return self.raw[self.at - n : self.at].decode()

    def value(self, kind):
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            kind, n = self.take("IQ")
            return [self.value(kind) for _ in range(n)]
        return self.take({_UINT32: "I", _FLOAT32: "f", _BOOL: "?", _INT32: "i"}[kind])


def read(path):
    """(fields, {name: float32 array}) of a file that `write` made, or that `zinc quantize` made of it."""
    reader = _Reader(open(path, "rb").read())
    assert reader.raw[:4] == b"GGUF"
    reader.at = 4
    _, n_tensors, n_fields = reader.take("IQQ")
    fields = {}
    for _ in range(n_fields):
        key = reader.string()
        fields[key] = reader.value(reader.take("I"))
    infos = []
    for _ in range(n_tensors):
        name, n_dims = reader.string(), reader.take("I")
        shape = [reader.take("Q") for _ in range(n_dims)][::-1]
        infos.append((name, shape, *reader.take("IQ")))
    base = reader.at + -reader.at % _ALIGNMENT
    arrays = {}
    for name, shape, kind, offset in infos:
        n_values, n_bytes, dequantize = _FORMATS[kind]
        size = int(np.prod(shape)) // n_values * n_bytes
        arrays[name] = dequantize(reader.raw[base + offset : base + offset + size], shape)
    return fields, arrays
