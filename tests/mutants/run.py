#!/usr/bin/env python3
"""Mutation tests of orders and payments: is it noticed when a line is broken?

Draws a sample by seed from what `cargo mutants` would break in `protocol/src/{order,purchase,payment}`
and in the frames of orders. All of it is built at once, in a scratch copy of the commit that is
checked out: each function has its broken bodies beside the right one and chooses by an
environment variable. Each mutant is then judged by the unit tests of `protocol`, by its other
tests, and by short simulations.
What none of them notices survives; it is printed, with the rate of survivors and its 95 %
interval (Wilson). Survivors that `explained.txt` names, with a reason, are counted apart.

Needs git and `cargo install cargo-mutants`. Some minutes on two cores.

    tests/mutants/run.py --seed 1        150 mutants
    tests/mutants/run.py --count 9999    all of them

Exit 0: under 5 % survive without an explanation. Exit 1: more.
"""

import argparse
import collections
import json
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GLOBS = [
    *("order.rs", "order/**", "purchase.rs", "purchase/**", "payment.rs", "payment/**"),
    *("wire/order/**", "wire/attached.rs"),
]
SIM = "--seed 1 --seeds 6 --nodes 16 --hours 0.5 --once --threads 1".split()
# Half of the optimiser's time; tests and worlds are short.
FAST = ["--config", "profile.release.package.protocol.opt-level=1"]
VARIABLE = "FREEHOLD_MUTANT"
# Which body runs; 0 is none of the mutants.
CHOICE = f"""
#[doc(hidden)]
pub fn mutant() -> u32 {{
    static MUTANT: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| {{
        let text = std::env::var("{VARIABLE}").ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }});
    *MUTANT
}}
"""
# A mutant may loop for ever, and fill memory meanwhile.
MEMORY = 4 << 30
MARK = 0.05


class Mutant:
    """One change of one function, at offsets in its file."""

    def __init__(self, number, listed, text):
        self.number, self.name, self.file = number, listed["name"], listed["file"]
        self.verdict = None
        if listed["function"] is None:
            self.verdict = "not judged"  # A constant, which reads no variable.
            return
        starts = [0]
        for line in text.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        at = lambda place: starts[place["line"] - 1] + place["column"] - 1
        span = lambda what: (at(what["span"]["start"]), at(what["span"]["end"]))
        (first, last), (head, self.end) = span(listed), span(listed["function"])
        # Behind its documentation.
        line = re.compile(r"^ *(pub(\(\w+\))? )?(const )?fn ", re.M)
        head = line.search(text, text.rfind("\n", 0, head) + 1).start()
        self.start = body(text, head)
        self.body = text[self.start : first] + listed["replacement"] + text[last : self.end]
        # Neither does a constant function; and bodies that differ have different types.
        if re.search(r"const fn|-> impl", text[head : self.start]):
            self.verdict = "not judged"

    @property
    def key(self):
        """Its name without the place in the file, which other changes move."""
        return re.sub(r"^(\S+?):\d+:\d+: ", r"\1: ", self.name)


def body(text, start):
    """Where the body of the function at `start` begins: its first brace outside parentheses."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text[at], 0)
        if text[at] == "{" and depth == 0:
            return at
    raise ValueError("a function without a body")


def scratch_copy(scratch):
    """A copy of the commit that is checked out."""
    tree = scratch / "tree"
    tree.mkdir(parents=True)
    archive = subprocess.Popen(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE)
    subprocess.run(["tar", "x"], cwd=tree, stdin=archive.stdout, check=True)
    with (tree / "protocol/src/lib.rs").open("a") as file:
        file.write(CHOICE)
    return tree


def listed(tree):
    """All mutants of the tree, in order."""
    globs = [arg for glob in GLOBS for arg in ("--file", f"protocol/src/{glob}")]
    command = ["cargo", "mutants", "--list", "--json", "--package", "protocol", *globs]
    done = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def write(tree, texts, mutants):
    """Writes every file with the bodies of `mutants`; returns the lines that each takes."""
    lines = {}
    for file, text in texts.items():
        functions = collections.defaultdict(list)
        for mutant in mutants:
            if mutant.file == file:
                functions[mutant.start, mutant.end].append(mutant)
        out, at = "", 0
        for (start, end), ones in sorted(functions.items()):
            out += text[at:start] + "{ match crate::mutant() {"
            for one in ones:
                out += f"\n{one.number} => "
                first = out.count("\n") + 1
                out += one.body
                lines[one] = (file, first, out.count("\n") + 1)
            out += f"\n_ => {text[start:end]} }} }}"
            at = end
        (tree / file).write_text(out + text[at:])
    return lines


def cargo(tree, target, *what):
    """Messages of a build, and whether it went well."""
    command = ["cargo", *what, "--release", "--message-format", "json", "--quiet", *FAST]
    env = dict(os.environ, CARGO_TARGET_DIR=str(target))
    done = subprocess.run(command, cwd=tree, env=env, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode == 0


def settle(tree, target, texts, mutants):
    """Leaves out what does not compile, which is no mutant at all."""
    while True:
        lines = write(tree, texts, [one for one in mutants if one.verdict is None])
        messages, fine = cargo(tree, target, "check", "--package", "protocol", "--lib")
        if fine:
            return
        found = set()
        for message in messages:
            inner = message.get("message") or {}
            spans = inner.get("spans", []) if inner.get("level") == "error" else []
            for span in (span for span in spans if span["is_primary"]):
                for one, (file, first, last) in lines.items():
                    if span["file_name"].endswith(file) and first <= span["line_start"] <= last:
                        found.add(one)
        if not found:
            sys.exit("the copy does not compile, and no mutant is to blame")
        for one in found:
            one.verdict = "unviable"


def executables(tree, target, *what):
    """Builds; returns paths of what can be run."""
    messages, fine = cargo(tree, target, *what)
    if not fine:
        sys.exit(f"the copy does not build: {what}")
    return [path for message in messages if (path := message.get("executable"))]


def run(folder, command, mutant, limit_s):
    """`passed`, `failed` or `timed out`; ends at the first test that fails."""

    def bound():
        # Time of the processor: others may be at work on this machine.
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    process = subprocess.Popen(
        command,
        cwd=folder,
        env=dict(os.environ, **{VARIABLE: str(mutant)}),
        preexec_fn=bound,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("test ") and line.rstrip().endswith("FAILED"):
            process.kill()
            process.communicate()
            return "failed"
    code = process.wait()
    if code == -signal.SIGXCPU:
        return "timed out"
    return "failed" if code else "passed"


def spent():
    """Processor time of all processes that ended. Seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def judge(stages, mutant, limits):
    """What noticed the mutant, or `survived`; and the seconds of each stage that passed."""
    took = {}
    for stage, folder, commands in stages:
        began = spent()
        for command in commands:
            verdict = run(folder, command, mutant, limits.get(stage, 1_800))
            if verdict != "passed":
                return f"{stage}: {verdict}", took
        took[stage] = spent() - began
    return "survived", took


def explained():
    """Reasons by mutant."""
    lines = (ROOT / "tests/mutants/explained.txt").read_text().splitlines()
    pairs = (line.split(" | ", 1) for line in lines if " | " in line)
    return {name.strip(): reason.strip() for name, reason in pairs}


def wilson(hits, count, z=1.96):
    """95 % interval of a rate."""
    if count == 0:
        return 0.0, 1.0
    rate, square = hits / count, z * z / count
    middle = (rate + square / 2) / (1 + square)
    half = z * math.sqrt(rate * (1 - rate) / count + square / count / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def report(mutants):
    """Prints what came of it; returns whether the mark is met."""
    reasons = explained()
    counts = collections.Counter(one.verdict for one in mutants)
    for verdict, count in counts.most_common():
        print(f"{count:5}  {verdict}")
    survivors = [one for one in mutants if one.verdict == "survived"]
    for one in survivors:
        print(f"{one.name}\n    {reasons.get(one.key, 'NOT EXPLAINED')}")
    judged = len(mutants) - counts["unviable"] - counts["not judged"]
    unexplained = sum(one.key not in reasons for one in survivors)
    for what, hits in [("survived", len(survivors)), ("without a reason", unexplained)]:
        low, high = wilson(hits, judged)
        print(f"{what}: {hits} of {judged}, {hits / max(judged, 1):.1%} ({low:.1%} to {high:.1%})")
    return unexplained < MARK * judged


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--count", type=int, default=150, help="mutants in the sample")
    parser.add_argument("--target", type=Path, help="folder of builds, kept for the next run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="freehold-mutants-") as scratch:
        tree, target = scratch_copy(Path(scratch)), args.target or Path(scratch) / "target"
        everything = listed(tree)
        texts = {one["file"]: (tree / one["file"]).read_text() for one in everything}
        drawn = random.Random(args.seed).sample(everything, min(args.count, len(everything)))
        print(f"{len(drawn)} of {len(everything)} mutants, by seed {args.seed}", flush=True)
        mutants = [Mutant(n, one, texts[one["file"]]) for n, one in enumerate(drawn, 1)]
        settle(tree, target, texts, mutants)
        tests = ["test", "--no-run", "--package", "protocol"]
        unit = executables(tree, target, *tests, "--lib")
        others = executables(tree, target, *tests, "--test", "*")
        sim = executables(tree, target, "build", "--package", "sim", "--bin", "sim")
        stages = [
            ("unit tests", tree / "protocol", [[path] for path in unit]),
            ("other tests", tree / "protocol", [[path] for path in others]),
            ("simulation", tree, [[path, *SIM] for path in sim]),
        ]
        verdict, took = judge(stages, 0, {})
        if verdict != "survived":
            sys.exit(f"the unbroken copy: {verdict}")
        print(*(f"{stage} {seconds:.1f} s" for stage, seconds in took.items()), flush=True)
        limits = {stage: round(10 + 5 * seconds) for stage, seconds in took.items()}
        for mutant in mutants:
            if mutant.verdict is None:
                mutant.verdict, _ = judge(stages, mutant.number, limits)
            print(f"{mutant.number:4} {mutant.verdict:22} {mutant.name}", flush=True)
        sys.exit(not report(mutants))


if __name__ == "__main__":
    main()
