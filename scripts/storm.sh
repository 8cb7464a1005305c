#!/usr/bin/env bash
# The storm over address management at full size: CALLS calls (100000), SEED chooses another course.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build demo
. scripts/remap.sh
cargo build --release --locked -p margay-lab --bin margay-ipam-storm
# Three members that sync to one disk measure the disk; nobody unplugs this machine.
[ -n "${TMPDIR:-}" ] || [ ! -w /dev/shm ] || export TMPDIR=/dev/shm
[ -z "${SEED:-}" ] || export MARGAY_STORM_SEED=$SEED
exec target/release/margay-ipam-storm --calls "${CALLS:-100000}"
