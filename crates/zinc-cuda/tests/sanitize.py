#!/usr/bin/env python3
"""compute-sanitizer on the operation table, part by part: the whole table takes hours under racecheck.

usage: sanitize.py CARD_TEST [PART ...] [--tool racecheck] [--jobs N] [--cases N] [--limit SECONDS]

CARD_TEST is what `cargo test -p zinc-cuda --test card --no-run` names. A part is an operation, operation:type, or every n-th
case of it, operation:type/k/n; without any, all of the table. Operations are cut into parts of at most so many cases, of one
where a case may take minutes. So many parts run side by side on each card, the longest operations first; one that takes longer
than the limit is ended and named, with its case. Prints a line for each part, and exits with 1 if any found something or did
not end.

racecheck keeps what it sees in host memory, tens of GB for the longest cases: fewer jobs where there is little.
"""

import argparse
import concurrent.futures
import os
import queue
import re
import signal
import subprocess
import sys
import time

# By far the longest, in order; the rest takes a minute or less.
LONG = ["attention", "latent_attention", "matmul", "expert_matmul", "kv_write", "gated_delta_net"]
# Single cases take minutes under racecheck.
ALONE = ["attention", "latent_attention"]


def card_test(args, name):
    return [args.card_test, "--ignored", "--exact", name, "--nocapture"]


def operation(part):
    return re.split("[:/]", part)[0]


def all_parts(args):
    """Those asked for, operations cut into parts of a few cases."""
    output = subprocess.run(card_test(args, "parts_are_named"), capture_output=True, text=True, check=True).stdout
    parts = [part for part in args.parts if "/" in part]
    for name, n_cases in re.findall(r"^part (\S+) (\d+)$", output, re.MULTILINE):
        if not args.parts or name in args.parts or operation(name) in args.parts:
            n = -(-int(n_cases) // (1 if operation(name) in ALONE else args.cases))
            parts += [f"{name}/{k}/{n}" if n > 1 else name for k in range(n)]
    if not parts:
        sys.exit(f"no operation is called {' or '.join(args.parts)}")
    return sorted(parts, key=lambda part: LONG.index(operation(part)) if operation(part) in LONG else len(LONG))


def check(args, part, cards):
    """The part, what became of it, and whether that is fine."""
    card = cards.get()
    env = {**os.environ, "ZINC_OPS": part, "CUDA_VISIBLE_DEVICES": card}
    begin = time.monotonic()
    command = ["compute-sanitizer", "--tool", args.tool, *card_test(args, "cases_of_some_operations_hold")]
    tool = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = tool.communicate(timeout=args.limit)
    except subprocess.TimeoutExpired:
        os.killpg(tool.pid, signal.SIGKILL)
        output, _ = tool.communicate()
        cases = re.findall(r"^case (.*)$", output, re.MULTILINE)
        return part, f"did not end in {args.limit} s, case {len(cases)} {cases[-1:]}\n{output[-4000:]}", False
    finally:
        cards.put(card)
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", output)
    fine = tool.returncode == 0 and bool(summary) and summary[-1].startswith("0 ")
    said = summary[-1] if summary else "no summary"
    if not fine:
        said += "\n" + output[-4000:]
    return part, f"{time.monotonic() - begin:.0f} s, {said}", fine


def all_cards(args):
    """The cards that may be used, each as often as parts may run on it."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if seen is None:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
        seen = ",".join(re.findall(r"^GPU (\d+)", listed, re.MULTILINE))
    cards = queue.Queue()
    for card in seen.split(",") * args.jobs:
        cards.put(card)
    return cards


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("card_test")
    parser.add_argument("--tool", default="racecheck", choices=["racecheck", "memcheck", "initcheck", "synccheck"])
    parser.add_argument("--jobs", type=int, default=8, help="parts that run on a card")
    parser.add_argument("--cases", type=int, default=4, help="cases of a part")
    parser.add_argument("--limit", type=int, default=3600, help="seconds")
    parser.add_argument("parts", nargs="*")
    args = parser.parse_intermixed_args()
    parts = all_parts(args)
    cards = all_cards(args)
    failed = []
    with concurrent.futures.ThreadPoolExecutor(cards.qsize()) as pool:
        for done in concurrent.futures.as_completed([pool.submit(check, args, part, cards) for part in parts]):
            part, said, fine = done.result()
            print(f"{part}: {said}", flush=True)
            if not fine:
                failed.append(part)
    print(f"{len(parts) - len(failed)} of {len(parts)} parts are clean" + (f"; not {' '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
