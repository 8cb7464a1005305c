#!/usr/bin/env bash
# From the package to the dashboard on a Debian that has nothing but the base system, what the package depends on, and what
# the book says to install beside it: made by debootstrap, once, in target/fresh-debian.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "test-fresh: needs root" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "test-fresh: needs the Debian package debootstrap" >&2; exit 1; }

fresh=$(realpath -m "${CARGO_TARGET_DIR:-target}/fresh-debian")
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
if [ ! -d "$fresh" ]; then
  needs=$(sed -n 's/^Depends: libc6 ([^)]*), //p' scripts/deb.sh | tr -d ' ')
  debootstrap --variant=minbase --include="$needs,iproute2,etcd-server,etcd-client,prometheus" "$release" "$fresh.new"
  mv "$fresh.new" "$fresh"
fi
cargo build --workspace --bins --locked
MARGAY_DEBIAN_ROOT=$fresh cargo test --locked -p margay-lab --test package fresh -- --nocapture
