#!/usr/bin/env bash
# Builds all release programs into dist/bin. The CNI plugin is linked statically: container runtimes run
# it wherever they like. It is linked with musl where that can be had, because glibc asks the CPU for its features
# at every start: under a hypervisor, where each question is a trap, that takes longer than all the plugin does.
set -euo pipefail
cd "$(dirname "$0")/.."

# Names of folders of this machine are in no program: the same sources make the same programs wherever they are.
. scripts/remap.sh

host=$(rustc -vV | sed -n 's/^host: //p')
musl=${host%%-*}-unknown-linux-musl
has() { [ -d "$(rustc --print target-libdir --target "$1" 2>/dev/null)" ]; }

plugin=$musl
if ! has "$musl" && ! { command -v rustup >/dev/null && rustup target add "$musl" && has "$musl"; }; then
  echo "build: no Rust library for $musl, the CNI plugin is linked with glibc and starts slower" >&2
  plugin=$host
fi

cargo build --release --locked --workspace --bins --exclude margay-cni-shim
# At a fixed address: nothing to relocate at start.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static -C relocation-model=static" \
  cargo build --release --locked -p margay-cni-shim --target "$plugin"

mkdir -p dist/bin
# Installed by renaming, so that a program that runs can be replaced.
for program in target/release/{margayd,margayctl,margay-speaker,margay-demo} \
  "target/$plugin/release/margay-cni"; do
  [ -f "$program" ] || continue
  install -m 755 "$program" dist/bin/.new
  mv dist/bin/.new "dist/bin/$(basename "$program")"
done
ls dist/bin
