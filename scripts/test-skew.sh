#!/usr/bin/env bash
# Programs of an earlier version beside those of this one. The earlier version's own demo checks them, so that nothing is
# asked of it that it never knew: with its agents and our commands, with our agents and its commands (the agents then
# read a configuration of its time), with one agent of it among ours on the same etcd, and with an agent of one version
# that is killed and followed by one of the other.
#
#   scripts/test-skew.sh REVISION        a tag or a commit; the last tag unless said
#
# It is built in target/skew, where a second run finds it built. The logs stay there.
set -euo pipefail
cd "$(dirname "$0")/.."

revision=${1:-$(git describe --tags --abbrev=0 2>/dev/null || true)}
[ -n "$revision" ] || { echo "test-skew: there is no tag yet: name a commit, as in make test-skew REV=HEAD~50" >&2; exit 2; }
commit=$(git rev-parse --verify --quiet "$revision^{commit}") ||
  { echo "test-skew: $revision is no commit of this repository" >&2; exit 2; }

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
skew=$target/skew
sources=$skew/sources
new=$target/debug
old=$skew/programs/$commit
programs=(margayd margayctl margay-cni margay-demo)
build() {
  cargo build --locked -p margay-agent -p margay-ctl -p margay-cni-shim -p margay-lab "${programs[@]/#/--bin=}"
}

build
if [ ! -x "$old/margay-demo" ]; then
  rm -rf "$sources"
  mkdir -p "$sources" "$old"
  git archive "$commit" | tar -x -C "$sources"
  (cd "$sources" && CARGO_TARGET_DIR=$skew/build build)
  for program in "${programs[@]}"; do cp "$skew/build/debug/$program" "$old/"; done
fi

# A folder of programs: the agent, then the commands.
programs() {
  local dir=$skew/$1
  rm -rf "$dir"
  mkdir -p "$dir"
  ln -s "$3/margayctl" "$3/margay-cni" "$dir/"
  case $2 in
    /*) ln -s "$2/margayd" "$dir/margayd" ;;
    *) printf '#!/bin/sh\n%s\n' "$2" >"$dir/margayd" && chmod +x "$dir/margayd" ;;
  esac
}
# `margayd --config FILE`: the file is in a folder that has the host's name.
by_host="case \$2 in */h2/*) exec $old/margayd \"\$@\" ;; *) exec $new/margayd \"\$@\" ;; esac"
first_then() { echo "[ ! -e \"\$2.ran\" ] || exec $2/margayd \"\$@\"; : >\"\$2.ran\"; exec $1/margayd \"\$@\""; }

programs old-agents "$old" "$new"
programs old-commands "$new" "$old"
programs old-among-new "$by_host" "$new"
programs upgrade "$(first_then "$old" "$new")" "$new"
programs downgrade "$(first_then "$new" "$old")" "$old"

failed=0
for way in old-agents old-commands old-among-new upgrade downgrade; do
  log=$skew/$way.log
  if MARGAY_BIN_DIR=$skew/$way scripts/as-root.sh "$old/margay-demo" --hosts 3 >"$log" 2>&1; then word=ok; else
    word=FAIL failed=1
    grep -E '^ +FAIL|^demo' "$log" | sed 's/^/  /' || tail -5 "$log"
  fi
  echo "test-skew: $word $way, $revision: $(sed -n 's/^demo: \(.*checks.*\)/\1/p' "$log")"
done
exit $failed
