#!/usr/bin/env bash
# Verbs on a machine without an RDMA card: small guests in QEMU with a device in software.
#
#   run.sh                             installs what is missing, builds, and runs every suite in
#                                      guests; ends with a table of them
#   run.sh suite NAME...               only these
#   run.sh list                        what suites there are
#   run.sh build [PACKAGE...]          builds the programs, installs these packages too, and prints
#                                      the folder that the programs are in
#   run.sh run [--hosts N] [--limit SECONDS] -- COMMAND
#                                      runs a command in 1 to 9 guests at once
#
# The exit code is the largest of the suites', or of the commands'; 124 if one took longer than its
# limit, 125 if a guest broke down, 77 if this machine cannot do it. README.md says more.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/suites.sh"
cache=${LARDER_RDMA_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/larder-rdma-lab}
# What a guest needs beside what is built into the kernel.
modules="virtio_pci virtio_net virtio_console virtio-rng 9pnet_virtio 9p overlay crc32_generic \
rdma_rxe rdma_ucm sch_netem"

say() { echo "rdma-lab: $*" >&2; }
cannot() { say "this machine cannot run it: $*"; exit 77; }

# Installs the packages of these names that are missing.
install() {
    local package missing=() apt=(apt-get -qq -y -o DPkg::Lock::Timeout=300)
    for package; do
        [[ $(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] \
            || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if (($(id -u) != 0)); then
        command -v sudo >/dev/null || cannot "${missing[*]} are missing, and this is not root"
        apt=(sudo "${apt[@]}")
    fi
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    "${apt[@]}" update >&2 || say "the lists of packages are old"
    "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null 2>"$cache/apt.log" \
        || { tail -n 5 "$cache/apt.log" >&2; cannot "${missing[*]} cannot be installed"; }
}

prepare() {
    [[ $(uname -m) == x86_64 ]] || cannot "guests are x86-64"
    command -v apt-get dpkg-query >/dev/null || cannot "packages come by apt, which is not here"
    mkdir -p "$cache"
    install qemu-system-x86 qemu-system-common busybox-static kmod cpio xz-utils zstd iproute2 \
        ibverbs-providers
    # Made again when what makes it has changed.
    local made_by
    made_by=$(cat "$here/run.sh" "$here/init.sh" | sha256sum)
    exec 9>"$cache/lock"
    flock 9
    [[ -s $cache/made-by && $(<"$cache/made-by") == "$made_by" ]] || make_images "$made_by"
    exec 9>&-
}

# A kernel and a first file system, from the package of the distribution's kernel.
make_images() {
    local package tree work version module file name
    package=$(apt-cache depends linux-image-amd64 2>/dev/null \
        | sed -n '0,/^ *Depends: \(linux-image-[0-9].*\)/s//\1/p') || :
    [[ $package ]] || cannot "the distribution has no package linux-image-amd64"
    rm -rf "$cache"/work.*
    work=$(mktemp -d "$cache/work.XXXXXX")
    say "fetching $package"
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package") \
        || cannot "$package cannot be fetched"
    tree=$work/tree
    dpkg-deb -x "$work"/*.deb "$tree"
    version=$(basename "$tree"/boot/vmlinuz-*)
    version=${version#vmlinuz-}
    unpack_kernel "$tree/boot/vmlinuz-$version" >"$work/vmlinux"

    local first=$work/first
    mkdir -p "$first"/{bin,proc,sys,dev,host,writes,root} "$first/lib/modules/$version"
    cp "$(command -v busybox)" "$first/bin/"
    cp "$here/init.sh" "$first/init"
    chmod 755 "$first/init"
    local PATH=$PATH:/usr/sbin:/sbin
    depmod -b "$tree" "$version"
    for module in $modules; do
        modprobe -d "$tree" -S "$version" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/files"
    while read -r file; do
        name=$(basename "${file%.ko*}")
        # The last 28 bytes say that there is a signature, which takes a guest long to check.
        unpack "$file" | head -c -28 >"$first/lib/modules/$version/$name.ko"
        echo "$name" >>"$first/modules"
    done <"$work/files"
    depmod -b "$first" "$version" 2>/dev/null
    (cd "$first" && find . | cpio -o -H newc --quiet) | zstd -q >"$work/first.img"
    mv "$work/vmlinux" "$work/first.img" "$cache/"
    echo "$1" >"$cache/made-by"
    rm -rf "$work"
}

# The kernel inside of a boot image, so that no guest has to unpack it. The image's head has the
# place and the length of what is packed, which ends with four bytes of another length.
unpack_kernel() {
    local head offset bytes
    head=$(number "$1" 0x1f1 1)
    offset=$(((head + 1) * 512 + $(number "$1" 0x248 4)))
    bytes=$(($(number "$1" 0x24c 4) - 4))
    head -c $((offset + bytes)) "$1" | tail -c "$bytes" >"$work/packed"
    unpack "$work/packed"
}

number() { od -An -v -t "u$3" -j $(($2)) -N "$3" "$1" | tr -d ' '; }

# A file, unpacked by what it begins with.
unpack() {
    case $(od -An -tx1 -N 4 "$1" | tr -d ' ') in
        fd377a58) xz -dc <"$1" ;;
        28b52ffd) zstd -dcq <"$1" ;;
        *) cat "$1" ;;
    esac
}

run() {
    local hosts=1 limit=600
    while (($#)); do
        case $1 in
            --hosts) hosts=$2; shift 2 ;;
            --limit) limit=$2; shift 2 ;;
            --) shift; break ;;
            *) say "unknown option $1"; exit 2 ;;
        esac
    done
    [[ $hosts == [1-9] ]] || { say "1 to 9 hosts"; exit 2; }
    (($#)) || { say "no command"; exit 2; }
    prepare

    lab=$(mktemp -d)
    guests=() printers=()
    trap 'for pid in "${guests[@]}"; do kill "$pid" 2>/dev/null || :; done; rm -rf "$lab"' EXIT
    trap 'exit 130' INT TERM HUP
    # One word is a line for the shell.
    if (($# == 1)); then echo "$1"; else printf '%q ' "$@"; fi >"$lab/command"
    printf '%s=%q\n' LAB_FOLDER "$here" FOLDER "$PWD" HOST_COUNT "$hosts" >"$lab/settings"
    # What a shell itself cannot set would stop it.
    export -p | grep -Ev '^declare -[a-z]*r|declare -x (OLDPWD|PWD|SHLVL|_)=' >"$lab/environment"

    local host port=$((20000 + RANDOM % 20000)) result=0 status
    for ((host = 0; host < hosts; host++)); do start "$host" "$hosts" "$limit" "$port"; done
    for ((host = 0; host < hosts; host++)); do
        status=0
        wait "${guests[host]}" || status=$?
        if [[ -s $lab/status.$host ]]; then
            status=$(<"$lab/status.$host")
        elif ((status == 124 || status == 137)); then
            say "guest $host took longer than $limit s"
            status=124
        else
            say "guest $host broke down:"
            tail -n 15 "$lab/console.$host" "$lab/qemu.$host" >&2 || :
            status=125
        fi
        ((status <= result)) || result=$status
    done
    wait "${printers[@]}" || :
    exit "$result"
}

# Starts a guest, and adds its process to `guests`.
start() {
    local host=$1 hosts=$2 limit=$3 port=$4 network cpu=max machine=tcg,thread=multi
    # Other modules than these two offer a /dev/kvm on which an ordinary kernel does not boot.
    if [[ -w /dev/kvm && (-d /sys/module/kvm_intel || -d /sys/module/kvm_amd) ]]; then
        cpu=host machine=kvm
    fi
    case $hosts in
        1) network=hubport,hubid=0 ;;
        2) network=dgram,local.type=unix,local.path=$lab/net.$host
            network+=,remote.type=unix,remote.path=$lab/net.$((1 - host)) ;;
        *) network=socket,mcast=230.77.0.1:$port,localaddr=127.0.0.1 ;;
    esac
    # Through a pipe, for what QEMU opens it empties.
    local printer=(cat) output
    ((hosts == 1)) || printer=(sed -u "s/^/[$host] /")
    exec {output}> >("${printer[@]}")
    printers+=($!)
    timeout -k 2 "$limit" qemu-system-x86_64 \
        -M pc -accel "$machine" -cpu "$cpu" -smp 2 -m 1024 \
        -nodefaults -no-user-config -display none -no-reboot \
        -kernel "$cache/vmlinux" -initrd "$cache/first.img" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check lab.host=$host" \
        -serial "file:$lab/console.$host" \
        -netdev "$network,id=net" \
        -device "virtio-net-pci,netdev=net,mac=52:54:00:4c:41:0$host,romfile=" \
        -device virtio-rng-pci \
        -virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap \
        -virtfs "local,path=$lab,mount_tag=lab,security_model=none" \
        -device virtio-serial-pci -chardev file,id=output,path=/dev/fd/3 \
        -device virtserialport,chardev=output,name=output \
        3>&"$output" </dev/null >"$lab/qemu.$host" 2>&1 &
    guests+=($!)
    exec {output}>&-
}

case ${1-} in
    "") suites ;;
    suite) shift; (($#)) || { say "which suite?"; exit 2; }; suites "$@" ;;
    list) list ;;
    build) shift; build "$@" ;;
    run) shift; run "$@" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
