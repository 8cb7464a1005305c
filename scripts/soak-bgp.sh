#!/usr/bin/env bash
# The soak of the speaker's tests at full length: SECS seconds (600), a million routes.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build test
export MARGAY_SOAK_BFD_MS=50 MARGAY_SOAK_SECS=${SECS:-600} MARGAY_SOAK_ROUTES=${ROUTES:-1000000}
exec scripts/cargo-test.sh --release -p margay-speaker --test interop -- --exact soak::sessions_stay_up_under_load --nocapture
