#!/usr/bin/env bash
# cargo test with the test programs run as root: many make network namespaces.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${target}_RUNNER=$PWD/scripts/as-root.sh"
exec cargo test --locked "$@"
