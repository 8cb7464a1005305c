#!/bin/sh
# Runs the tests of tunnel devices on a Debian kernel in a virtual machine: it has the drivers that the running kernel may
# lack (IP in IP). Three minutes without acceleration.
set -eu
cd "$(dirname "$0")/.."
program=$(cargo test -p margay-dataplane --lib --no-run --message-format=json |
	jq -r 'select(.target.name == "margay_dataplane" and .profile.test) | .executable // empty')
exec scripts/other-kernel.sh "veth bridge vxlan ipip" "$program" --nocapture overlay::
