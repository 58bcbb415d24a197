# A Ceph of one monitor, one manager and one OSD in the directory $1, at the address $2, with a pool
# "kube" and a user of the same name. `ceph`, `rbd` and kubelet's defaults read its configuration in
# /etc/ceph, so it is only for a machine that is thrown away.
set -eu
dir=$1 address=$2
mkdir -p "$dir/mon" "$dir/mgr" "$dir/osd" "$dir/run" /etc/ceph /var/lib/ceph

cat > /etc/ceph/ceph.conf <<C
[global]
fsid = 6e3c1f0a-7d1e-4f0f-9d42-0f2f6f5f9c11
mon host = [v2:$address:3300/0,v1:$address:6789/0]
mon initial members = a
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
mgr initial modules =
osd crush chooseleaf type = 0
bluestore block size = 3221225472
osd memory target = 939524096
mon data = $dir/mon
mgr data = $dir/mgr
osd data = $dir/osd
log file = $dir/\$name.log
run dir = $dir/run
pid file = $dir/run/\$name.pid
admin socket = $dir/run/\$name.asok
C

# The keys that a monitor begins with are those of this ring.
ring=/etc/ceph/ceph.client.admin.keyring
new() { name=$1; shift; ceph-authtool "$ring" --gen-key -n "$name" "$@" > "$dir/keys.log"; }
: > "$ring"
new mon. --cap mon 'allow *'
new client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
new mgr.a --cap mon 'allow profile mgr' --cap osd 'allow *'
new client.kube --cap mon 'profile rbd' --cap osd 'profile rbd pool=kube' --cap mgr 'profile rbd pool=kube'
for place in mgr osd; do cp "$ring" "$dir/$place/keyring"; done
cp "$ring" /etc/ceph/keyring
ceph-mon -i a --mkfs --keyring "$ring"
ceph-mon -i a
ceph-mgr -i a

uuid=$(cat /proc/sys/kernel/random/uuid)
ceph-authtool "$dir/osd/keyring" --gen-key -n osd.0 > "$dir/keys.log"
key=$(ceph-authtool -p -n osd.0 "$dir/osd/keyring")
echo "{\"cephx_secret\": \"$key\"}" | ceph osd new "$uuid" -i -
ceph-osd -i 0 --mkfs --osd-uuid "$uuid"
ceph-osd -i 0
ceph osd pool create kube 8
rbd pool init kube
