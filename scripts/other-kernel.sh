#!/bin/sh
# Runs a command on the kernel of this Debian release, in a virtual machine without acceleration, for what the running
# kernel has no driver for. The machine sees this host's files, read only; programs built here run there as they are.
#
#   scripts/other-kernel.sh "MODULE..." COMMAND...
#
# Needs qemu-system-x86, busybox-static, cpio, kmod and apt-get; half a minute and MEMORY (1024) MB. What is in JOB_ENV, as
# NAME=VALUE without spaces, is the command's environment.
set -eu

modules=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for program in qemu-system-x86_64 busybox cpio depmod modprobe; do
	command -v "$program" >/dev/null || {
		echo "NOT RUN: there is no $program; install qemu-system-x86 busybox-static cpio kmod" >&2
		exit 77
	}
done

cache=${XDG_CACHE_HOME:-$HOME/.cache}/margay-kernel
package=$(apt-cache depends linux-image-amd64 | sed -n 's/ *Depends: //p' | head -n 1)
if [ ! -d "$cache/$package" ]; then
	(cd "$dir" && apt-get download "$package" >/dev/null && dpkg -x "$package"_*.deb kernel)
	version=$(ls "$dir/kernel/lib/modules")
	depmod -b "$dir/kernel" "$version"
	mkdir -p "$cache"
	mv "$dir/kernel" "$cache/$package"
fi
kernel=$cache/$package
version=$(ls "$kernel/lib/modules")

mkdir -p "$dir/root/bin" "$dir/root/mnt" "$dir/root/modules"
cp "$(command -v busybox)" "$dir/root/bin/busybox"
place=0
for module in virtio_pci 9pnet_virtio 9p $modules; do
	modprobe -d "$kernel" -S "$version" --show-depends "$module"
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >"$dir/list"
while read -r file; do
	place=$((place + 1))
	case $file in
	*.xz) xz -dc "$file" ;;
	*) cat "$file" ;;
	esac >"$dir/root/modules/$(printf %03d $place).ko"
done <"$dir/list"

cat >"$dir/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mkdir -p /proc
/bin/busybox mount -t proc proc /proc
for module in /modules/*.ko; do /bin/busybox insmod "$module"; done
# What was read once is not asked for again: most of the time of starting a program is reading it.
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro hostroot /mnt
/bin/busybox mount -t proc proc /mnt/proc
/bin/busybox mount -t sysfs sys /mnt/sys
/bin/busybox mount -t devtmpfs dev /mnt/dev
/bin/busybox mount -t tmpfs run /mnt/run
/bin/busybox cp /job /mnt/run/job
/bin/busybox mkdir /mnt/run/tmp
/bin/busybox chroot /mnt /bin/bash /run/job
echo "ended with: $?"
/bin/busybox poweroff -f
INIT
chmod +x "$dir/root/init"
# Quoted so that the command arrives as it was given.
{
	echo 'export HOME=/run/tmp TMPDIR=/run/tmp PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
	echo 'ip link set lo up'
	for setting in ${JOB_ENV:-}; do echo "export $setting"; done
	printf "'%s' " "$@"
	echo
} >"$dir/root/job"
(cd "$dir/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$dir/initrd"

qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m "${MEMORY:-1024}" -smp 2 -nographic -no-reboot \
	-kernel "$kernel/boot/vmlinuz-$version" -initrd "$dir/initrd" \
	-virtfs local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap \
	-append "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check" </dev/null | tee "$dir/log"
grep -q '^ended with: 0' "$dir/log"
