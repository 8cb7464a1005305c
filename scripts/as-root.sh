#!/usr/bin/env bash
# Runs a command as root, through sudo if need be. Namespaces and routes are for root.
set -euo pipefail
if [ "$(id -u)" -eq 0 ]; then
  exec "$@"
fi
command -v sudo >/dev/null || { echo "$1 needs root, and there is no sudo" >&2; exit 1; }
exec sudo --preserve-env=MARGAY_BIN_DIR,MARGAY_SOAK_BFD_MS,MARGAY_SOAK_SECS,MARGAY_SOAK_ROUTES,RUST_LOG,RUST_BACKTRACE,NO_COLOR,TMPDIR "$@"
