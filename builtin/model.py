"""The network: Qwen3 (grouped-query attention with normalised queries and keys, SwiGLU, tied embeddings), for training and for reference.

Weights of all layers are stacked in one tensor per kind, `[layer, out, in]`; the names are GGUF's.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F


@dataclasses.dataclass
class Config:
    n_vocab: int = 4096
    n_layers: int = 12
    n_embd: int = 256
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    n_ff: int = 768
    n_context: int = 2048
    rope_theta: float = 10000.0
    rms_eps: float = 1e-6

    def matrices(self):
        """{name: (out, in)} of each layer."""
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        return {
            "attn_q": (q, self.n_embd),
            "attn_k": (kv, self.n_embd),
            "attn_v": (kv, self.n_embd),
            "attn_output": (self.n_embd, q),
            "ffn_gate": (self.n_ff, self.n_embd),
            "ffn_up": (self.n_ff, self.n_embd),
            "ffn_down": (self.n_embd, self.n_ff),
        }

    def norms(self):
        """{name: length} of each layer."""
        return {
            "attn_norm": self.n_embd,
            "ffn_norm": self.n_embd,
            "attn_q_norm": self.head_dim,
            "attn_k_norm": self.head_dim,
        }


def initial_weights(config, seed):
    """Float32 weights; the two projections into the residual stream start at zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "token_embd": torch.randn(config.n_vocab, config.n_embd, generator=generator) * 0.02,
        "output_norm": torch.ones(config.n_embd),
    }
    for name, (n_out, n_in) in config.matrices().items():
        w = torch.randn(config.n_layers, n_out, n_in, generator=generator) / math.sqrt(n_in)
        weights[name] = torch.zeros_like(w) if name in ("attn_output", "ffn_down") else w
    for name, n in config.norms().items():
        weights[name] = torch.ones(config.n_layers, n)
    return weights


def rms_norm(x, weight, eps):
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight.to(x.dtype)


def rope_tables(config, device):
    """cos and sin, `[n_context, head_dim / 2]`."""
    half = config.head_dim // 2
    frequency = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(config.n_context, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float().to(device), angle.sin().float().to(device)


def rotate(x, cos, sin):
    """Rotary embedding of `[..., head_dim]`: dimension i pairs with i + head_dim / 2."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def forward(config, weights, tokens, cos, sin, attend):
    """Final-norm hidden states `[batch, n, n_embd]`; `attend(layer, q, k, v)` takes and returns `[batch, n, heads, head_dim]`."""
    batch, n = tokens.shape
    layers = {name: weights[name].unbind(0) for name in (*config.matrices(), *config.norms())}
    x = F.embedding(tokens, weights["token_embd"])
    if torch.is_autocast_enabled(tokens.device.type):
        x = x.to(torch.bfloat16)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    for l in range(config.n_layers):
        h = rms_norm(x, layers["attn_norm"][l], config.rms_eps)
        q = F.linear(h, layers["attn_q"][l]).view(batch, n, config.n_heads, config.head_dim)
        k = F.linear(h, layers["attn_k"][l]).view(batch, n, config.n_kv_heads, config.head_dim)
        v = F.linear(h, layers["attn_v"][l]).view(batch, n, config.n_kv_heads, config.head_dim)
        q = rotate(rms_norm(q, layers["attn_q_norm"][l], config.rms_eps), cos, sin)
        k = rotate(rms_norm(k, layers["attn_k_norm"][l], config.rms_eps), cos, sin)
        x = x + F.linear(attend(l, q, k, v).reshape(batch, n, -1), layers["attn_output"][l])
        h = rms_norm(x, layers["ffn_norm"][l], config.rms_eps)
        x = x + F.linear(
            F.silu(F.linear(h, layers["ffn_gate"][l])) * F.linear(h, layers["ffn_up"][l]), layers["ffn_down"][l]
        )
    return rms_norm(x, weights["output_norm"], config.rms_eps)


class Reference:
    """Float32 inference with a key-value cache, for evaluation; rows of a batch may have different lengths."""

    def __init__(self, config, weights, device="cpu"):
        self.config = config
        self.weights = {name: w.to(device=device, dtype=torch.float32) for name, w in weights.items()}
        self.device = device
        self.tables = rope_tables(config, device)

    def start(self, batch, n_max):
        c = self.config
        self.keys = torch.zeros(c.n_layers, batch, n_max, c.n_kv_heads, c.head_dim, device=self.device)
        self.values = torch.zeros_like(self.keys)

    def logits(self, tokens, positions, only_at=None):
        """Logits `[batch, n, n_vocab]` of tokens at positions (both `[batch, n]`), or those at index `only_at[batch]`."""
        c = self.config
        rows = torch.arange(tokens.shape[0], device=self.device)[:, None]
        cos, sin = (table[positions][:, :, None] for table in self.tables)
        # A query sees the cache up to its own position; what lies beyond is overwritten before it is seen.
        n_seen = int(positions.max()) + 1
        seen = torch.arange(n_seen, device=self.device) <= positions[:, :, None]

        def attend(layer, q, k, v):
            self.keys[layer][rows, positions], self.values[layer][rows, positions] = k, v
            repeat = c.n_heads // c.n_kv_heads
            keys = self.keys[layer, :, :n_seen].repeat_interleave(repeat, dim=2)
            values = self.values[layer, :, :n_seen].repeat_interleave(repeat, dim=2)
            scores = torch.einsum("bqhd,bkhd->bhqk", q, keys) / math.sqrt(c.head_dim)
            return torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(~seen[:, None], -math.inf).softmax(-1), values)

        hidden = forward(c, self.weights, tokens, cos, sin, attend)
        if only_at is not None:
            hidden = hidden[rows, only_at[:, None]]
        return hidden @ self.weights["token_embd"].T

    @torch.no_grad()
    def generate(self, prompts, n_max, stops):
        """Greedy continuations: (ids without the stop token, smallest gap between the two best logits) of each prompt."""
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        width = int(lengths.max())
        n_max = min(n_max, self.config.n_context - width)
        self.start(len(prompts), width + n_max)
        tokens = torch.tensor([p + [0] * (width - len(p)) for p in prompts], device=self.device)
        positions = torch.arange(width, device=self.device).expand(len(prompts), -1)
        logits = self.logits(tokens, positions, lengths - 1)[:, 0]
        outputs, gaps, running = [[] for _ in prompts], [math.inf] * len(prompts), set(range(len(prompts)))
        for step in range(n_max):
            best = logits.topk(2)
            for row in list(running):
                token = int(best.indices[row, 0])
                gaps[row] = min(gaps[row], float(best.values[row, 0] - best.values[row, 1]))
                if token in stops:
                    running.discard(row)
                else:
                    outputs[row].append(token)
            if not running or step == n_max - 1:
                break
            logits = self.logits(best.indices[:, :1], (lengths + step)[:, None])[:, 0]
        return list(zip(outputs, gaps))
