#!/usr/bin/env bash
# In a guest, with the host's files: makes the device, waits for the other guests, runs the command,
# and stays until theirs have ended too. /run/lab is a folder of the host that all guests share.
. /run/lab/settings
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
host=$(sed 's/.*lab\.host=\([0-9]*\).*/\1/' /proc/cmdline)

# For process substitution.
ln -s /proc/self/fd /dev/fd
ip link set lo up
# Packets of 4,096 B and their heads.
ip link set eth0 mtu 4200 up
ip address add "10.77.0.$((host + 1))/24" dev eth0
rdma link add rxe0 type rxe netdev eth0 || echo "rdma-lab: no device rxe0" >/dev/console

# Says a word, and waits until every guest has said it.
meet() {
    local said
    echo "${2-}" >"/run/lab/$1.$host"
    until said=("/run/lab/$1".*) && ((${#said[@]} == HOST_COUNT)); do sleep 0.05; done
}

for port in /sys/class/virtio-ports/*; do
    read -r name <"$port/name"
    [[ $name != output ]] || output=/dev/${port##*/}
done
meet up
(
    . /run/lab/environment
    export HOST_INDEX=$host HOST_COUNT RDMA_DEV=rxe0 HOST_IP=10.77.0.$((host + 1))
    export PEER_IP=10.77.0.$(((host + 1) % HOST_COUNT + 1))
    ulimit -l unlimited
    ulimit -n 65536
    cd "$FOLDER" && exec setsid bash /run/lab/command
) </dev/null >"$output" 2>&1
meet status $?
# At once: nothing here has to be kept.
echo o >/proc/sysrq-trigger
sleep 60
