#!/usr/bin/env bash
# Installs the Debian packages that are missing; elsewhere names them and stops.
#
#   scripts/setup.sh [--check] [build|image|single|demo|test|vm]...     everything if nothing is named
#
# A package counts as there when its program is, however it came. No service is left running: the demo and
# the tests start copies of their own.
set -euo pipefail
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# set:package:program or file
needs="
build:make:make
build:binutils:objdump
build:gcc:cc
build:libc6-dev:/usr/include/stdio.h
build:protobuf-compiler:protoc
demo:etcd-server:etcd
demo:etcd-client:etcdctl
demo:bird2:bird
single:iptables:iptables
single:ipset:ipset
single:iproute2:ip
single:procps:sysctl
single:util-linux:nsenter
single:conntrack:conntrack
test:frr:/usr/lib/frr/bgpd
test:gobgpd:gobgpd
test:bgpdump:bgpdump
test:exabgp:exabgp
test:openbgpd:/usr/sbin/bgpctl
test:iputils-ping:ping
test:nftables:nft
test:tcpdump:tcpdump
test:jq:jq
test:containernetworking-plugins:/usr/lib/cni/ptp
test:openssl:openssl
test:busybox-static:busybox
test:docker.io:dockerd
test:tini:tini
test:bind9-dnsutils:dig
test:containerd:containerd
test:podman:podman
test:conmon:conmon
test:runc:runc
test:strace:strace
test:bsdutils:script
test:systemd:systemd-analyze
test:fish:fish
test:curl:curl
test:prometheus:promtool
test:chromium:chromium
test:zsh:zsh
test:npm:npm
test:python3-venv:python3
image:musl-tools:musl-gcc
vm:qemu-system-x86:qemu-system-x86_64
vm:cpio:cpio
vm:kmod:depmod
vm:xz-utils:xz
"

check=no
sets=()
for word in "$@"; do
  case $word in
    --check) check=yes ;;
    build | image | single) sets+=("$word") ;;
    demo) sets+=(single demo) ;;
    test) sets+=(single demo test) ;;
    vm) sets+=(single demo test vm) ;;
    *) echo "setup: unknown argument $word, known are --check, build, image, single, demo, test, vm" >&2; exit 2 ;;
  esac
done
[ ${#sets[@]} -gt 0 ] || sets=(build single demo test)

missing=()
for need in $needs; do
  IFS=: read -r set package probe <<<"$need"
  case " ${sets[*]} " in *" $set "*) ;; *) continue ;; esac
  case $probe in
    /*) [ -e "$probe" ] && continue ;;
    *) command -v "$probe" >/dev/null && continue ;;
  esac
  missing+=("$package")
done

if ! command -v cargo >/dev/null; then
  echo "setup: cargo is not on the PATH; install Rust first: https://rustup.rs" >&2
  exit 1
fi
# What is no package of Debian.
tools() {
  case " ${sets[*]} " in *" test "*) "$(dirname "$0")/tools.sh" "$@" ;; esac
}
if [ ${#missing[@]} -eq 0 ]; then
  if [ $check = yes ]; then
    tools --check && echo "setup: everything is there for: ${sets[*]}"
    exit
  fi
  tools
  exit
fi
if [ $check = yes ]; then
  echo "setup: missing for ${sets[*]}: ${missing[*]}"
  tools --check || true
  exit 1
fi
if ! command -v apt-get >/dev/null; then
  echo "setup: this is not Debian; please install the programs of these Debian packages, then try again:" >&2
  printf '  %s\n' "${missing[@]}" >&2
  exit 1
fi

root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup: installing ${missing[*]} needs root, and there is no sudo" >&2; exit 1; }
  root=(sudo)
fi

echo "setup: installing ${missing[*]}"
# Keeps the packages' maintainer scripts from starting their services.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap '"${root[@]}" rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee $policy >/dev/null
  "${root[@]}" chmod 755 $policy
fi
"${root[@]}" apt-get update -q
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
if [ -d /run/systemd/system ]; then
  for service in prometheus:prometheus etcd:etcd-server bird:bird2 frr:frr gobgpd:gobgpd docker:docker.io containerd:docker.io; do
    case " ${missing[*]} " in
      *" ${service#*:} "*) "${root[@]}" systemctl disable --quiet "${service%%:*}" || true ;;
    esac
  done
fi
tools
