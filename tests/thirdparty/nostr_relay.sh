#!/usr/bin/env bash
# Runs the relay suite of crate `actors` against a relay that others wrote: PyPI's
# nostr-relay, on a free port of loopback, with its own example configuration.
# Needs python3 with venv, and pip's access to a package index.
# Prints the relay's address; exits with the suite's status.
#
# NOSTR_RELAY_VENV: an existing virtual environment that has nostr-relay, to save
# the installation.
set -euo pipefail

version=1.14
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
relay_pid=

finish() {
    if [ -n "$relay_pid" ]; then
        kill "$relay_pid" 2>/dev/null || true
        wait "$relay_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT

fail() {
    echo "nostr_relay.sh: $1" >&2
    [ ! -s "$work/relay.log" ] || tail -n 40 "$work/relay.log" >&2
    exit 1
}

command -v python3 >/dev/null || fail "python3 is missing; install it"
venv=${NOSTR_RELAY_VENV:-$work/venv}
if [ ! -x "$venv/bin/nostr-relay" ]; then
    python3 -m venv "$venv" || fail "python3 has no venv module; install python3-venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "nostr-relay==$version" \
        || fail "pip cannot install nostr-relay $version; is a package index reachable?"
fi

port=$("$venv/bin/python" -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
url=ws://127.0.0.1:$port

# The package's own configuration; only the port and the database's path differ.
"$venv/bin/python" - "$work" "$port" <<'PYTHON'
import pathlib, sys
import nostr_relay

work, port = sys.argv[1:]
text = (pathlib.Path(nostr_relay.__file__).parent / "config.yaml").read_text()
database = pathlib.Path(work) / "nostr.sqlite3"
text = text.replace("sqlite+aiosqlite:///nostr.sqlite3", f"sqlite+aiosqlite:///{database}")
text = text.replace("6969", port)
pathlib.Path(work, "relay.yaml").write_text(text)
PYTHON

(cd "$work" && exec "$venv/bin/nostr-relay" -c "$work/relay.yaml" serve) >"$work/relay.log" 2>&1 &
relay_pid=$!

# Up once it serves its information document (NIP-11).
for _ in $(seq 1 300); do
    kill -0 "$relay_pid" 2>/dev/null || fail "the relay ended at once"
    if "$venv/bin/python" - "http://127.0.0.1:$port" <<'PYTHON' 2>/dev/null
import json, sys, urllib.request

request = urllib.request.Request(sys.argv[1], headers={"Accept": "application/nostr+json"})
json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=2))
PYTHON
    then
        up=yes
        break
    fi
    sleep 0.2
done
[ "${up:-}" = yes ] || fail "the relay did not answer within a minute"

echo "$url"
cd "$root"
# The whole workspace's features, as the other tests are built with: nothing is built twice.
# The lab's own relay tests bear the same name and run along.
FREEHOLD_RELAY_URL=$url cargo test --release --workspace --test relay "$@"
