# Sourced by what builds programs for others: paths in them (of panics, of assertions of C) name no folder of this machine.
# shellcheck shell=bash
cargo_home=${CARGO_HOME:-$HOME/.cargo}
RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD=/margay --remap-path-prefix=$cargo_home=/cargo"
CFLAGS="${CFLAGS:-} -ffile-prefix-map=$PWD=/margay -ffile-prefix-map=$cargo_home=/cargo"
export RUSTFLAGS CFLAGS
