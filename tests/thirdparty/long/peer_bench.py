"""One measurement of llama.cpp, as one line of JSON with the names of `freehold bench`.

Usage: peer_bench.py FILE THREADS PROMPT GENERATE DEPTH STREAMS
Called by bench_llama_cpp.py, one process for each measurement, as ours is.
"""

import ctypes
import json
import pathlib
import sys
import time

import llama_cpp as c

path, (threads, prompt, generate, depth, streams) = sys.argv[1], map(int, sys.argv[2:7])


@c.llama_log_callback
def quiet(level, text, data):
    if level == 4:
        print(text.decode(errors="replace"), file=sys.stderr, end="")


def memory(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def decode(tokens, first, sequences=(0,)):
    """Tokens of one sequence from a position, or one token for each sequence."""
    batch = c.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        many = len(sequences) > 1
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, first + (0 if many else i), 1
        batch.seq_id[i][0], batch.logits[i] = sequences[i if many else 0], many or i == len(tokens) - 1
    if c.llama_decode(context, batch):
        sys.exit("llama_decode fails")
    c.llama_synchronize(context)
    c.llama_batch_free(batch)


c.llama_log_set(quiet, ctypes.c_void_p(0))
c.llama_backend_init()
# Importing Python is not loading a model: what is counted begins here.
before, own = memory("VmRSS"), memory("RssAnon")
start = time.perf_counter()
model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
params = c.llama_context_default_params()
params.n_ctx = streams * (max(prompt, depth + generate) + 64)
params.n_batch, params.n_ubatch, params.n_seq_max = 2048, 512, streams
params.n_threads = params.n_threads_batch = threads
context = c.llama_init_from_model(model, params)
load = time.perf_counter() - start
vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
cells = c.llama_get_memory(context)
token = lambda i, stream: (i * 7919 + stream * 104729 + 7) % vocab
decode([0], 0)
first_token = time.perf_counter() - start
result = {"load_s": load, "load_to_first_token_s": first_token}


def fill(count, stream):
    for i in range(0, count, params.n_batch):
        decode([token(j, stream) for j in range(i, min(i + params.n_batch, count))], i, (stream,))


if prompt:
    c.llama_memory_clear(cells, True)
    start = time.perf_counter()
    fill(prompt, 0)
    result["prefill_tokens_per_s"] = prompt / (time.perf_counter() - start)
if generate:
    c.llama_memory_clear(cells, True)
    for stream in range(streams):
        fill(depth, stream)
    start = time.perf_counter()
    for i in range(depth, depth + generate):
        decode([token(i, stream) for stream in range(streams)], i, tuple(range(streams)))
    result["decode_tokens_per_s"] = generate * streams / (time.perf_counter() - start)
result["peak_memory_bytes"] = memory("VmHWM") - before
result["own_memory_bytes"] = memory("RssAnon") - own
print(json.dumps(result))
