#!/usr/bin/env bash
# Writes what the programs are made of: an SBOM in the format CycloneDX 1.5, of the packages in Cargo.lock that are in a
# build for this machine.
#
#   scripts/sbom.sh [FILE]        dist/margay.cdx.json unless said otherwise
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist/margay.cdx.json}
mkdir -p "$(dirname "$out")"
host=$(rustc -vV | sed -n 's/^host: //p')
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
cargo metadata --format-version 1 --locked --offline --filter-platform "$host" |
  jq --arg time "$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" '
    def purl: "pkg:cargo/\(.name)@\(.version)";
    (.packages | map({key: .id, value: .}) | from_entries) as $all
    | [.workspace_members[] as $id | $all[$id]] as $own
    # What is only there for tests is not in a program.
    | ([.resolve.nodes[] | {key: .id, value: [.deps[]
        | select(any(.dep_kinds[]; .kind != "dev")) | .pkg]}] | from_entries) as $uses
    | def reach($todo; $seen): if $todo == [] then $seen else
        ([$todo[] | $uses[.] // [] | .[]] | unique) - $seen as $new | reach($new; $seen + $new) end;
      ([$own[] | select(.targets | any(.kind[] == "bin")) | select(.name != "margay-lab") | .id]) as $roots
    | reach($roots; $roots) as $in
    | {bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
       metadata: {timestamp: $time, component: {type: "application", name: "margay", version: $own[0].version,
         licenses: [{expression: "Apache-2.0"}]}},
       components: [$in[] as $id | $all[$id] | select(.source != null)
         | {type: "library", "bom-ref": purl, name, version, purl: purl,
            licenses: (if .license then [{expression: (.license | gsub("/"; " OR "))}] else [] end)}] | sort_by(.purl),
       dependencies: [$in[] as $id | $all[$id] | {ref: purl,
         dependsOn: ([$uses[$id][] | $all[.] | purl] | unique)}] | sort_by(.ref)}' >"$out"
echo "$out"
