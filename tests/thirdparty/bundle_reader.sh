#!/usr/bin/env bash
# A second reader of the evidence, in Python and written from protocol/PROTOCOL.md alone:
# it reads every golden vector, takes the bundle of an honest order that the Rust side
# writes here, and refuses each altered one for the reason it was altered.
# Needs cargo and python3; nothing is installed.
#
# Arguments are handed to `cargo test`, which builds like the other suites by default.
set -euo pipefail
cd "$(dirname "$0")/../.."

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
reader=tests/thirdparty/bundle_reader.py
failed=0

fail() {
    echo "bundle_reader.sh: $1" >&2
    failed=1
}

[ $# -gt 0 ] || set -- --release --workspace
FREEHOLD_BUNDLES=$stage cargo test "$@" --test evidence

python3 "$reader" --vectors protocol/tests/golden || fail "the golden vectors are read otherwise"

# The one that the Rust side wrote just now, and the one on file.
for file in "$stage/honest.json" protocol/tests/golden/bundle.json; do
    said=$(python3 "$reader" "$file") || fail "$file is honest: $said"
    echo "$said"
    [ "$(tail -n 1 <<<"$said")" = "Ein Käse kostet 5 €." ] || fail "$file shows another text"
done

# Each altered bundle, and what of the reason it must say.
read -r -d '' reasons <<'TABLE' || true
flipped-text                  first 8 tokens and their text
control-as-text               first 10 tokens and their text
other-token                   first 8 tokens and their text
other-logits                  first 8 tokens and their text
dropped-token                 covers 10 tokens, 9 are there
swapped-tokens                first 8 tokens and their text
broken-signature              signature of the terms is wrong
other-countersignature        message of kind Invoice
invoice-twice                 invoice 1 comes after invoice 1
receipt-for-another-network   is for network signet
receipt-for-another-buyer     for another buyer
receipt-sum                   not the one that its invoice asks for
receipt-cost                  cost of 3301 msat, it is 3300
receipt-debt                  debt of 1 msat, it is 0
receipt-count                 first 9 tokens and their text
receipt-order-of-payments     not in ascending order
receipt-payment-twice         not in ascending order
receipt-status                status is not that of the end
receipt-end                   less was delivered than ordered
receipt-budget                leaves room for one unit more
receipt-ended-by-nothing      called ended, and nothing ended it
receipt-extension-too-large   too large extensions
steps-without-number          there would be too many invoices
receipt-prices                `prices` of the receipt
receipt-head                  chain head in the receipt
receipt-extension             must be understood: 2
invoice-sum                   does not add up
invoice-amount                does not add up
invoice-below-a-step          below a step before the end
invoice-pays-another-node     pays another Lightning node
terms-of-another-order        terms are those of another order
entry-amount                  entry is above
order-too-large               17 stop strings
TABLE
while read -r name reason; do
    status=0
    said=$(python3 "$reader" "$stage/$name.json") || status=$?
    [ $status -eq 1 ] || fail "$name was not refused: $said"
    [[ $said == *"$reason"* ]] || fail "$name was refused for another reason: $said"
    rm -f "$stage/$name.json"
done <<<"$reasons"
rm -f "$stage/honest.json"
left=$(ls "$stage")
[ -z "$left" ] || fail "bundles without an expectation here: $left"
[ $failed -eq 0 ] && echo "every altered bundle was refused for its reason"
exit $failed
