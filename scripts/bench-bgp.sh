#!/usr/bin/env bash
# Builds as for a release and measures BGP speakers side by side; arguments go to the benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build test
. scripts/remap.sh
cargo build --release --locked -p margay-speaker-daemon -p margay-lab --bin margay-speaker --bin margay-bench-bgp
MARGAY_BIN_DIR="$PWD/target/release" exec scripts/as-root.sh target/release/margay-bench-bgp "$@"
