#!/usr/bin/env bash
# Everything: unit, property, golden, kernel and end-to-end tests.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build test
# End-to-end tests start these programs.
cargo build --workspace --bins --locked

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if scripts/cargo-test.sh --workspace --no-fail-fast 2>&1 | tee "$log"; then
  exit 0
fi

# Scenarios of many processes share the cores with their neighbours. What fails among them has to pass alone, and
# is named: a test that needs this is one to look at.
mapfile -t names < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log")
mapfile -t targets < <(sed -n 's/^ *`\(-p .*\)`$/\1/p' "$log")
if [ ${#names[@]} -eq 0 ] || [ ${#targets[@]} -eq 0 ] || [ ${#names[@]} -gt 5 ]; then
  exit 1
fi
echo "test: failed, tried once more alone: ${names[*]}" >&2
for target in "${targets[@]}"; do
  # shellcheck disable=SC2086 # the target is several words
  scripts/cargo-test.sh $target -- --exact "${names[@]}" --test-threads=1
done
echo "test: these passed only alone: ${names[*]}" >&2
