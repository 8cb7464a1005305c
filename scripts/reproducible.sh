#!/usr/bin/env bash
# Builds the last commit twice, in two folders with names of different lengths, and compares what comes out to the byte:
# programs, Debian package, bill of materials; with IMAGE=1 the container image as well.
#
#   scripts/reproducible.sh [FOLDER]        for the builds, target/reproducible unless said otherwise
#
# What was built before in these folders is not used: that would compare nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(realpath -m "${1:-target/reproducible}")
commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

places=("$work/a" "$work/another-place")
for place in "${places[@]}"; do
  rm -rf "$place"
  mkdir -p "$place"
  git archive "$commit" | tar -x -C "$place"
  echo "reproducible: building in $place"
  (
    cd "$place"
    unset CARGO_TARGET_DIR
    # Neither the order in which work is done nor the time of day may show.
    scripts/build.sh
    scripts/deb.sh
    scripts/sbom.sh
    [ "${IMAGE:-0}" = 0 ] || scripts/image.sh
  ) >"$place.log" 2>&1 || { tail -20 "$place.log" >&2; exit 1; }
done

differ=0
cd "${places[0]}/dist"
while read -r file; do
  if cmp -s "$file" "${places[1]}/dist/$file"; then
    echo "reproducible: equal    $(sha256sum "$file" | tr -s ' ')"
  else
    echo "reproducible: DIFFERS  $file"
    differ=1
  fi
# margay-demo is in no package: it runs from the sources, and knows where they are.
done < <(find . -type f ! -name margay-demo -printf '%P\n' | sort)
exit $differ
