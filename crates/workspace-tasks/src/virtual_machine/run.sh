# The second program of the virtual machine: makes it a usual one, with control groups of version 2
# alone, and runs what is asked for. KERNEL (the unpacked package) and SCRATCH (a directory that is
# to be on a disk) are set in front of it, the programs follow.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
groups=/sys/fs/cgroup

# Nodes and machines of clusters are named for it.
/run/busybox hostname virtual-machine
mount -t sysfs sys /sys
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 $groups
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t mqueue mqueue /dev/mqueue

# The kernel calls this program for what it has as a module.
release=$(uname -r)
mkdir -p "/lib/modules/$release"
mount --bind "$KERNEL/lib/modules/$release" "/lib/modules/$release"
rm -f /sbin/modprobe
printf '#!/run/busybox sh\nexec /run/busybox modprobe "$@"\n' > /sbin/modprobe
chmod +x /sbin/modprobe
# Now, and not when the first test needs one: busybox does not wait for a module that another call of it
# loads, so the second of two tests would find none.
for module in loop virtio_net bridge veth wireguard; do
    /sbin/modprobe "$module"
done
# A test of encryption that finds no WireGuard fails here.
export MAINSTAY_KERNEL_HAS_WIREGUARD=yes

/run/busybox ip link set lo up
/run/busybox ip link set eth0 up
/run/busybox ip addr add 10.0.2.15/24 dev eth0
/run/busybox ip route add default via 10.0.2.2
# The tests may make servers of this machine, at this address.
export MAINSTAY_TEST_STORAGE_ADDRESS=10.0.2.15

mkdir -p /run/disk "$SCRATCH"
mount /dev/vda /run/disk
mkdir -p /run/disk/scratch /run/disk/tmp /run/disk/lib
mount --bind /run/disk/scratch "$SCRATCH"
mount --bind /run/disk/tmp /tmp
chmod 1777 /tmp
mkdir -p /var/lib/mainstay
mount --bind /run/disk/lib /var/lib/mainstay

# in_container NAME PROGRAM…: as in a container with control groups of its own, whose root is a
# group with processes.
in_container() {
    name=$1; shift
    mkdir -p "$groups/containers/$name"
    echo '+cpu +memory +pids +cpuset +io +hugetlb' > $groups/cgroup.subtree_control
    echo '+cpu +memory +pids +cpuset +io +hugetlb' > $groups/containers/cgroup.subtree_control
    sh -c 'echo 0 > "$0/cgroup.procs"; exec /usr/bin/unshare --cgroup --mount sh -c "
        umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
        sleep 100000 &
        exec \"\$0\" \"\$@\"" "$@"' "$groups/containers/$name" "$@"
    echo "virtual machine: $name ended with $?"
}

# as_service NAME PROGRAM…: as a service manager does, in a group that is not the root.
as_service() {
    name=$1; shift
    mkdir -p "$groups/services/$name"
    sh -c 'echo 0 > "$0/cgroup.procs"; exec "$@"' "$groups/services/$name" "$@"
    echo "virtual machine: $name ended with $?"
}

echo "virtual machine: Linux $release, $(cat $groups/cgroup.controllers)"
