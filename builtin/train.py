"""Train zinc's built-in demonstration model and write it as Q8_0, which `zinc quantize` makes `zinc-demo.gguf` of;
`--check FILE` evaluates either.

python3 train.py                                     # zinc-demo.q8_0.gguf; one GPU, a few minutes
python3 train.py --check zinc-demo.gguf              # held-out loss and accuracy
python3 train.py --check zinc-demo.gguf --samples    # samples.json
"""

import argparse
import functools
import json
import math
import os
import pathlib
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # fixed reduction order in cuBLAS

import torch
import torch.nn.functional as F

import bpe
import data
import evaluate
import gguf_file
import model
import render

SEED = 2026
MIN_GAP = 0.15  # logits; an engine with 8-bit activations still chooses the same tokens
_MATRIX_RATE, _EMBEDDING_RATE, _NORM_RATE = 0.02, 0.004, 0.004


def orthogonalize(gradient):
    """The nearest (semi-)orthogonal matrices, approximately, by a quintic Newton-Schulz iteration; `[layer, out, in]`."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = gradient.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Momentum, orthogonalised, for the stacked matrices of all layers at once."""

    def __init__(self, parameters, momentum=0.95, weight_decay=0.01):
        self.parameters, self.momentum, self.weight_decay = parameters, momentum, weight_decay
        self.buffers = [torch.zeros_like(p) for p in parameters]
        self.update = torch.compile(orthogonalize) if parameters[0].is_cuda else orthogonalize

    @torch.no_grad()
    def step(self, rate):
        for parameter, buffer in zip(self.parameters, self.buffers):
            buffer.lerp_(parameter.grad, 1 - self.momentum)
            update = self.update(parameter.grad.lerp(buffer, self.momentum))
            parameter.mul_(1 - rate * self.weight_decay)
            parameter.add_(update, alpha=-rate * max(1, parameter.shape[1] / parameter.shape[2]) ** 0.5)


def document_attention(config, documents, compiled):
    """Causal attention within each document of a packed row."""
    if not compiled:
        n = documents.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool, device=documents.device).tril()
        mask = (causal & (documents[:, :, None] == documents[:, None, :]))[:, None]

        def attend(_, q, k, v):
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)

        return attend
    from torch.nn.attention.flex_attention import flex_attention

    def attend(_, q, k, v):
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return flex_attention(q, k, v, block_mask=documents, enable_gqa=True).transpose(1, 2)

    return attend


def loss_of(config, compiled, weights, tokens, targets, target_weights, mask, cos, sin):
    """Mean cross-entropy in nats, weighted."""
    hidden = model.forward(config, weights, tokens, cos, sin, document_attention(config, mask, compiled))
    logits = F.linear(hidden, weights["token_embd"]).float()
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * target_weights.flatten()).sum() / target_weights.sum()


def learning_rate(step, n_steps):
    """Linear warm-up over 2 %, then a half cosine to 1 % of the peak."""
    warm = max(1, n_steps // 50)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (n_steps - warm)))


def batches(tokenizer, args, device):
    """Batches of packed rows on the device, one shard each."""
    for tokens, weights, documents in data.shards(tokenizer, args.steps, args.rows, args.length, args.processes):
        tokens, weights, documents = (torch.from_numpy(t).to(device) for t in (tokens, weights, documents))
        targets = tokens.roll(-1, dims=1).long()
        target_weights = weights.roll(-1, dims=1).float()
        target_weights[:, -1] = 0
        yield tokens.long(), targets, target_weights, documents.int()


def block_mask_of(documents):
    from torch.nn.attention.flex_attention import create_block_mask

    def same_document(_b, _h, q, k):
        return (q >= k) & (documents[_b, q] == documents[_b, k])

    n = documents.shape[1]
    return create_block_mask(same_document, documents.shape[0], None, n, n, device=documents.device, _compile=True)


def train(config, tokenizer, args, device):
    """The trained float32 weights."""
    cuda = device == "cuda"
    weights = {name: w.to(device).requires_grad_() for name, w in model.initial_weights(config, SEED).items()}
    muon = Muon([weights[name] for name in config.matrices()])
    norms = [weights[name] for name in (*config.norms(), "output_norm")]
    adam = torch.optim.AdamW(
        [{"params": [weights["token_embd"]], "peak": _EMBEDDING_RATE}, {"params": norms, "peak": _NORM_RATE}],
        betas=(0.9, 0.98),
        weight_decay=0.0,
        lr=0.0,
    )
    cos, sin = model.rope_tables(config, device)
    cos, sin = cos[: args.length, None], sin[: args.length, None]
    compute_loss = functools.partial(loss_of, config, cuda)
    if cuda:
        compute_loss = torch.compile(compute_loss)
    start = time.time()
    for step, (tokens, targets, target_weights, documents) in enumerate(batches(tokenizer, args, device)):
        mask = block_mask_of(documents) if cuda else documents
        with torch.autocast(device, dtype=torch.bfloat16, enabled=cuda):
            loss = compute_loss(weights, tokens, targets, target_weights, mask, cos, sin)
        loss.backward()
        scale = learning_rate(step, args.steps)
        torch.nn.utils.clip_grad_norm_([weights["token_embd"], *norms], 1.0)
        muon.step(_MATRIX_RATE * scale)
        for group in adam.param_groups:
            group["lr"] = group["peak"] * scale
        adam.step()
        for parameter in weights.values():
            parameter.grad = None
        if step % args.log_every == 0 or step == args.steps - 1:
            print(f"step {step}/{args.steps} loss {loss.item():.4f} {time.time() - start:.0f} s", flush=True)
        if args.checkpoint_every and step and step % args.checkpoint_every == 0:
            save(args.out / "checkpoint.gguf", config, tokenizer, weights)
    return weights


def save(path, config, tokenizer, weights):
    fields = gguf_file.metadata(config, tokenizer, render.TEMPLATE, bpe.CONTROL, bpe.USER_DEFINED)
    gguf_file.write(path, config, {name: w.detach().float().cpu().numpy() for name, w in weights.items()}, fields)


def report(path, args, device):
    """Evaluate a GGUF file: print the tables and write `measured.json`."""
    _, tokenizer, reference = evaluate.load(path, device)
    held_out = data.held_out_chats(args.per_skill)
    loss, count = evaluate.held_out_loss(reference, tokenizer, [chat for chats in held_out.values() for chat in chats])
    print(f"held-out loss {loss:.4f} nats per token over {count} tokens")
    wrong = []
    plain = evaluate.accuracy(reference, tokenizer, held_out, False, wrong)
    thinking = evaluate.accuracy(reference, tokenizer, held_out, True, wrong)
    print("| skill | questions | right | right with thinking |\n|---|---|---|---|")
    for skill, (share, n) in plain.items():
        print(f"| {skill} | {n} | {100 * share:.0f} % | {100 * thinking[skill][0]:.0f} % |")
    measured = {"held_out_loss": loss, "held_out_tokens": count, "accuracy": plain, "accuracy_thinking": thinking}
    (args.out / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")
    if args.wrong:
        args.wrong.write_text(json.dumps(wrong, ensure_ascii=False, indent=1))


def write_references(path, out, device):
    """`samples.json` for a GGUF file."""
    _, tokenizer, reference = evaluate.load(path, device)
    kept, dropped = evaluate.samples(reference, tokenizer, MIN_GAP)
    for entry in kept + dropped:
        question = entry.get("raw") or entry["messages"][-1]["content"]
        print(f"[gap {entry['min_gap']:.3f}] {question!r}\n    {entry['output']!r}")
    evaluate.write_samples(out / "samples.json", kept)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("--check", type=pathlib.Path, metavar="FILE", help="evaluate a GGUF file instead of training")
    parser.add_argument(
        "--samples", action="store_true", help="write samples.json instead of measuring accuracy"
    )
    parser.add_argument("--wrong", type=pathlib.Path, metavar="FILE", help="write the wrong answers to a JSON file")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=64, help="rows per step")
    parser.add_argument("--length", type=int, default=2048, help="tokens per row")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--per-skill", type=int, default=80, help="held-out questions per skill")
    parser.add_argument("--tokenizer-documents", type=int, default=60_000)
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--checkpoint-every", type=int, default=0)
    return parser.parse_args()


def main():
    args = arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    path = args.check or args.out / "zinc-demo.q8_0.gguf"
    if not args.check:
        torch.use_deterministic_algorithms(True, warn_only=True)
        config = model.Config(n_layers=args.layers)
        start = time.time()
        tokenizer = data.train_tokenizer(config.n_vocab, args.tokenizer_documents)
        print(
            f"tokenizer: {config.n_vocab} tokens, {tokenizer.n_unused} unused, {time.time() - start:.0f} s", flush=True
        )
        save(path, config, tokenizer, train(config, tokenizer, args, device))
        torch.use_deterministic_algorithms(False)
    if args.samples:
        write_references(path, args.out, device)
    else:
        report(path, args, device)


if __name__ == "__main__":
    main()
