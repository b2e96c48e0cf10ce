#!/usr/bin/env bash
# The CUDA kernels through NVIDIA's own compiler, without a GPU: every kernel compiles
# for Ampere, Hopper and Blackwell without spilling registers, and the PTX that ships
# with the engine is what that compiler makes of the sources.
#
# Installs the compiler (two versions of the PyPI package nvidia-cuda-nvrtc-cu12) into
# a temporary virtual environment; needs python3 with venv.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The newest knows Blackwell; the oldest writes PTX that drivers from early 2023 take.
check=12.9.86
write=12.1.105

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
python3 -m venv "$stage/venv"
for version in "$check" "$write"; do
    "$stage/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
        --target "$stage/$version" "nvidia-cuda-nvrtc-cu12==$version"
done

# With the features of the whole workspace, so that nothing is built twice.
cargo build --release --workspace --bins
ptx=${CARGO_TARGET_DIR:-target}/release/ptx
LD_LIBRARY_PATH="$stage/$check/nvidia/cuda_nvrtc/lib" "$ptx" check sm_80 sm_90 sm_120
LD_LIBRARY_PATH="$stage/$write/nvidia/cuda_nvrtc/lib" "$ptx" compare
