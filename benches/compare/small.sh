#!/usr/bin/env bash
# Small gets from Larder, Redis and memcached, and Valkey if it is installed: writes
# benches/results/compare-small-*.json. Takes about two minutes beside the build.
# Arguments go to every run of compare-small, such as --seconds 10.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Packages may start what they install. It would take the cores that are measured.
stop_service() {
    local service=$1 pid_file=$2
    if [ -d /run/systemd/system ]; then
        systemctl stop "$service" || true
    elif [ -s "$pid_file" ]; then
        kill "$(cat "$pid_file")" 2>/dev/null || true
    fi
}

install_if_missing() {
    local package=$1 program=$2 pid_file=$3
    command -v "$program" >/dev/null && return
    if ! command -v apt-get >/dev/null; then
        echo "$program is missing and there is no apt-get: it will be left out" >&2
        return
    fi
    apt-get update -q
    apt-get install -qy --no-install-recommends "$package"
    stop_service "$package" "$pid_file"
}

install_if_missing redis-server redis-server /run/redis/redis-server.pid
install_if_missing memcached memcached /run/memcached/memcached.pid
command -v valkey-server >/dev/null || echo "valkey-server is missing: it will be left out" >&2

cargo build --release --locked -p larder-node -p larder-benches
for size in 100B 1KiB 4KiB; do
    echo "== $size"
    # 64 in flight, 100,000 objects, 3 rounds of 3 seconds: the defaults.
    "${CARGO_TARGET_DIR:-target}/release/larder-bench" compare-small --size "$size" \
        --json "benches/results/compare-small-$size.json" "$@"
done
