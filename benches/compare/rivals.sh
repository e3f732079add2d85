# Sourced by the scripts here: installs Redis and memcached from Debian's packages if they are
# missing.

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
        echo "$program is missing and there is no apt-get: install it by hand" >&2
        return
    fi
    apt-get update -q >&2
    apt-get install -qy --no-install-recommends "$package" >&2
    stop_service "$package" "$pid_file"
}

install_if_missing redis-server redis-server /run/redis/redis-server.pid
install_if_missing memcached memcached /run/memcached/memcached.pid
