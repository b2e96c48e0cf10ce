"""llama.cpp as a peer: logits and embeddings of a file by given token ids.

Uses the C interface that the package llama-cpp-python wraps, so that nothing is
added to the tokens and nothing is sampled.
"""

import ctypes

import llama_cpp as c
import numpy as np

# Context of the tests; every recipe fits.
CONTEXT = 512


@c.llama_log_callback
def quiet(level, text, data):
    # Level 4 is an error.
    if level == 4:
        print("llama.cpp:", text.decode(errors="replace").rstrip())


c.llama_log_set(quiet, ctypes.c_void_p(0))


class Peer:
    def __init__(self, path, threads=2, embed=False):
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(str(path).encode(), c.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        params = c.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
        params.n_threads = params.n_threads_batch = threads
        params.embeddings = embed
        self.context = c.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp makes no context for {path}")
        vocab = c.llama_model_get_vocab(self.model)
        self.size = c.llama_vocab_n_tokens(vocab)

    def decode(self, tokens, first=0):
        batch = c.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, first + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, True
        code = c.llama_decode(self.context, batch)
        c.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"llama_decode gives {code}")

    def logits(self, tokens, first=0):
        """One row of logits after each token; the context is kept."""
        self.decode(tokens, first)
        rows = [np.ctypeslib.as_array(c.llama_get_logits_ith(self.context, i), (self.size,)).copy() for i in range(len(tokens))]
        return np.stack(rows)

    def clear(self):
        c.llama_memory_clear(c.llama_get_memory(self.context), True)

    def embed(self, tokens):
        self.clear()
        self.decode(tokens)
        width = c.llama_model_n_embd(self.model)
        return np.ctypeslib.as_array(c.llama_get_embeddings_seq(self.context, 0), (width,)).copy()

    def close(self):
        c.llama_free(self.context)
        c.llama_model_free(self.model)


def quantise(source, target, kind):
    """Let llama.cpp's own quantiser write a file; `kind` is one of its LLAMA_FTYPE names."""
    params = c.llama_model_quantize_default_params()
    params.ftype = getattr(c, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = 2
    if c.llama_model_quantize(str(source).encode(), str(target).encode(), params):
        raise RuntimeError(f"llama.cpp does not quantise {source} to {kind}")


def nmse(ours, theirs):
    """Mean squared difference over mean square: 0 is equal, 1 is unrelated."""
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    return float(((ours - theirs) ** 2).sum() / (theirs**2).sum())
