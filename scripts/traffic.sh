#!/usr/bin/env bash
# Builds as for a release and counts packets across restarts and changes; the argument is how many times each.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build test demo
scripts/build.sh
MARGAY_BIN_DIR="$PWD/dist/bin" exec scripts/as-root.sh target/release/margay-traffic "$@"
