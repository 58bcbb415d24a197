#!/bin/busybox sh
# The first program of the virtual machine: makes this machine's file system, which is not changed,
# the root of that one, and goes on there.
export PATH=/bin
busybox=/bin/busybox
$busybox mkdir -p /proc /dev /machine /changes /root
$busybox mount -t proc proc /proc
$busybox mount -t devtmpfs dev /dev
while read -r module; do
    $busybox insmod "/modules/$module" || echo "virtual machine: $module cannot be loaded"
done < /modules/order
$busybox umount /dev
$busybox umount /proc
$busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose machine /machine
$busybox mount -t tmpfs changes /changes
$busybox mkdir /changes/upper /changes/work
$busybox mount -t overlay -o lowerdir=/machine,upperdir=/changes/upper,workdir=/changes/work all /root
$busybox mount -t tmpfs run /root/run
$busybox cp /bin/busybox /run.sh /root/run/
# What is in these directories is of the machine outside.
$busybox mount -t proc proc /root/proc
$busybox mount -t devtmpfs dev /root/dev
exec $busybox switch_root /root /run/busybox sh /run/run.sh
