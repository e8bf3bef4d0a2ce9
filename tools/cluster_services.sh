#!/bin/sh
# Install what the tests of a real cluster need and the machine lacks: etcd, an S3 server (Ceph's gateway), nginx, and
# the tools for network namespaces. Debian and its kin, as root; elsewhere it says what is missing and the tests skip.
set -eu

missing=
need() { # command, packages
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need etcd etcd-server
need etcdctl etcd-client
need radosgw "ceph-mon ceph-osd ceph-mgr radosgw ceph-common uuid-runtime"
need nginx nginx-light
need ip iproute2
need nft nftables
need unshare util-linux

[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 - one word per package
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "the tests of a real cluster need:$missing" >&2
fi
