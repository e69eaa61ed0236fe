#!/usr/bin/env python3
"""zinc beside llama.cpp on one machine and one file, by turns.

usage: bench/beside.py MODEL.gguf --zinc BIN [--llama-bench BIN] [--llama-batched-bench BIN]
                       [--llama-server BIN] [--device NAME] [--rows ROW,..] [--turns N] [--json FILE]

rows: tg128, tg64@16384, pp512, pp4096 (llama-bench, three repetitions, whose median counts, as zinc bench
does); b32, b64: sequences that generate 64 tokens each after 16 (llama-batched-bench); load: from the start
of the process to the end of one token, the file in the page cache (llama-bench); tokens: the first 32 greedy
tokens after the same prompts of ids (llama-server), where both agree and where they part.

Each turn runs one program after the other, zinc first in even turns. Prints each turn as it comes, then a
table of medians with all turns in brackets. Rows whose peer is not given are left out.
"""

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

N_TOKENS = 32
N_PROMPTS, N_PROMPT = 4, 24


def output_of(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with {result.returncode}:\n{result.stderr[-2000:]}")
    return result.stdout


def seconds_of(command):
    begin = time.monotonic()
    output_of(command)
    return time.monotonic() - begin


def zinc_bench(args, *flags):
    device = ["--device", args.device] if args.device else []
    command = [args.zinc, "bench", "-m", args.model, "-r", "3", "--json", *device, *flags]
    return json.loads(output_of(command))[0]["tok_s"]


def llama_bench(args, *flags):
    command = [args.llama_bench, "-m", args.model, "-ngl", "99", "-fa", "1", "-r", "3", "-o", "json", *flags]
    return statistics.median(json.loads(output_of(command))[0]["samples_ts"])


def llama_batched(args, n_streams):
    n_ctx = str(max(4096, n_streams * 96))
    shape = ["-npp", "16", "-ntg", "64", "-npl", str(n_streams), "-c", n_ctx]
    command = [args.llama_batched_bench, "-m", args.model, "-ngl", "99", "-fa", "on", *shape]
    lines = output_of([*command, "--output-format", "jsonl"]).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")][-1]["speed_tg"]


def zinc_load(args):
    device = ["--device", args.device] if args.device else []
    flags = ["--raw", "-n", "1", "--temp", "0", "-q", *device, "a"]
    return seconds_of([args.zinc, "run", "-m", args.model, *flags])


def llama_load(args):
    flags = ["-ngl", "99", "-fa", "1", "-p", "0", "-n", "1", "-r", "1", "--no-warmup"]
    return seconds_of([args.llama_bench, "-m", args.model, *flags])


# Name: the peer's program, zinc's run, the peer's run, whether less is better.
ROWS = {
    "tg128": ("llama_bench", lambda a: zinc_bench(a, "-p", "0", "-n", "128"), lambda a: llama_bench(a, "-p", "0", "-n", "128"), False),
    "tg64@16384": (
        "llama_bench",
        lambda a: zinc_bench(a, "-p", "0", "-n", "64", "-d", "16384"),
        lambda a: llama_bench(a, "-p", "0", "-n", "64", "-d", "16384"),
        False,
    ),
    "pp512": ("llama_bench", lambda a: zinc_bench(a, "-p", "512", "-n", "0"), lambda a: llama_bench(a, "-p", "512", "-n", "0"), False),
    "pp4096": ("llama_bench", lambda a: zinc_bench(a, "-p", "4096", "-n", "0"), lambda a: llama_bench(a, "-p", "4096", "-n", "0"), False),
    "b32": ("llama_batched_bench", lambda a: zinc_bench(a, "-p", "0", "-n", "64", "-d", "15", "-b", "32"), lambda a: llama_batched(a, 32), False),
    "b64": ("llama_batched_bench", lambda a: zinc_bench(a, "-p", "0", "-n", "64", "-d", "15", "-b", "64"), lambda a: llama_batched(a, 64), False),
    "load": ("llama_bench", zinc_load, llama_load, True),
}


@contextlib.contextmanager
def server(command, port):
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                sys.exit(f"{' '.join(command)} ended with {process.returncode}")
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"{url}/health") as response:
                    if response.status == 200:
                        break
            time.sleep(0.2)
        else:
            sys.exit(f"{command[0]} was not ready after 120 s")
        yield url
    finally:
        process.terminate()
        process.wait()


def greedy_tokens(url, prompt):
    body = {"prompt": prompt, "max_tokens": N_TOKENS, "temperature": 0, "ignore_eos": True, "logprobs": 1}
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/v1/completions", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        logprobs = json.load(response)["choices"][0]["logprobs"]
    # llama-server answers with the chat routes' shape.
    return logprobs["tokens"] if "tokens" in logprobs else [token["token"] for token in logprobs["content"]]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def compare_tokens(args):
    ids = lambda seed: [(seed * 7919 + i * 104729) % args.ids for i in range(N_PROMPT)]
    prompts = [ids(seed) for seed in range(1, N_PROMPTS + 1)]
    device = ["--device", args.device] if args.device else []
    with server([args.zinc, "serve", "-m", args.model, *device], free_port()) as url:
        ours = [greedy_tokens(url, prompt) for prompt in prompts]
    with server([args.llama_server, "-m", args.model, "-ngl", "99", "-fa", "on"], free_port()) as url:
        theirs = [greedy_tokens(url, prompt) for prompt in prompts]
    results = []
    for idx, (a, b) in enumerate(zip(ours, theirs)):
        n_same = next((i for i, pair in enumerate(zip(a, b)) if pair[0] != pair[1]), min(len(a), len(b)))
        parts = "" if n_same == N_TOKENS else f"; then zinc {a[n_same:n_same + 1]}, llama.cpp {b[n_same:n_same + 1]}"
        print(f"tokens, prompt {idx}: the first {n_same} of {N_TOKENS} agree: {a[:n_same]}{parts}", flush=True)
        results.append({"prompt": prompts[idx], "n_same": n_same, "zinc": a, "llama.cpp": b})
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--zinc", required=True)
    for peer in ["llama-bench", "llama-batched-bench", "llama-server"]:
        parser.add_argument(f"--{peer}")
    parser.add_argument("--device")
    parser.add_argument("--ids", type=int, default=20000, help="ids of the prompts of the tokens row lie below this")
    parser.add_argument("--rows", default=",".join([*ROWS, "tokens"]))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()
    wanted = args.rows.split(",")
    unknown = [row for row in wanted if row not in [*ROWS, "tokens"]]
    if unknown:
        parser.error(f"unknown row {unknown[0]}; rows are {', '.join([*ROWS, 'tokens'])}")
    rows = {name: row for name, row in ROWS.items() if name in wanted and getattr(args, row[0])}
    figures = {name: {"zinc": [], "llama.cpp": []} for name in rows}
    for turn in range(args.turns):
        for name, (_, ours, theirs, _) in rows.items():
            runs = [("zinc", ours), ("llama.cpp", theirs)]
            for who, run in runs if turn % 2 == 0 else reversed(runs):
                figure = run(args)
                figures[name][who].append(figure)
                print(f"turn {turn} {name} {who}: {figure:.5g}", file=sys.stderr, flush=True)
    report = {"model": args.model, "rows": figures}
    if rows:
        print("| row | llama.cpp | zinc | ratio |\n|---|--:|--:|--:|")
    for name, (*_, less_is_better) in rows.items():
        ours, theirs = figures[name]["zinc"], figures[name]["llama.cpp"]
        medians = [statistics.median(theirs), statistics.median(ours)]
        ratio = medians[0] / medians[1] if less_is_better else medians[1] / medians[0]
        cells = [f"{m:,.5g} ({', '.join(f'{f:.5g}' for f in all_)})" for m, all_ in zip(medians, [theirs, ours])]
        print(f"| {name} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)
    if "tokens" in wanted and args.llama_server:
        report["tokens"] = compare_tokens(args)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)


main()
