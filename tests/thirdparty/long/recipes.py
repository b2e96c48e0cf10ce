"""Small random models as recipes: what to write, not the bytes.

A recipe is plain data (it goes into the golden vectors as JSON): metadata, tensors
with shape, storage type and size of their weights, and tokens to read. The bytes
follow from it by the rule in weights.py, which kernels/tests/golden.rs follows, too.
Not real models: their weights are noise.
"""

import math

# The sizes: rows of whole blocks of every storage type (256), and otherwise small.
WIDTH, FORWARD, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 256, 512, 4, 2, 64, 288
EXPERTS, USED, EXPERT_FORWARD = 8, 3, 256
WINDOW, TOKENS = 16, 40

# Storage types by id in the file, and the spread of a weight whose block scale is 1
# (for types with scales; measured on uniformly random codes).
TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8,
    "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30, "MXFP4": 39,
}
SPREAD = {
    "Q4_0": 4.6, "Q4_1": 4.6, "Q5_0": 9.2, "Q5_1": 9.2, "Q8_0": 73.9, "Q4_K": 263, "Q5_K": 525,
    "Q6_K": 1367, "IQ4_NL": 69, "IQ4_XS": 1276, "MXFP4": 2.93,
}
ARCHITECTURES = ["qwen3", "llama", "llama-factors", "qwen2", "mistral3", "gemma3", "qwen3moe", "gpt-oss"]


def exponent(ty, spread):
    """The power of two that gives weights of this type about this spread."""
    if ty in ("F32", "F16", "BF16"):
        return round(math.log2(spread)) - 15
    e = round(math.log2(spread / SPREAD[ty] / 1.5))
    # f16 scales stay normal numbers; E8M0 scales count from 127.
    return 127 + e if ty == "MXFP4" else max(1, 15 + e)


class Maker:
    def __init__(self, architecture, ty):
        self.architecture, self.ty = architecture, ty
        self.metadata, self.tensors = [], []
        self.key("general.architecture", "str", architecture, whole=True)

    def key(self, name, kind, value, whole=False):
        self.metadata.append([name if whole else f"{self.architecture}.{name}", kind, value])

    def tensor(self, name, dims, ty=None, spread=None, centre=0.0):
        ty = ty or self.ty
        spread = spread or dims[0] ** -0.5
        self.tensors.append({"name": name, "dims": dims, "type": ty, "exponent": exponent(ty, spread), "centre": centre})

    def norm(self, name, n, centre=1.0):
        self.tensor(name, [n], "F32", 0.06, centre)

    def bias(self, name, dims):
        self.tensor(name, dims, "F32", 0.25)


def recipe(name, ty):
    """The recipe of an architecture with its matrices stored as `ty`."""
    architecture = "llama" if name == "llama-factors" else name
    m = Maker(architecture, ty)
    layers = 7 if name == "gemma3" else 2
    m.key("block_count", "u32", layers)
    m.key("context_length", "u32", 512)
    m.key("embedding_length", "u32", WIDTH)
    m.key("feed_forward_length", "u32", FORWARD)
    m.key("attention.head_count", "u32", HEADS)
    m.key("attention.head_count_kv", "u32", KV_HEADS)
    m.key("attention.key_length", "u32", HEAD_DIM)
    m.key("attention.value_length", "u32", HEAD_DIM)
    m.key("attention.layer_norm_rms_epsilon", "f32", 1e-6)
    m.key("rope.dimension_count", "u32", HEAD_DIM)
    m.key("rope.freq_base", "f32", {"gpt-oss": 150000.0, "llama": 10000.0}.get(name, 1000000.0))
    m.key("vocab_size", "u32", VOCAB)
    special(m, name)
    m.tensor("token_embd.weight", [WIDTH, VOCAB], spread=1.0 if name != "gemma3" else 1 / 16)
    m.norm("output_norm.weight", WIDTH)
    if name in ("llama", "mistral3", "gpt-oss", "qwen3moe"):
        m.tensor("output.weight", [WIDTH, VOCAB])
    if name == "llama-factors":
        m.tensor("rope_freqs.weight", [HEAD_DIM // 2], "F32", 0.6, 4.0)
    for i in range(layers):
        layer(m, name, f"blk.{i}.")
    return {"name": f"{name}-{ty.lower()}", "seed": 1, "vocabulary": VOCAB, "metadata": m.metadata, "tensors": m.tensors, "tokens": tokens()}


def special(m, name):
    if name in ("mistral3", "gpt-oss"):
        # A short original context, so that a short test is already scaled.
        m.key("rope.scaling.type", "str", "yarn")
        m.key("rope.scaling.factor", "f32", 4.0)
        m.key("rope.scaling.original_context_length", "u32", 16)
        m.key("rope.scaling.yarn_beta_fast", "f32", 32.0)
        m.key("rope.scaling.yarn_beta_slow", "f32", 1.0)
    if name == "mistral3":
        m.key("rope.scaling.yarn_log_multiplier", "f32", 1.0)
        m.key("attention.temperature_scale", "f32", 0.5)
    if name in ("gemma3", "gpt-oss"):
        m.key("attention.sliding_window", "u32", WINDOW)
    if name in ("qwen3moe", "gpt-oss"):
        m.key("expert_count", "u32", EXPERTS)
        m.key("expert_used_count", "u32", USED)
        m.key("expert_feed_forward_length", "u32", EXPERT_FORWARD)


def layer(m, name, p):
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    m.norm(p + "attn_norm.weight", WIDTH)
    m.tensor(p + "attn_q.weight", [WIDTH, q])
    m.tensor(p + "attn_k.weight", [WIDTH, kv])
    m.tensor(p + "attn_v.weight", [WIDTH, kv])
    m.tensor(p + "attn_output.weight", [q, WIDTH])
    if name in ("qwen2", "gpt-oss"):
        m.bias(p + "attn_q.bias", [q])
        m.bias(p + "attn_k.bias", [kv])
        m.bias(p + "attn_v.bias", [kv])
    if name in ("qwen3", "qwen3moe", "gemma3"):
        m.norm(p + "attn_q_norm.weight", HEAD_DIM)
        m.norm(p + "attn_k_norm.weight", HEAD_DIM)
    if name == "gpt-oss":
        m.bias(p + "attn_output.bias", [WIDTH])
        m.bias(p + "attn_sinks.weight", [HEADS])
    if name in ("gemma3", "gpt-oss"):
        m.norm(p + "post_attention_norm.weight", WIDTH)
    if name == "gemma3":
        m.norm(p + "post_ffw_norm.weight", WIDTH)
    if name != "gpt-oss":
        m.norm(p + "ffn_norm.weight", WIDTH)
    if name in ("qwen3moe", "gpt-oss"):
        experts(m, name, p)
    else:
        m.tensor(p + "ffn_gate.weight", [WIDTH, FORWARD])
        m.tensor(p + "ffn_up.weight", [WIDTH, FORWARD])
        m.tensor(p + "ffn_down.weight", [FORWARD, WIDTH])


def experts(m, name, p):
    m.tensor(p + "ffn_gate_inp.weight", [WIDTH, EXPERTS], "F32")
    m.tensor(p + "ffn_gate_exps.weight", [WIDTH, EXPERT_FORWARD, EXPERTS])
    m.tensor(p + "ffn_up_exps.weight", [WIDTH, EXPERT_FORWARD, EXPERTS])
    m.tensor(p + "ffn_down_exps.weight", [EXPERT_FORWARD, WIDTH, EXPERTS])
    if name == "gpt-oss":
        m.bias(p + "ffn_gate_inp.bias", [EXPERTS])
        m.bias(p + "ffn_gate_exps.bias", [EXPERT_FORWARD, EXPERTS])
        m.bias(p + "ffn_up_exps.bias", [EXPERT_FORWARD, EXPERTS])
        m.bias(p + "ffn_down_exps.bias", [WIDTH, EXPERTS])


def tokens():
    """Tokens that repeat in no short period."""
    return [(i * i * 31 + i * 17 + 5) % VOCAB for i in range(TOKENS)]


# Shapes of real models, for benchmarks: layers, width, forward, heads, KV heads, tied output.
SHAPES = {
    "qwen3-0.6b": (28, 1024, 3072, 16, 8, True),
    "qwen3-1.7b": (28, 2048, 6144, 16, 8, True),
    "qwen3-4b": (36, 2560, 9728, 32, 8, True),
    "qwen3-8b": (36, 4096, 12288, 32, 8, False),
}
SHAPE_VOCAB, SHAPE_HEAD_DIM = 151936, 128


def mix(kind, part, i, layers):
    """The storage type that llama.cpp's quantiser chooses in this kind of file."""
    if kind == "Q8_0":
        return kind
    if part == "embedding":
        return "Q6_K"
    # Value and down projections of the outer eighths and every third layer between.
    more = i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2
    return "Q6_K" if part in ("attn_v", "ffn_down") and more else "Q4_K"


def shape(name, kind):
    """A recipe of the size of a real model, stored as Q8_0 or Q4_K_M."""
    layers, width, forward, heads, kv_heads, tied = SHAPES[name]
    m = Maker("qwen3", kind)
    for key, value in {
        "block_count": layers, "context_length": 40960, "embedding_length": width, "feed_forward_length": forward,
        "attention.head_count": heads, "attention.head_count_kv": kv_heads, "attention.key_length": SHAPE_HEAD_DIM,
        "attention.value_length": SHAPE_HEAD_DIM, "rope.dimension_count": SHAPE_HEAD_DIM, "vocab_size": SHAPE_VOCAB,
    }.items():
        m.key(key, "u32", value)
    m.key("attention.layer_norm_rms_epsilon", "f32", 1e-6)
    m.key("rope.freq_base", "f32", 1000000.0)
    for tensor in ["token_embd.weight"] + ["output.weight"] * (not tied):
        m.tensor(tensor, [width, SHAPE_VOCAB], mix(kind, "embedding", 0, layers), 0.02)
    m.norm("output_norm.weight", width)
    q, kv = heads * SHAPE_HEAD_DIM, kv_heads * SHAPE_HEAD_DIM
    parts = {
        "attn_q": (width, q), "attn_k": (width, kv), "attn_v": (width, kv), "attn_output": (q, width),
        "ffn_gate": (width, forward), "ffn_up": (width, forward), "ffn_down": (forward, width),
    }
    for i in range(layers):
        for part, n in {"attn_norm": width, "attn_q_norm": SHAPE_HEAD_DIM, "attn_k_norm": SHAPE_HEAD_DIM, "ffn_norm": width}.items():
            m.norm(f"blk.{i}.{part}.weight", n)
        for part, dims in parts.items():
            m.tensor(f"blk.{i}.{part}.weight", list(dims), mix(kind, part, i, layers))
    return {"name": f"{name}-{kind.lower()}", "seed": 1, "vocabulary": SHAPE_VOCAB, "metadata": m.metadata, "tensors": m.tensors}
