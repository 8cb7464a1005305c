#!/usr/bin/env bash
# Writes what the programs are made of: an SBOM in the format CycloneDX 1.5, of the packages in Cargo.lock that are in a
# build for this machine.
#
#   scripts/sbom.sh [FILE]        dist/margay.cdx.json unless said otherwise
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist/margay.cdx.json}
mkdir -p "$(dirname "$out")"
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
# What is only there for building or for tests is not in a program.
cargo tree --locked --offline -e normal --prefix none --format '{p}|{l}|{r}' \
  -p margay-agent -p margay-ctl -p margay-cni-shim -p margay-speaker-daemon |
  sed -n 's/^\([^ ]*\) v\([^ |]*\)\( (proc-macro)\)\{0,1\}|\([^|]*\)|.*/\1\t\2\t\4/p' | sort -u |
  jq -Rn --arg time "$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" --arg version "$version" '
    {bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
     metadata: {timestamp: $time, component: {type: "application", name: "margay", version: $version,
       licenses: [{expression: "Apache-2.0"}]}},
     components: [inputs | split("\t") | {type: "library", "bom-ref": "pkg:cargo/\(.[0])@\(.[1])", name: .[0],
       version: .[1], purl: "pkg:cargo/\(.[0])@\(.[1])", licenses: [{expression: (.[2] | gsub("/"; " OR "))}]}]}' >"$out"
echo "$out"
