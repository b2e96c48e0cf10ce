"""Side by side with llama.cpp: the same file, threads and prompt, in turns.

Usage: bench_llama_cpp.py FREEHOLD [--threads 2] [--minutes 20] [--models FOLDER]

Every figure is the median of rounds in which both engines run once each, one after
the other, so that a machine that slows down slows both. Our decoding chooses a token
and digests its logits, as served ones are; llama.cpp's is given its tokens. Files are
random-weight ones of real shapes, written on first use (11 GB in all). Measurements
that no longer fit into --minutes are named, not guessed. On a quiet machine only.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import recipes
import weights

HERE = pathlib.Path(__file__).parent
# (what, shape, kind, rounds, prompt, generate, depth, streams, busy), the most telling first.
PLAN = [
    ("", "qwen3-0.6b", "Q8_0", 3, 512, 64, 0, 1, False),
    ("", "qwen3-0.6b", "Q4_K_M", 3, 512, 64, 0, 1, False),
    ("at depth 2048", "qwen3-0.6b", "Q8_0", 1, 0, 32, 2048, 1, False),
    ("at depth 2048", "qwen3-0.6b", "Q4_K_M", 1, 0, 32, 2048, 1, False),
    ("8 streams", "qwen3-0.6b", "Q8_0", 2, 0, 24, 0, 8, False),
    ("one busy process", "qwen3-0.6b", "Q8_0", 2, 0, 32, 0, 1, True),
    ("8 streams", "qwen3-0.6b", "Q4_K_M", 2, 0, 24, 0, 8, False),
    ("one busy process", "qwen3-0.6b", "Q4_K_M", 2, 0, 32, 0, 1, True),
    ("", "qwen3-1.7b", "Q4_K_M", 2, 512, 32, 0, 1, False),
    ("", "qwen3-1.7b", "Q8_0", 2, 512, 32, 0, 1, False),
    ("", "qwen3-4b", "Q4_K_M", 1, 512, 24, 0, 1, False),
    ("", "qwen3-4b", "Q8_0", 1, 512, 24, 0, 1, False),
]
# To the smallest.
SIZE = {"qwen3-0.6b": 1, "qwen3-1.7b": 3, "qwen3-4b": 7}
BUSY = "x = 1\nwhile True: x = (x * 31 + 7) % 1000003"


def model(folder, name, kind):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{kind.lower()}.gguf"
    if not path.exists():
        print(f"writing {path}", file=sys.stderr)
        weights.write(recipes.shape(name, kind), path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    # In memory before either engine maps it.
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass
    return path


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def round_of(arguments, path, prompt, generate, depth, streams):
    ours = [arguments.binary, "bench", path, "--prompt", prompt, "--generate", generate, "--depth", depth]
    ours += ["--streams", streams, "--threads", arguments.threads, "--json"]
    theirs = [sys.executable, HERE / "peer_bench.py", path, arguments.threads, prompt, generate, depth, streams]
    return run([str(x) for x in ours]), run([str(x) for x in theirs])


def measure(arguments, path, rounds, prompt, generate, depth, streams, busy):
    competitor = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    try:
        pairs = [round_of(arguments, path, prompt, generate, depth, streams) for _ in range(rounds)]
    finally:
        if competitor:
            competitor.kill()
    median = lambda side, key: statistics.median(pair[side][key] for pair in pairs)
    keys = ["prefill_tokens_per_s"] * bool(prompt) + ["decode_tokens_per_s", "load_to_first_token_s", "own_memory_bytes", "peak_memory_bytes"]
    figures = {key: (median(0, key), median(1, key)) for key in keys}
    figures["bandwidth"] = median(0, "memory_bandwidth_bytes_per_s"), median(0, "bandwidth_share")
    return figures


def row(what, ours, theirs, unit, digits=1):
    print(f"| {what} | {ours:.{digits}f} | {theirs:.{digits}f} | {ours / theirs:.2f} | {unit} |", flush=True)


def show(label, what, path, figures, alone):
    label = f"{label} {what}".strip()
    prefill, decode = figures.get("prefill_tokens_per_s"), figures["decode_tokens_per_s"]
    if prefill:
        row(f"{label} prefill 512", *prefill, "tokens/s")
    row(f"{label} decode", *decode, "tokens/s")
    if what == "":
        mib, size = 1 << 20, path.stat().st_size
        row(f"{label} load to first token", *figures["load_to_first_token_s"], "s", 2)
        row(f"{label} memory of its own", *(x / mib for x in figures["own_memory_bytes"]), "MiB", 0)
        row(f"{label} peak memory", *(x / mib for x in figures["peak_memory_bytes"]), f"MiB (file {size / mib:.0f})", 0)
        bandwidth, share = figures["bandwidth"]
        print(f"| {label} decode, share of {bandwidth / 1e9:.1f} GB/s | {100 * share:.0f} % | | | |")
    elif alone and "depth" not in what:
        sign = "times one stream" if "streams" in what else "of the speed alone"
        row(f"{label}", decode[0] / alone[0], decode[1] / alone[1], sign, 2)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("binary")
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    arguments.add_argument("--minutes", type=float, default=20)
    arguments.add_argument("--models", type=pathlib.Path, default=pathlib.Path.home() / ".cache/freehold-ci/shapes")
    arguments = arguments.parse_args()
    end, alone, skipped, took = time.monotonic() + 60 * arguments.minutes, {}, [], 0.0
    paths = {(name, kind): model(arguments.models, name, kind) for _, name, kind, *_ in PLAN}
    print(f"\n{arguments.threads} threads\n\n| what | freehold | llama.cpp | ratio | |\n|---|---|---|---|---|")
    for what, name, kind, *plan in PLAN:
        label = f"{name} {kind}"
        # A round takes as long as the shape is large, about.
        if time.monotonic() + plan[0] * took * SIZE[name] > end:
            skipped.append(f"{label} {what}".strip())
            continue
        start = time.monotonic()
        figures = measure(arguments, paths[name, kind], *plan)
        took = max(took, (time.monotonic() - start) / plan[0] / SIZE[name])
        if what == "":
            alone[label] = figures["decode_tokens_per_s"]
        show(label, what, paths[name, kind], figures, alone.get(label))
    if skipped:
        print(f"\nno time left for: {', '.join(skipped)}")


main()
