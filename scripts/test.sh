#!/usr/bin/env bash
# Everything: unit, property, golden, kernel and end-to-end tests.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build test
# End-to-end tests start these programs.
cargo build --workspace --bins --locked
scripts/cargo-test.sh --no-fail-fast
