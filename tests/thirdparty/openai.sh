#!/usr/bin/env bash
# The stock `openai` client of PyPI at the gateway of a real buyer node, which buys
# from a real host over a real channel: plain and streamed answers, a budget that is
# used up before the first token (HTTP 402) and after it (an error the client raises).
#
# Installs the client into a temporary virtual environment; needs python3 with venv.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-target}
cargo build --release --workspace --bins
freehold=$(cd "$target/release" && pwd)/freehold

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

python3 -m venv "$stage/venv"
"$stage/venv/bin/pip" install --quiet --disable-pip-version-check "openai>=1,<3"

# Chain, relay and funded channels; buyer and host are then started by hand, with
# budgets that the test needs.
"$freehold" --dir "$stage/lab" --json lab up --nodes 2 --leave-stopped >"$stage/lab.json" 2>"$stage/lab.log" &
pids+=($!)
for _ in $(seq 1 1200); do
    [ -s "$stage/lab.json" ] && break
    kill -0 "${pids[0]}" || { echo "the lab ended early" >&2; exit 1; }
    sleep 0.1
done
[ -s "$stage/lab.json" ] || { echo "the lab did not get ready in two minutes" >&2; exit 1; }

python3 - "$stage/lab/buyer/freehold.toml" <<'EOF'
import pathlib, sys
path = pathlib.Path(sys.argv[1])
text = path.read_text()
text = text.replace("[gateway]\n", "[gateway]\nmax_cost = 8\n", 1)
text += """
[[gateway.keys]]
name = "rich"
key = "rich-key-of-the-test"

[[gateway.keys]]
name = "poor"
key = "poor-key-of-the-test"
per_day = 1
"""
path.write_text(text)
EOF

for node in host buyer; do
    "$freehold" --dir "$stage/lab/$node" up >"$stage/$node.log" 2>&1 &
    pids+=($!)
done
url=$(python3 -c "import json,sys; print([n['gateway'] for n in json.load(open(sys.argv[1]))['nodes'] if n['name']=='buyer'][0])" "$stage/lab.json")
GATEWAY="$url" "$stage/venv/bin/python" tests/thirdparty/openai_client.py -v
