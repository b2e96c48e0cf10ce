#!/usr/bin/env bash
# Holds our tokenizers and chat templates against llama.cpp's own test files: every
# vocabulary that we claim must give the ids of its vectors, line by line, and every
# template must render. The files come out of PyPI's source distribution of
# llama-cpp-python, by version and hash; nothing of it is built or kept.
# Needs cargo, python3 with venv, and pip's access to a package index.
#
# LLAMA_CPP_SOURCE: an unpacked source distribution, to save the download.
set -euo pipefail

version=0.3.36
hash=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "tokenizers.sh: $1" >&2
    exit 1
}

source=${LLAMA_CPP_SOURCE:-}
if [ -z "$source" ]; then
    python3 -m venv "$work/venv" || fail "python3 has no venv module; install python3-venv"
    pip() { PATH=$work/venv/bin:$PATH "$work/venv/bin/pip" --disable-pip-version-check "$@"; }
    # pip asks a source distribution for its metadata, and this one wants these for it.
    pip install --quiet scikit-build-core cmake ninja \
        || fail "pip cannot install scikit-build-core; is a package index reachable?"
    echo "llama-cpp-python==$version --hash=sha256:$hash" >"$work/wanted"
    pip download --quiet --require-hashes --no-deps --no-binary llama-cpp-python \
        --no-build-isolation --dest "$work" --requirement "$work/wanted" \
        || fail "pip cannot download llama-cpp-python $version with the known hash"
    tar -xzf "$work/llama_cpp_python-$version.tar.gz" -C "$work"
    source=$work/llama_cpp_python-$version
fi
models=$source/vendor/llama.cpp/models
[ -d "$models" ] || fail "$models is missing; is LLAMA_CPP_SOURCE a source distribution?"

cd "$root"
FREEHOLD_VOCABULARIES=$models cargo test --release --workspace --test vocabularies
