#!/usr/bin/env python3
"""What the server costs over the engine loop: one client, side by side in one run.

usage: bench/serve_overhead.py ZINC MODEL.gguf [ROUNDS]

Each round runs `zinc bench` (the engine loop) and the same number of tokens streamed through HTTP,
in turns, so that a machine that is busy with other things is as busy for both. Prints tokens per
second of decoding of every round, from the first token to the last as the client sees them, and the
ratio of the medians. Then the processor time of the server's threads for the same tokens, which a busy
machine does not distort: the threads called `http` are what the server adds.
"""

import collections
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
import urllib.request

N_PROMPT, N_TOKENS = 64, 96


def engine_loop(zinc, model):
    flags = ["-m", model, "-p", "0", "-n", str(N_TOKENS), "-d", str(N_PROMPT), "-r", "1", "--json"]
    output = subprocess.run([zinc, "bench", *flags], check=True, capture_output=True, text=True).stdout
    return json.loads(output)[0]["tok_s"]


def streamed(url):
    body = {
        "prompt": [i % 1000 + 100 for i in range(N_PROMPT)], "max_tokens": N_TOKENS, "temperature": 0,
        "ignore_eos": True, "stream": True,
    }
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    times = []
    with urllib.request.urlopen(request) as response:
        for line in response:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"]:
                times.append(time.perf_counter())
    assert len(times) == N_TOKENS, f"{len(times)} events for {N_TOKENS} tokens: some tokens have no text"
    return (N_TOKENS - 1) / (times[-1] - times[0])


def thread_seconds(pid):
    """Processor time of a process by the names of its threads."""
    seconds = collections.Counter()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        stat = (task / "stat").read_text()
        name, fields = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()
        seconds[name.split()[0]] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def main(zinc, model, rounds=5):
    server = subprocess.Popen([zinc, "serve", "--speculate", "off", "-m", model, "--port", "0", "--log-level", "error"], stderr=subprocess.PIPE, text=True)
    url = None
    for line in server.stderr:
        url = (re.findall(r"listens on (http://\S+)", line) or [url])[0]
        if line.startswith("ready: "):
            break
    try:
        streamed(url)
        pairs = []
        for _ in range(int(rounds)):
            pairs.append((engine_loop(zinc, model), streamed(url)))
            print("engine loop %.2f tok/s, through HTTP %.2f tok/s" % pairs[-1], flush=True)
        loop, http = (statistics.median(column) for column in zip(*pairs))
        print(f"median: engine loop {loop:.2f}, through HTTP {http:.2f} tok/s; the server costs {100 * (1 - http / loop):.1f} %")
        before = thread_seconds(server.pid)
        for _ in range(int(rounds)):
            streamed(url)
        spent = thread_seconds(server.pid)
        spent.subtract(before)
        ms = {name: 1e3 * value / N_TOKENS / int(rounds) for name, value in spent.items()}
        share = spent["http"] / (sum(spent.values()) - spent["http"])
        print("processor time in ms per token: " + ", ".join(f"{name} {value:.2f}" for name, value in sorted(ms.items())))
        print(f"HTTP threads against all others: {100 * share:.2f} %")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
