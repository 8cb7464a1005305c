#!/bin/sh
# Runs the tests of tunnels on a Debian kernel in a virtual machine: it has the drivers that the running kernel may lack
# (IP in IP, WireGuard). Without acceleration.
#
#   scripts/test-vm.sh            devices and packets: a quarter of an hour
#   scripts/test-vm.sh agents [TEST...]
#                                 three hosts with whole agents and etcd, release programs (those in MARGAY_BIN_DIR, else it
#                                 builds them): a quarter of an hour on two busy cores
set -eu
cd "$(dirname "$0")/.."
which=${1:-devices}
[ $# -eq 0 ] || shift

# Prints the test program of a crate.
program() {
	cargo test "$@" --no-run --message-format=json |
		jq -r 'select(.profile.test and .executable) | .executable' | tail -n 1
}

# Runs it there; whatever is said to be not run should have been.
run() {
	log=$(mktemp)
	scripts/other-kernel.sh "$@" | tee "$log"
	ended=$(grep -c '^ended with: 0' "$log" || true)
	missing=$(grep 'NOT RUN' "$log" || true)
	rm -f "$log"
	[ "$ended" = 1 ] || exit 1
	[ -z "$missing" ] || {
		echo "this kernel should have every driver: $missing" >&2
		exit 1
	}
}

modules="veth bridge vxlan ipip wireguard"
if [ "$which" = devices ]; then
	run "$modules" "$(program -p margay-dataplane --lib)" --nocapture overlay::
else
	filter="nft_ct nft_nat nft_masq nft_chain_nat nft_limit nft_log nft_reject_inet nft_fib_inet nft_connlimit
		nfnetlink_log nf_conntrack_netlink"
	# Others take several times as long where every instruction is emulated.
	[ -n "${MARGAY_BIN_DIR:-}" ] || scripts/build.sh
	tests=$(program -p margay-lab --test overlay)
	export MEMORY=3072 JOB_ENV="MARGAY_LAB_PATIENCE=12 MARGAY_BIN_DIR=${MARGAY_BIN_DIR:-$PWD/dist/bin}"
	run "$modules $filter" "$tests" --nocapture --test-threads 1 ${*:-ipip_wraps what_hosts_send}
fi
