#!/usr/bin/env bash
# Makes a container image of the programs from nothing (no base image, no docker): an OCI layout in a tar, which
# `podman load`, `ctr image import`, `skopeo copy oci-archive:...` and `docker load` (25 and later) take. When it builds the
# programs by itself, it packs them, static as they are, into a .tar.gz beside it as well.
#
#   scripts/image.sh [DIRECTORY OF STATIC PROGRAMS] [DIRECTORY FOR THE IMAGE]
#
# Without a directory it builds them: with musl where Rust's library and a C compiler for it can be had (Debian: musl-tools),
# else with glibc, which then looks up no host names (addresses of etcd must be numbers). The same programs make the same image, to the byte.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${1:-}
out=${2:-dist}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

if [ -z "$bin" ]; then
  . scripts/remap.sh
  host=$(rustc -vV | sed -n 's/^host: //p')
  target=${host%%-*}-unknown-linux-musl
  has() { [ -d "$(rustc --print target-libdir --target "$1" 2>/dev/null)" ]; }
  has "$target" || { command -v rustup >/dev/null && rustup target add "$target" >&2; } || true
  if ! has "$target" || ! command -v musl-gcc >/dev/null; then
    echo "image: no Rust library or no C compiler for $target: linked with glibc, addresses of etcd must be numbers" >&2
    target=$host
  fi
  RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
    cargo build --release --locked --target "$target" -p margay-agent -p margay-ctl -p margay-cni-shim -p margay-speaker-daemon >&2
  bin=target/$target/release
  static=1
fi
for program in margayd margayctl margay-cni; do
  [ -x "$bin/$program" ] || { echo "image: $bin/$program is not there" >&2; exit 1; }
  if readelf -l "$bin/$program" | grep -q 'Requesting program interpreter'; then
    [ "${ALLOW_DYNAMIC:-}" = 1 ] || { echo "image: $bin/$program is not static, and an empty image has no libraries" >&2; exit 1; }
  fi
done
case $(uname -m) in
  x86_64) arch=amd64 ;;
  aarch64) arch=arm64 ;;
  *) arch=$(uname -m) ;;
esac
version=$("$bin/margayd" --version | cut -d' ' -f2)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root layout=$work/layout
install -Dm755 -t "$root/usr/bin" "$bin"/{margayd,margayctl}
install -Dm755 -t "$root/opt/cni/bin" "$bin/margay-cni"
install -Dm644 -t "$root/usr/share/margay/cni" deploy/cni/10-margay.conflist
install -Dm644 -t "$root/usr/share/doc/margay" LICENSE
# A program without a place for temporary files fails in odd ways.
install -dm1777 "$root/tmp"
install -dm755 "$root"/{etc/margay,run/margay,run/netns,var/lib/margay,host/proc/sys/net,proc,sys,dev}
# Runtimes name network namespaces by this older path.
ln -s ../run "$root/var/run"

mkdir -p "$layout/blobs/sha256"
# Puts a file where its digest says and prints digest and size.
blob() {
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat -c %s "$1")
  mv "$1" "$layout/blobs/sha256/$digest"
  echo "$digest $size"
}
archive() {
  tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=posix \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -C "$1" -cf "$2" .
}
archive "$root" "$work/layer.tar"
diff_id=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
gzip -9n "$work/layer.tar"
read -r layer layer_size <<<"$(blob "$work/layer.tar.gz")"

created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
cat >"$work/config.json" <<JSON
{"architecture":"$arch","os":"linux","created":"$created",
"config":{"Entrypoint":["/usr/bin/margayd"],"Cmd":["--config","/etc/margay/margayd.yaml"],
"Env":["PATH=/usr/bin:/opt/cni/bin"],"WorkingDir":"/",
"Labels":{"org.opencontainers.image.title":"margay","org.opencontainers.image.version":"$version",
"org.opencontainers.image.licenses":"Apache-2.0"}},
"rootfs":{"type":"layers","diff_ids":["sha256:$diff_id"]},
"history":[{"created":"$created","created_by":"scripts/image.sh"}]}
JSON
read -r config config_size <<<"$(blob "$work/config.json")"
cat >"$work/manifest.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$config_size},
"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$layer","size":$layer_size}]}
JSON
read -r manifest manifest_size <<<"$(blob "$work/manifest.json")"
echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
cat >"$layout/index.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[
{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$manifest_size,
"platform":{"architecture":"$arch","os":"linux"},
"annotations":{"org.opencontainers.image.ref.name":"margay:$version","io.containerd.image.name":"localhost/margay:$version"}}]}
JSON
mkdir -p "$out"
image=$out/margay-$version-$arch.oci.tar
archive "$layout" "$image"
echo "$image"

# The same programs by themselves, for any Linux with a kernel of this architecture.
if [ "${static:-}" = 1 ]; then
  programs=$work/margay-$version
  install -Dm755 -t "$programs" "$bin"/{margayd,margayctl,margay-cni,margay-speaker}
  install -Dm644 -t "$programs" LICENSE
  mkdir "$work/programs" && mv "$programs" "$work/programs"
  archive "$work/programs" "$work/programs.tar"
  gzip -9nc "$work/programs.tar" >"$out/margay-$version-$arch-static.tar.gz"
  echo "$out/margay-$version-$arch-static.tar.gz"
fi
