#!/bin/busybox sh
# The first process of a guest: loads the drivers, puts the host's files under a layer that takes
# the writes, and goes on with guest.sh from there.
/bin/busybox --install -s /bin
export PATH=/bin
fail() { echo "rdma-lab: $*" >/dev/console; poweroff -f; }

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules); do modprobe "$module" || fail "no module $module"; done

options=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o "$options,ro,cache=loose" root /host || fail "the host's files are not there"
mount -t tmpfs tmpfs /writes
mkdir /writes/upper /writes/work
mount -t overlay -o lowerdir=/host,upperdir=/writes/upper,workdir=/writes/work overlay /root \
    || fail "no layer over the host's files"
for folder in proc sys dev; do mount --move "/$folder" "/root/$folder"; done
mount -t tmpfs tmpfs /root/run
mkdir -p /root/run/lab /root/dev/shm /root/dev/pts
mount -t tmpfs tmpfs /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t 9p -o "$options,cache=none" lab /root/run/lab || fail "no way to talk to the host"
. /root/run/lab/settings
exec switch_root /root /bin/bash "$LAB_FOLDER/guest.sh"
