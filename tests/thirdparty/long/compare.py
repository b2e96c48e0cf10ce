"""Every architecture and storage type: our logits against those of llama.cpp.

Usage: compare.py FREEHOLD [--only TEXT]     FREEHOLD is the binary

Files with random codes for every combination (recipes.py), then files whose normally
distributed weights llama.cpp's own quantiser stored in the mixes that people download.
For each: the normalised mean squared error over the logits after every token, under a
bound by storage type, and a greedy continuation of 16 tokens, which must be equal
wherever llama.cpp's best token leads by more than both engines' difference.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import peer
import recipes
import weights

# llama.cpp keeps scales of activations in half precision and sums in another order:
# about 1e-5 for one layer of 8-bit products, more where few values carry a row.
BOUNDS = {"F32": 1e-5, "F16": 1e-5, "BF16": 1e-5}
BLOCKS = 1e-3
MIXES = ["Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4_MOE"]
CONTINUE = 16


def ours(binary, path, tokens, every):
    command = [binary, "logits", str(path), "--tokens", ",".join(map(str, tokens)), "--json"]
    done = subprocess.run(command + ["--all"] * every, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return np.array([json.loads(line)["logits"] for line in done.stdout.splitlines()])


def continuation(binary, path, engine, tokens, deviation):
    """Greedy tokens of llama.cpp; at how many places ours must agree, and does."""
    engine.clear()
    row = engine.logits(tokens)[-1]
    sure = agree = 0
    told, rows = list(tokens), []
    for _ in range(CONTINUE):
        rows.append(row)
        told.append(int(row.argmax()))
        row = engine.logits(told[-1:], len(told) - 1)[-1]
    mine = ours(binary, path, told[:-1], True)[len(tokens) - 1 :]
    for theirs, own in zip(rows, mine):
        first, second = np.sort(theirs)[::-1][:2]
        if first - second > 6 * deviation:
            sure += 1
            agree += int(own.argmax() == theirs.argmax())
    return sure, agree


def compare(binary, name, path, tokens, bound):
    try:
        own = ours(binary, path, tokens, True)
    except RuntimeError as error:
        print(f"{name:<24} refused: {error}")
        return False
    engine = peer.Peer(path)
    theirs = engine.logits(tokens)
    error = peer.nmse(own, theirs)
    deviation = float(np.sqrt(((own - theirs) ** 2).mean()))
    sure, agree = continuation(binary, path, engine, tokens, deviation)
    engine.close()
    good = error <= bound and agree == sure
    print(f"{name:<24} {error:9.1e} {bound:8.0e} {agree:6d} of {sure:2d}  {'ok' if good else 'WRONG'}", flush=True)
    return good


def normal(seed):
    """Normally distributed weights of the same spread in place of random codes."""
    rng = np.random.default_rng(seed)

    def change(tensor, data):
        if tensor["type"] == "F32" and len(tensor["dims"]) > 1 and tensor["name"].endswith("weight"):
            data = (rng.standard_normal(data.shape) * data.std()).astype(np.float32)
        return data, tensor["type"]

    return change


def files(stage, only):
    """(name, path, tokens, bound) of each file, made when its turn comes."""
    path = stage / "model.gguf"
    for architecture in recipes.ARCHITECTURES:
        for ty in recipes.TYPES:
            recipe = recipes.recipe(architecture, ty)
            if only in recipe["name"]:
                weights.write(recipe, path)
                yield recipe["name"], path, recipe["tokens"], BOUNDS.get(ty, BLOCKS)
        recipe = recipes.recipe(architecture, "F32")
        for mix in MIXES:
            name = f"{architecture}-mix-{mix.lower()}"
            if only in name:
                weights.write(recipe, stage / "plain.gguf", normal(7))
                peer.quantise(stage / "plain.gguf", path, mix)
                yield name, path, recipe["tokens"], BLOCKS


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("binary")
    arguments.add_argument("--only", default="", help="only files with this in their name")
    arguments = arguments.parse_args()
    print(f"{'file':<24} {'error':>9} {'bound':>8}  greedy equal")
    with tempfile.TemporaryDirectory() as stage:
        results = [compare(arguments.binary, *file) for file in files(pathlib.Path(stage), arguments.only)]
    print(f"{sum(results)} of {len(results)} agree with llama.cpp")
    sys.exit(not all(results) or not results)


main()
