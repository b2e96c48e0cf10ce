"""Write the golden vectors: recipes with the logits that llama.cpp gives for them.

Usage: golden.py FOLDER   (kernels/tests/vectors)

Each vector is a recipe (recipes.py) and llama.cpp's logits after two of its tokens;
kernels/tests/golden.rs makes the same bytes from the recipe and compares. Vectors
change only where a recipe changes or is added.
"""

import json
import pathlib
import sys
import tempfile

import llama_cpp

import peer
import recipes
import weights

# Every architecture plainly stored, then every storage type in one architecture, then
# what people run of the ones with experts.
VECTORS = [(name, "F32") for name in recipes.ARCHITECTURES]
VECTORS += [("qwen3", ty) for ty in recipes.TYPES if ty != "F32"]
VECTORS += [("llama", "Q4_K"), ("gemma3", "Q4_0"), ("qwen3moe", "Q4_K"), ("gpt-oss", "MXFP4")]
# After the first window and after everything.
AFTER = [recipes.WINDOW, recipes.TOKENS - 1]


def vector(name, ty, stage):
    recipe = recipes.recipe(name, ty)
    path = stage / "model.gguf"
    weights.write(recipe, path)
    engine = peer.Peer(path)
    rows = engine.logits(recipe["tokens"])
    engine.close()
    recipe["engine"] = f"llama.cpp of llama-cpp-python {llama_cpp.__version__}"
    # Six digits: the engines differ from the fourth or fifth on.
    recipe["logits"] = [{"after": i, "row": [float(f"{x:.6g}") for x in rows[i]]} for i in AFTER]
    return recipe


def text(recipe):
    """JSON with one tensor, key or row a line."""
    lines = []
    for key, value in recipe.items():
        if key in ("metadata", "tensors", "logits"):
            inner = ",\n".join("  " + json.dumps(item, separators=(",", ":"), ensure_ascii=True) for item in value)
            lines.append(f'"{key}": [\n{inner}\n]')
        else:
            lines.append(f'"{key}": {json.dumps(value, separators=(",", ":"))}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as stage:
        for name, ty in VECTORS:
            recipe = vector(name, ty, pathlib.Path(stage))
            (folder / f"{recipe['name']}.json").write_text(text(recipe))
            print(recipe["name"])


main()
