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

import gguf
import numpy as np

import peer
import recipes
import weights

# Both engines round activations to 8 bits for block types, each in its own way (and
# llama.cpp to BF16 for BF16): the column "peer" is how far that takes llama.cpp from the
# same weights in plain f32, "own" how far ours is. Random codes under random inner scales
# (Q6_K, IQ4_XS) make a few large weights carry a row.
BOUNDS = {"F32": 1e-5, "F16": 1e-5, "BF16": 1e-4, "Q6_K": 3e-3, "IQ4_XS": 3e-3}
BLOCKS = 1e-3
# Where experts are chosen, such a rounding sends a token now and then to another expert.
EXPERTS = 1e-2
# Ours may be this many times as far from plain weights as llama.cpp is.
FURTHER = 3
MIXES = ["Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4_MOE"]
CONTINUE = 16


def ours(binary, path, tokens, every):
    command = [binary, "logits", str(path), "--tokens", ",".join(map(str, tokens)), "--json"]
    done = subprocess.run(command + ["--all"] * every, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return np.array([json.loads(line)["logits"] for line in done.stdout.splitlines()])


def bound_of(architecture, ty):
    if ty not in ("F32", "F16", "BF16") and architecture in ("qwen3moe", "gpt-oss"):
        return EXPERTS
    return BOUNDS.get(ty, BLOCKS)


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
        row = float(np.sqrt(((own - theirs) ** 2).mean()))
        if first - second > 6 * max(deviation, row):
            sure += 1
            agree += int(own.argmax() == theirs.argmax())
    return sure, agree


def plain(tensor, data):
    """The same weights in f32, by the gguf package's own reading of them."""
    ty = gguf.GGMLQuantizationType[tensor["type"]]
    if ty == gguf.GGMLQuantizationType.F32:
        return data, "F32"
    rows = data.reshape(-1, data.shape[-1])
    rows = gguf.quants.dequantize(rows if rows.dtype != np.uint16 else rows.view(np.uint8), ty)
    return rows.reshape(tensor["dims"][::-1]).astype(np.float32), "F32"


def peer_logits(path, tokens):
    engine = peer.Peer(path)
    rows = engine.logits(tokens)
    engine.close()
    return rows


def far_from(rows, exact, bound):
    """How far an engine is from plain weights. In a mixture a token that went to another
    expert, in one engine or the other, would be all of a sum: there it is the middle token."""
    if bound == EXPERTS:
        return float(np.median([peer.nmse(row, true) for row, true in zip(rows, exact)]))
    return peer.nmse(rows, exact)


def compare(binary, name, path, tokens, bound, exact):
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
    far = ""
    if exact is not None:
        mine, its = far_from(own, exact, bound), far_from(theirs, exact, bound)
        far = f"{mine:9.1e} {its:9.1e}"
        good &= mine <= max(FURTHER * its, 1e-6)
    print(f"{name:<24} {error:9.1e} {bound:8.0e} {far:19} {agree:6d} of {sure:2d}  {'ok' if good else 'WRONG'}", flush=True)
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
    """(name, path, tokens, bound, logits of plain weights) of each file, made in its turn."""
    path = stage / "model.gguf"
    for architecture in recipes.ARCHITECTURES:
        for ty in recipes.TYPES:
            recipe = recipes.recipe(architecture, ty)
            if only in recipe["name"]:
                exact = None
                if ty not in ("F32", "F16"):
                    weights.write(recipe, path, plain)
                    exact = peer_logits(path, recipe["tokens"])
                weights.write(recipe, path)
                yield recipe["name"], path, recipe["tokens"], bound_of(architecture, ty), exact
        recipe = recipes.recipe(architecture, "F32")
        for mix in MIXES:
            name = f"{architecture}-mix-{mix.lower()}"
            if only in name:
                weights.write(recipe, stage / "plain.gguf", normal(7))
                peer.quantise(stage / "plain.gguf", path, mix)
                yield name, path, recipe["tokens"], bound_of(architecture, mix), None


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("binary")
    arguments.add_argument("--only", default="", help="only files with this in their name")
    arguments = arguments.parse_args()
    print(f"{'file':<24} {'error':>9} {'bound':>8} {'own':>9} {'peer':>9}  greedy equal")
    with tempfile.TemporaryDirectory() as stage:
        results = [compare(arguments.binary, *file) for file in files(pathlib.Path(stage), arguments.only)]
    print(f"{sum(results)} of {len(results)} agree with llama.cpp")
    sys.exit(not all(results) or not results)


main()
