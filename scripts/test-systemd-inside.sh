#!/bin/bash
# Inside of the machine of scripts/test-systemd.sh, where systemd is process 1: installs the package given, and looks at
# what its units do.
#
#   c1 - this machine 192.0.2.1 --- 192.0.2.2 router (BIRD)
set -u
deb=$1
# A loaded machine takes its time.
patience=${PATIENCE:-120}
bird_ctl() { birdc -s /run/bird.ctl "$@"; }

step() { printf '%s: %s\n' "$(date +%T)" "$*"; }
fail() {
	echo "FAILED: $*"
	systemctl --no-pager --full status margayd margay-speaker
	journalctl --no-pager -n 60 -u margayd -u margay-speaker
	bird_ctl show protocols all
	exit 1
}
# Tries a line of the shell until it succeeds.
eventually() {
	local end=$((SECONDS + patience))
	until eval "$1" >/run/last 2>&1; do
		[ $SECONDS -lt $end ] || fail "not within $patience s: $1: $(tail -n 5 /run/last)"
		sleep 0.5
	done
}
must() { eval "$1" >/run/last 2>&1 || fail "$1: $(tail -n 20 /run/last)"; }
property() { systemctl show -P "$1" "${2:-margayd}"; }

# Since when the router has the session, in milliseconds of the day.
session() {
	bird_ctl show protocols tor |
		awk '$1 == "tor" && $6 == "Established" { split($5, t, ":"); printf "%d", ((t[1] * 60 + t[2]) * 60 + t[3]) * 1000 }'
}
# It is the same session as before. The router's arithmetic is not exact.
same() {
	local now
	now=$(session)
	[ -n "$now" ] && [ $((now - $1)) -lt 50 ] && [ $(($1 - now)) -lt 50 ] || fail "$2: the session was $1, is ${now:-down}"
}
established() { bird_ctl show protocols tor | grep -q Established; }
pings() {
	ip netns exec router ping -n -i 0.01 -W 20 "$container" >/run/pings 2>&1 &
	pinger=$!
}
none_lost() {
	sleep 1
	kill -INT "$pinger"
	wait "$pinger"
	# The last two may have been on their way.
	awk '/transmitted/ { if ($1 - $4 > 2) exit 1; found = 1 } END { exit !found }' /run/pings ||
		fail "$1: packets lost: $(tail -n 3 /run/pings)"
	echo "  $(grep transmitted /run/pings)"
}
goes_on() { # WHAT LINE TIMES: the line ends no session and loses no packet; it is the TIMESth such.
	local before restarted
	before=$(session)
	pings
	step "$1"
	must "$2"
	eventually "journalctl -u margayd | grep -c 'took over sessions' | grep -qx $3"
	eventually 'systemctl is-active margayd'
	eventually 'margayctl node status'
	none_lost "$1"
	same "$before" "$1"
}

step "machine"
hostname margay1
ip netns add router
ip link add eth0 type veth peer name eth0 netns router
ip addr add 192.0.2.1/24 dev eth0
ip link set eth0 up
ip route add default via 192.0.2.2
ip -n router addr add 192.0.2.2/24 dev eth0
ip -n router link set eth0 up
ip -n router link set lo up
ip netns exec router sysctl -qw net.ipv4.ip_forward=1
cat >/run/bird.conf <<'BIRD'
router id 192.0.2.2;
protocol device { }
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp tor {
	local 192.0.2.2 as 65000;
	neighbor 192.0.2.1 as 64512;
	connect delay time 1;
	connect retry time 1;
	error wait time 1, 2;
	graceful restart on;
	ipv4 { import all; export none; };
}
BIRD
must 'systemd-run --quiet --unit=router ip netns exec router bird -f -c /run/bird.conf -s /run/bird.ctl'

step "package"
rm -rf /etc/margay /var/lib/margay
must "dpkg --force-confnew -i '$deb'"
sed -i 's|^#node_name: .*|node_name: margay1|; s|^#node_ip: .*|node_ip: 192.0.2.1/24|' /etc/margay/margayd.yaml

step "systemctl start margayd: returns when it is ready"
must 'systemctl start margayd'
[ "$(property ActiveState)" = active ] || fail "not active"
must 'margayctl node status'
must 'margayctl apply -f -' <<'YAML'
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: v4}
spec: {cidr: 10.65.0.0/24}
---
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: margay}
spec: {ingress: [{action: Allow}], egress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 192.0.2.2, asNumber: 65000}
YAML
ip netns add c1
attach() {
	jq '.plugins[0] + {name, cniVersion}' /usr/share/margay/cni/10-margay.conflist |
		CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2 CNI_IFNAME=eth0 CNI_PATH=/usr/lib/cni /usr/lib/cni/margay-cni
}
step "a container, inside of the unit's sandbox"
must 'attach ADD c1'
container=$(jq -r '.ips[0].address | split("/")[0]' /run/last)
eventually 'established'
eventually 'ip netns exec router ping -n -c 1 -W 5 "$container"'

goes_on "systemctl restart: the session goes on" 'systemctl restart margayd' 1
goes_on "systemctl reload: a new process image" 'systemctl reload margayd' 2
goes_on "dpkg -i: an upgrade" "dpkg -i '$deb'" 3
[ "$(property NFileDescriptorStore)" = 0 ] || fail "$(property NFileDescriptorStore) descriptors are still kept"
[ "$(property NRestarts)" = 0 ] || fail "restarted by itself"

step "systemctl stop: forwarding stays, and start goes on from it"
pings
must 'systemctl stop margayd'
sleep 3
must '[ "$(property Result)" = success ]'
must 'ip route get "$container" | grep -q "dev mgy"'
must 'nft list table inet margay'
must 'systemctl start margayd'
eventually 'established'
none_lost "stop and start"

step "kill -9: started again"
pings
must 'systemctl kill -s KILL margayd'
eventually '[ "$(property NRestarts)" = 1 ] && systemctl is-active margayd && margayctl node status'
eventually 'established'
none_lost "kill -9"

step "one that hangs: the watchdog has it started again"
mkdir -p /run/systemd/system/margayd.service.d
printf '[Service]\nWatchdogSec=20\n' >/run/systemd/system/margayd.service.d/soon.conf
must 'systemctl daemon-reload'
must 'systemctl restart margayd'
sleep 25
[ "$(property NRestarts)" = 0 ] || fail "the watchdog was not fed"
pings
must 'systemctl kill -s STOP margayd'
eventually '[ "$(property NRestarts)" = 1 ] && systemctl is-active margayd && margayctl node status'
must 'journalctl -u margayd | grep -q "Watchdog timeout"'
eventually 'established'
none_lost "watchdog"

step "nothing was refused by the sandbox"
must 'attach DEL c1'
must '! journalctl -u margayd | grep -i -e "permission denied" -e "operation not permitted" -e "read-only file system" -e panicked'

step "systemctl disable --now, and margay-speaker from its file"
must 'systemctl stop margayd'
cat >/etc/margay/speaker.yaml <<'YAML'
speaker:
  local_as: 64512
  router_id: 192.0.2.1
  listen: ['0.0.0.0:179']
  graceful_restart: {}
  peers:
    192.0.2.2: {remote_as: 65000, import: {default: accept}, export: {default: accept}}
YAML
must 'systemctl start margay-speaker'
eventually 'established'
before=$(session)
must 'systemctl reload margay-speaker'
sleep 5
same "$before" "margay-speaker reloaded"
must 'systemctl restart margay-speaker'
eventually 'established'
same "$before" "margay-speaker restarted"
must 'systemctl stop margay-speaker'
must '[ "$(property Result margay-speaker)" = success ]'
must '! journalctl -u margay-speaker | grep -i -e "permission denied" -e "operation not permitted" -e panicked'

step "dpkg -r: nothing runs any more"
must 'systemctl start margayd'
must 'dpkg -r margay'
[ "$(property ActiveState)" = inactive ] || fail "still $(property ActiveState)"
step "all as it should be"
