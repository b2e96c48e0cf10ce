#!/usr/bin/env bash
# A host that sells what somebody else's server runs: llama-cpp-python's own
# OpenAI-compatible server with the pocket model, once with the model's file as
# `tokenizer` and once by its name alone. A buyer buys both over a real channel; the
# texts are equal, the bundles check and say that nothing can be computed again.
#
# FREEHOLD_PEER: environment with llama-cpp-python, as `llama_cpp.sh` makes it [a cache folder]
# FREEHOLD_BINARY: the binary to check [built from this checkout]
set -euo pipefail
cd "$(dirname "$0")/../../.."

peer=${FREEHOLD_PEER:-${XDG_CACHE_HOME:-$HOME/.cache}/freehold-ci/llama-cpp}
"$peer/bin/python" -c 'import llama_cpp' || { echo "run llama_cpp.sh first: it builds the peer" >&2; exit 1; }
"$peer/bin/pip" install --quiet --disable-pip-version-check \
    uvicorn fastapi pydantic-settings sse-starlette starlette-context

binary=${FREEHOLD_BINARY:-}
if [ -z "$binary" ]; then
    cargo build --release --workspace --bins
    binary=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)/freehold
fi

stage=$(mktemp -d)
pids=()
cleanup() {
    status=$?
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [ $status -ne 0 ]; then tail -n 40 "$stage"/*.log 2>/dev/null || true; fi
    rm -rf "$stage"
}
trap cleanup EXIT

# Waits up to two minutes for a condition, as long as a process lives.
await() {
    local what=$1 pid=$2
    shift 2
    for _ in $(seq 1 240); do
        "$@" >/dev/null 2>&1 && return 0
        kill -0 "$pid" || { echo "$what ended early" >&2; return 1; }
        sleep 0.5
    done
    echo "$what did not get ready in two minutes" >&2
    return 1
}

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$peer/bin/python" -m llama_cpp.server --model kernels/pocket/pocket.gguf --model_alias theirs \
    --n_ctx 512 --n_threads 1 --host 127.0.0.1 --port "$port" >"$stage/server.log" 2>&1 &
pids+=($!)
await "the server" "$!" curl -sf "http://127.0.0.1:$port/v1/models"

"$binary" --dir "$stage/lab" --json lab up --nodes 2 --leave-stopped >"$stage/lab.json" 2>"$stage/lab.log" &
pids+=($!)
await "the lab" "$!" test -s "$stage/lab.json"

python3 - "$stage/lab/host/freehold.toml" "$port" "$PWD/kernels/pocket/pocket.gguf" <<'EOF'
import pathlib, sys

path, port, file = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
text = path.read_text()
old = '[[models]]\npath = "pocket"\n'
assert old in text, text
runner = f'[[models]]\nrunner = "http://127.0.0.1:{port}/v1"\nrunner_model = "theirs"\ncontext = 512\n'
text = text.replace(old, f'{runner}name = "by file"\ntokenizer = "{file}"\n\n{runner}name = "by name"\n', 1)
path.write_text(text)
EOF
"$binary" --dir "$stage/lab/host" models | tee "$stage/models.txt"
[ "$(grep -c 'runner, not replayable' "$stage/models.txt")" -eq 2 ]

for node in host buyer; do
    "$binary" --dir "$stage/lab/$node" up >"$stage/$node.log" 2>&1 &
    pids+=($!)
done
sells() { "$binary" --dir "$stage/lab/buyer" hosts | grep 'by name'; }
await "the host" "$!" sells
"$binary" --dir "$stage/lab/buyer" hosts

for model in "by file" "by name"; do
    "$binary" --dir "$stage/lab/buyer" ask --yes --max-tokens 40 --temperature 0 --model "$model" \
        --save-bundle "$stage/$model.json" "What is freehold?" >"$stage/$model.txt" 2>"$stage/$model.log"
    cat "$stage/$model.txt" "$stage/$model.log"
    # The books agree and nothing can be computed again: exit code 1, and it says why.
    if "$binary" --dir "$stage/lab/buyer" replay "$stage/$model.json" >"$stage/$model.replay" 2>&1; then exit 1; fi
    grep "names no numerics" "$stage/$model.replay"
done
cmp "$stage/by file.txt" "$stage/by name.txt"
echo "runner: both answers bought, paid and checked"
