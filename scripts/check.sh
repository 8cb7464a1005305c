#!/usr/bin/env bash
# The fast inner loop: format, lints, unit tests.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build
cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
# A release builds it by itself, without what others of the workspace ask of its crates.
cargo check -p margay-cni-shim --locked
# Where it is installed. Licences, sources and wildcards are held by ctl/tests/shipping.rs as well, advisories are not.
if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; fi
scripts/cargo-test.sh --workspace --lib --bins
