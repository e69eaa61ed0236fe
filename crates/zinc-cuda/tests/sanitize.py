#!/usr/bin/env python3
"""compute-sanitizer on the operation table, part by part: the whole table takes hours under racecheck.

usage: sanitize.py CARD_TEST [PART ...] [--tool racecheck] [--jobs N] [--limit SECONDS]

CARD_TEST is what `cargo test -p zinc-cuda --test card --no-run` names. A part is an operation, or operation:type; by
default all of them, as CARD_TEST lists them. So many run side by side, the longest operations first; one that takes longer
than the limit is ended and named. Prints a line for each part, and exits with 1 if any found something or did not end.
"""

import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
import time

# By far the most cases; the rest takes a minute or less.
LONG = ["matmul", "attention", "expert_matmul", "latent_attention", "kv_write", "gated_delta_net"]


def card_test(args, name, parts=""):
    command = [args.card_test, "--ignored", "--exact", name, "--nocapture"]
    return command, {**os.environ, "ZINC_OPS": parts}


def all_parts(args):
    command, env = card_test(args, "parts_are_named")
    output = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    parts = [line[len("part ") :] for line in output.splitlines() if line.startswith("part ")]

    def rank(part):
        op = part.split(":")[0]
        return LONG.index(op) if op in LONG else len(LONG)

    return sorted(parts, key=rank)


def check(args, part):
    """The part, what became of it, and whether that is fine."""
    command, env = card_test(args, "cases_of_some_operations_hold", part)
    begin = time.monotonic()
    try:
        tool = ["compute-sanitizer", "--tool", args.tool]
        result = subprocess.run(
            [*tool, *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=args.limit
        )
    except subprocess.TimeoutExpired:
        return part, f"did not end in {args.limit} s", False
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", result.stdout)
    fine = result.returncode == 0 and bool(summary) and summary[-1].startswith("0 ")
    said = summary[-1] if summary else "no summary"
    if not fine:
        said += "\n" + result.stdout[-4000:]
    return part, f"{time.monotonic() - begin:.0f} s, {said}", fine


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("card_test")
    parser.add_argument("--tool", default="racecheck", choices=["racecheck", "memcheck", "initcheck", "synccheck"])
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--limit", type=int, default=3600)
    parser.add_argument("parts", nargs="*")
    args = parser.parse_intermixed_args()
    parts = args.parts or all_parts(args)
    failed = []
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for done in concurrent.futures.as_completed([pool.submit(check, args, part) for part in parts]):
            part, said, fine = done.result()
            print(f"{part}: {said}", flush=True)
            if not fine:
                failed.append(part)
    print(f"{len(parts) - len(failed)} of {len(parts)} parts are clean" + (f"; not {' '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
