#!/usr/bin/env bash
# Builds all release programs into dist/bin. The CNI plugin is linked statically: container runtimes run
# it wherever they like, and it starts faster.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --locked --workspace --bins --exclude margay-cni-shim
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
  cargo build --release --locked -p margay-cni-shim --target "$target"

mkdir -p dist/bin
# Installed by renaming, so that a program that runs can be replaced.
for program in target/release/{margayd,margayctl,margay-speaker,margay-demo} \
  "target/$target/release/margay-cni"; do
  [ -f "$program" ] || continue
  install -m 755 "$program" dist/bin/.new
  mv dist/bin/.new "dist/bin/$(basename "$program")"
done
ls dist/bin
