#!/usr/bin/env bash
# Policy: the kernel drivers by themselves, then an agent with etcd.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build test demo
scripts/build.sh
if [ "${1:-}" != agent ]; then
  cargo bench -p margay-dataplane --bench policy --locked -- "$@"
fi
# Of the agent, not of the disk.
[ -n "${TMPDIR:-}" ] || [ ! -w /dev/shm ] || export TMPDIR=/dev/shm
MARGAY_BIN_DIR="$PWD/dist/bin" scripts/as-root.sh target/release/margay-bench-dataplane
MARGAY_BIN_DIR="$PWD/dist/bin" exec scripts/as-root.sh target/release/margay-bench-dataplane handover
