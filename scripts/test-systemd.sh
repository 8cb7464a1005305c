#!/bin/bash
# The units of the package under a real systemd, process 1 of a machine to be thrown away: this host's files below an overlay, and
# namespaces of its own for everything. What it does there is in scripts/test-systemd-inside.sh. Two minutes after the build;
# programs are those in MARGAY_BIN_DIR, else release programs that it builds.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "test-systemd: needs root" >&2; exit 1; }
[ -x /lib/systemd/systemd ] || { echo "test-systemd: needs the Debian package systemd" >&2; exit 1; }
[ -n "${MARGAY_BIN_DIR:-}" ] || scripts/build.sh

dir=$(mktemp -d)
mkdir "$dir/job"
deb=$(DEB_COMPRESSION=none scripts/deb.sh "${MARGAY_BIN_DIR:-dist/bin}" "$dir/job")
install -m 755 scripts/test-systemd-inside.sh "$dir/job/inside.sh"
cat >"$dir/job/job.service" <<UNIT
[Service]
Type=oneshot
ExecStart=/bin/bash -c '/job/inside.sh /job/$(basename "$deb"); echo \$? >/job/ended'
ExecStopPost=/bin/systemctl exit --no-block
StandardOutput=append:/job/log
StandardError=append:/job/log
TimeoutStartSec=infinity
UNIT

# A group of its own, which is the root of what systemd sees.
unified=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
group=$unified/margay-systemd-$$
mkdir "$group"
finish() {
	kill "$follower" "$machine" 2>/dev/null || true
	wait "$machine" 2>/dev/null || true
	# Processes that were killed are counted for a moment.
	for _ in $(seq 50); do
		find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
		sleep 0.1
	done
	rm -rf "$dir"
}
follower= machine=
trap finish EXIT
touch "$dir/job/log"
tail -f "$dir/job/log" &
follower=$!

cat >"$dir/start.sh" <<START
set -e
mount -t tmpfs copy "$dir"/root
mkdir "$dir"/root/{upper,work,new}
cd "$dir"/root/new
mount -t overlay copy -o lowerdir=/,upperdir=../upper,workdir=../work .
cd "$dir"/root/new
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sys sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t tmpfs run run
mkdir job old
mount --bind "$dir"/job job
# Of what this host has enabled nothing is to run there.
rm -rf etc/systemd/system etc/fstab
mkdir etc/systemd/system
cp job/job.service etc/systemd/system
pivot_root . old
umount -l old
export container=margay-test
exec /lib/systemd/systemd --system --unit=job.service --log-target=journal --show-status=0
START
mkdir "$dir/root"
(
	echo "$BASHPID" >"$group/cgroup.procs"
	exec unshare --mount --propagation private --uts --ipc --net --cgroup --pid --fork --kill-child bash "$dir/start.sh"
) </dev/null >"$dir/systemd.log" 2>&1 &
machine=$!
wait "$machine" || true
sleep 0.5
[ "$(cat "$dir/job/ended" 2>/dev/null)" = 0 ] || { cat "$dir/systemd.log" >&2; exit 1; }
