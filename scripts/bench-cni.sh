#!/usr/bin/env bash
# Builds as for a release and measures CNI calls beside the reference plugins; arguments go to the benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build test
scripts/build.sh
# A cluster's etcd writes to a disk.
export TMPDIR="${TMPDIR:-/tmp}"
MARGAY_BIN_DIR="$PWD/dist/bin" exec scripts/as-root.sh target/release/margay-bench-cni "$@"
