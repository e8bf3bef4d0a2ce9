#!/bin/bash
# One real S3 server on loopback: ceph (memstore) + radosgw, one node, root, no systemd; ready in 15-25 s.
#   apt-get install --no-install-recommends ceph-mon ceph-osd ceph-mgr radosgw ceph-common
#   one_node_radosgw.sh DIR PORT [MON_PORT]     keys AKTEST / SKTEST; stop by the pids in DIR/*.pid
C=$1; PORT=$2; MON=${3:-6789}; mkdir -p $C/{mon,mgr,osd0,run,log}; FS=$(uuidgen)
cat > $C/ceph.conf <<E
[global]
fsid = $FS
mon host = v1:127.0.0.1:$MON
ms bind msgr2 = false
ms bind msgr1 = true
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
run dir = $C/run
log file = $C/log/\$name.log
admin socket = $C/run/\$name.asok
pid file = $C/run/\$name.pid
mon data = $C/mon
mgr data = $C/mgr
osd data = $C/osd0
osd objectstore = memstore
memstore device bytes = 2147483648
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:$PORT tcp_nodelay=1
E
monmaptool --create --clobber --addv a "[v1:127.0.0.1:$MON]" --fsid $FS $C/monmap >/dev/null
ceph-mon -c $C/ceph.conf --mkfs -i a --monmap $C/monmap
ceph-mon -c $C/ceph.conf -i a -f > $C/log/mon.out 2>&1 & echo $! > $C/mon.pid
for i in 1 2 3 4 5 6; do sleep 1; timeout 5 ceph -c $C/ceph.conf -s >/dev/null 2>&1 && break; done
ceph-mgr -c $C/ceph.conf -i x -f > $C/log/mgr.out 2>&1 & echo $! > $C/mgr.pid
OU=$(uuidgen); timeout 20 ceph -c $C/ceph.conf osd new $OU
ceph-osd -c $C/ceph.conf -i 0 --mkfs --osd-uuid $OU
# The osd gives up ("wrong fsid") when it asks the mon before it has heard from it: start it again.
for i in 1 2 3 4 5 6; do
    ceph-osd -c $C/ceph.conf -i 0 -f > $C/log/osd.out 2>&1 & echo $! > $C/osd.pid
    sleep 3; kill -0 $(cat $C/osd.pid) 2>/dev/null && break
done
sleep 2
radosgw -c $C/ceph.conf --name client.rgw.a -f > $C/log/rgw.out 2>&1 & echo $! > $C/rgw.pid
for i in $(seq 1 60); do sleep 1; curl -s -m 2 -o /dev/null http://127.0.0.1:$PORT/ && { echo rgw up after ${i}s; break; }; done
timeout 60 radosgw-admin -c $C/ceph.conf user create --uid=t --display-name=t --access-key=AKTEST --secret-key=SKTEST >/dev/null && echo user ok
