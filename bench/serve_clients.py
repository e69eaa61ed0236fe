#!/usr/bin/env python3
"""How much more sixteen clients get than one, through HTTP.

usage: bench/serve_clients.py ZINC MODEL.gguf

Starts `zinc serve`, then in turns, three times: one client that streams 64 tokens, and sixteen of them at
once with different prompts. Prints tokens per second from the first token to the last of all.
"""

import json
import subprocess
import sys
import threading
import time
import urllib.request

URL = "http://127.0.0.1:18555"


def client(number, out):
    body = {
        "prompt": [(number * 37 + i) % 1000 + 100 for i in range(16)], "max_tokens": 64,
        "temperature": 0, "ignore_eos": True, "stream": True,
    }
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{URL}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        out.append([time.time() for line in response if line.startswith(b"data: {")])


def throughput(n_clients):
    out = []
    threads = [threading.Thread(target=client, args=(i, out)) for i in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, last = min(times[0] for times in out), max(times[-1] for times in out)
    return sum(len(times) for times in out) / (last - first)


def main():
    zinc, model = sys.argv[1:3]
    flags = ["--port", "18555", "--parallel", "16", "--ctx", "512", "--speculate", "off"]
    server = subprocess.Popen([zinc, "serve", "-m", model, *flags, "--log-level", "error"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{URL}/health")
                break
            except OSError:
                time.sleep(0.2)
        throughput(1)
        for _ in range(3):
            print(f"1 client {throughput(1):.1f} tok/s, 16 clients {throughput(16):.1f} tok/s")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
