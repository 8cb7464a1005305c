#!/usr/bin/env bash
# The fast inner loop: format, lints, unit tests.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build
cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
scripts/cargo-test.sh --workspace --lib --bins
