"""The rule that turns a recipe into bytes, and a GGUF file of it.

Integers and powers of two only, so that anybody gets the same bytes:
- Words are SplitMix64 (Steele, Lea, Flood 2014) from seed XOR fnv1a64(tensor name).
- F32, F16, BF16: k = sum of a word's four 16-bit parts - 131070; the weight is
  centre + k * 2^e (F32), (k >> 7) * 2^(e+7) (F16), (k >> 10) * 2^(e+10) (BF16).
- Block types: the words' bytes, little-endian, are the codes. Then each scale of a
  block is overwritten: f16 with exponent field e + offset and ten bits of mantissa
  from a second run of words (seed XOR SCALES), one word a block; a negative minimum
  where the type adds it. MXFP4: the byte e + lowest bit of the word.
"""

import gguf
import numpy as np

GOLDEN, SCALES = 0x9E3779B97F4A7C15, 0x5CA1E5
# Byte of a scale in the block, what is added to its exponent, and its sign.
FIELDS = {
    "Q4_0": [(0, 0, 0)], "Q5_0": [(0, 0, 0)], "Q8_0": [(0, 0, 0)], "IQ4_NL": [(0, 0, 0)], "IQ4_XS": [(0, 0, 0)],
    "Q6_K": [(208, 0, 0)], "Q4_1": [(0, 0, 0), (2, 3, 1)], "Q5_1": [(0, 0, 0), (2, 4, 1)],
    "Q4_K": [(0, 0, 0), (2, 3, 0)], "Q5_K": [(0, 0, 0), (2, 4, 0)],
}


def words(state, n):
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.uint64(GOLDEN) * np.arange(1, n + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def fnv1a(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def plain(tensor, state, n):
    w = words(state, n)
    k = sum((w >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4)).astype(np.int64) - 131070
    ty, e = tensor["type"], tensor["exponent"]
    if ty == "F32":
        return (tensor["centre"] + k * 2.0**e).astype(np.float32)
    if ty == "F16":
        return ((k >> 7) * 2.0 ** (e + 7)).astype(np.float16)
    bits = ((k >> 10) * 2.0 ** (e + 10)).astype(np.float32).view(np.uint32)
    return (bits >> 16).astype(np.uint16)


def blocks(tensor, state, n):
    ty, e = tensor["type"], tensor["exponent"]
    length, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[ty]]
    count = n // length
    total = count * size
    data = words(state, -(-total // 8)).view(np.uint8)[:total].reshape(count, size).copy()
    drawn = words(state ^ SCALES, count)
    if ty == "MXFP4":
        data[:, 0] = e + (drawn & np.uint64(1)).astype(np.int64)
        return data
    for i, (at, more, sign) in enumerate(FIELDS[ty]):
        mantissa = ((drawn >> np.uint64(10 * i)) & np.uint64(0x3FF)).astype(np.uint16)
        scale = np.uint16(sign << 15 | (e + more) << 10) | mantissa
        data[:, at : at + 2] = scale[:, None].view(np.uint8)
    return data


def fill(tensor, seed):
    """The tensor's data, rows first, as the gguf package wants it."""
    shape = tensor["dims"][::-1]
    n = int(np.prod(shape))
    state = seed ^ fnv1a(tensor["name"])
    if tensor["type"] in ("F32", "F16", "BF16"):
        return plain(tensor, state, n).reshape(shape)
    return blocks(tensor, state, n).reshape(*shape[:-1], -1)


def byte_chars():
    """The characters that stand for bytes in a byte-level vocabulary (GPT-2)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {b: chr(b) for b in visible}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + extra)
            extra += 1
    return [table[b] for b in range(256)]


def vocabulary(size):
    """Byte tokens, one merge, an end token, fillers: texts, kinds, merges, end."""
    chars = byte_chars()
    texts = [*chars, chars[ord("t")] + chars[ord("h")], "<|end|>"]
    kinds = [1] * 257 + [3]
    while len(texts) < size:
        kinds.append(5)
        texts.append(f"[PAD{len(texts)}]")
    return texts, kinds, [f"{chars[ord('t')]} {chars[ord('h')]}"], 257


def write(recipe, path, change=lambda tensor, data: (data, tensor["type"])):
    """Write a recipe as a GGUF file. `change` may give other data for a tensor."""
    out = gguf.GGUFWriter(path, recipe["metadata"][0][2])
    add = {"u32": out.add_uint32, "f32": out.add_float32, "bool": out.add_bool, "str": out.add_string, "u32s": out.add_array}
    for key, kind, value in recipe["metadata"][1:]:
        add[kind](key, value)
    out.add_name(recipe["name"])
    texts, kinds, merges, end = vocabulary(recipe["vocabulary"])
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list(texts)
    out.add_token_types(kinds)
    out.add_token_merges(merges)
    out.add_eos_token_id(end)
    out.add_bos_token_id(end)
    out.add_add_bos_token(False)
    for tensor in recipe["tensors"]:
        data, ty = change(tensor, fill(tensor, recipe["seed"]))
        out.add_tensor(tensor["name"], data, raw_dtype=gguf.GGMLQuantizationType[ty])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
