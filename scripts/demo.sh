#!/usr/bin/env bash
# Installs what is missing, builds, and runs the demo. KEEP=1 leaves the lab up; HOSTS=1 is the short form.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${HOSTS:-3}" = 1 ]; then set=single; else set=demo; fi
scripts/setup.sh build $set
scripts/build.sh
args=(--hosts "${HOSTS:-3}")
[ "${KEEP:-0}" = 0 ] || args+=(--keep)
MARGAY_BIN_DIR="$PWD/dist/bin" exec scripts/as-root.sh dist/bin/margay-demo "${args[@]}"
