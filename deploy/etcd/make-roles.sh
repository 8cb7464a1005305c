#!/bin/sh
# Makes the roles of the file beside this script in etcd, or adds what they lack. Say how to reach etcd
# by the variables of etcdctl (ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY,
# ETCDCTL_USER=root:PASSWORD once authentication is on).
#
#   make-roles.sh [PREFIX]      the prefix of all keys, /calico unless said otherwise
set -eu
prefix=${1:-/calico}
export ETCDCTL_API=3

grep -v '^ *#' "$(dirname "$0")/roles" | while read -r role access keys; do
    [ -n "$role" ] || continue
    etcdctl role get "$role" >/dev/null 2>&1 </dev/null || etcdctl role add "$role" </dev/null
    etcdctl role grant-permission --prefix=true "$role" "$access" "$prefix$keys" </dev/null
done
