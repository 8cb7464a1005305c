#!/usr/bin/env bash
# Makes a Debian package of the programs in dist/bin (or in $1), and prints its name.
#
#   scripts/deb.sh [DIRECTORY OF PROGRAMS] [DIRECTORY FOR THE PACKAGE]
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${1:-dist/bin}
out=${2:-dist}

for program in margayd margayctl margay-speaker margay-cni; do
  [ -x "$bin/$program" ] || { echo "deb: $bin/$program is not there: run make build first" >&2; exit 1; }
done
version=$("$bin/margayd" --version | cut -d' ' -f2)
arch=$(dpkg --print-architecture)
# The newest symbol that the programs need of glibc.
glibc=$(objdump -T "$bin"/{margayd,margayctl,margay-speaker} | sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -Vu | tail -1)
# The same sources make the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
install -Dm755 -t "$root/usr/bin" "$bin"/{margayd,margayctl,margay-speaker}
install -Dm755 -t "$root/usr/lib/cni" "$bin/margay-cni"
ln -s margayctl "$root/usr/bin/kubectl-margay"
install -Dm644 -t "$root/lib/systemd/system" deploy/systemd/{margayd,margay-speaker}.service
install -Dm640 -t "$root/etc/margay" deploy/deb/margayd.yaml
install -Dm644 -t "$root/usr/share/margay/cni" deploy/cni/10-margay.conflist
install -Dm644 -t "$root/usr/share/margay/etcd" deploy/etcd/roles
install -Dm755 -t "$root/usr/share/margay/etcd" deploy/etcd/make-roles.sh
install -Dm644 -t "$root/usr/share/margay/monitoring" deploy/monitoring/{prometheus.yaml,rules.yaml,grafana-margay.json}
install -Dm644 -t "$root/usr/share/doc/margay/examples/tor" deploy/tor/*
# So that `ip route` says "proto margay".
install -d "$root/etc/iproute2/rt_protos.d"
echo '77 margay' >"$root/etc/iproute2/rt_protos.d/margay.conf"
share=$root/usr/share
install -d "$share/bash-completion/completions" "$share/zsh/vendor-completions" "$share/fish/vendor_completions.d"
"$bin/margayctl" completion bash >"$share/bash-completion/completions/margayctl"
"$bin/margayctl" completion zsh >"$share/zsh/vendor-completions/_margayctl"
"$bin/margayctl" completion fish >"$share/fish/vendor_completions.d/margayctl.fish"
"$bin/margayctl" man "$share/man/man1" >/dev/null
gzip -9nr "$share/man/man1"
install -Dm644 LICENSE "$share/doc/margay/copyright"
install -Dm644 README.md "$share/doc/margay/README.md"

install -d "$root/DEBIAN"
install -m755 -t "$root/DEBIAN" deploy/deb/{postinst,prerm,postrm}
printf '%s\n' /etc/margay/margayd.yaml /etc/iproute2/rt_protos.d/margay.conf >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<EOF
Package: margay
Version: $version
Architecture: $arch
Maintainer: The Margay authors <margay@example.org>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: libc6 (>= $glibc), iptables, ipset
Suggests: etcd-server, containerd
Section: net
Priority: optional
Description: BGP-routed networking for containers
 One agent a host with a built-in BGP speaker: it advertises a route for each
 container, programs kernel routes and packet policy, and takes addresses from
 pools in etcd, or in a file on a single host. With it come the CNI plugin and
 the command line, which accept the resources of Calico v3.
EOF
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
deb=$out/margay_${version}_$arch.deb
dpkg-deb --root-owner-group "-Z${DEB_COMPRESSION:-xz}" --build "$root" "$deb" >/dev/null
echo "$deb"
