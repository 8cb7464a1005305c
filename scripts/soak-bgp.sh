#!/usr/bin/env bash
# The soak of the speaker's tests at full length: SECS seconds (600), a million routes, and BURNERS
# processes (2) that take what they can get of the processors.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build test
export MARGAY_SOAK_SECS=${SECS:-600} MARGAY_SOAK_ROUTES=${ROUTES:-1000000}
export MARGAY_SOAK_BURNERS=${BURNERS:-2}
exec scripts/cargo-test.sh --release -p margay-speaker --test interop -- --exact soak::sessions_stay_up_under_load --nocapture
