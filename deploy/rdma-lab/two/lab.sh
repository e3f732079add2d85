# shellcheck shell=bash
# For the scripts beside this one, which run in two guests at once: guest 0 has the node, guest 1
# the clients. What a reader would get wrong: a guest that ends early, for whatever reason, ends the
# other one, too.
set -euo pipefail

NODE=10.77.0.1:7400
OUT=$(mktemp -d)
node_pid= load_pid= client_pid=
trap 'status=$?; [[ -z $node_pid ]] || kill -9 "$node_pid" 2>/dev/null || :; say "over-$HOST_INDEX"; exit $status' EXIT

fail() {
    echo "FAILED: $*"
    exit 1
}

# Says a word to the other guest.
say() { : >"/run/lab/said.$1"; }

# Waits for a word of the other guest's.
hear() {
    until [[ -e /run/lab/said.$1 ]]; do
        [[ ! -e /run/lab/said.over-$((1 - HOST_INDEX)) ]] || fail "the other guest ended before $1"
        sleep 0.1
    done
}

# Starts a node, with these options too, and waits until it serves.
start_node() {
    "$LARDER_BIN/larder-node" --listen "$NODE" --insecure-listen-anywhere --shards 1 \
        --pin-cores off --admin off --rdma-device "$RDMA_DEV" "$@" >"$OUT/node" 2>&1 &
    node_pid=$!
    until grep -q '^ready ' "$OUT/node"; do
        kill -0 "$node_pid" 2>/dev/null || { cat "$OUT/node"; fail "the node ended"; }
        sleep 0.1
    done
}

# Ends it, as a process that had no time to say goodbye.
kill_node() {
    kill -9 "$node_pid"
    wait "$node_pid" 2>/dev/null || :
    node_pid=
}

# What the node says of itself; it waits while the node is away.
stat() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        "$LARDER_BIN/larder" --node "$NODE" --path tcp --deadline 5s stat --json 2>/dev/null \
            >"$OUT/stat" && return
        sleep 0.2
    done
    fail "the node does not answer"
}

# One counter of the node's, now.
counter() {
    stat
    sed -n '/^  "total"/,$s/^    "'"$1"'": \([0-9]*\).*/\1/p' "$OUT/stat"
}

# Runs a load through cards, every byte checked; its results are for `field`.
load() {
    [[ " $* " == *" --deadline "* ]] || set -- "$@" --deadline 30s
    "$LARDER_BIN/larder-bench" load --node "$NODE" --path rdma --rdma-device "$RDMA_DEV" \
        --verify "$@" --json "$OUT/load" >"$OUT/said" 2>&1 \
        || { cat "$OUT/said"; fail "load $*"; }
}

# A load of gets and puts that goes on for these seconds in the background, as load_pid.
begin_mixed() {
    load --op mixed --puts 40 --size 1MiB --keys 16 --inflight 4 --deadline 2s --seconds "$1" &
    load_pid=$!
}

# Waits for the end of that; its calls failed for a while, no later than their deadline, and then
# they did not.
end_mixed() {
    wait "$load_pid" || fail "the load"
    echo "$(field errors) errors until $(field last_error_s) s, answers until" \
        "$(field last_answer_s) s, none later than $(field max_us) us"
    expect "no wrong byte" "$(field wrong)" == 0
    expect "the failure was noticed" "$(field errors)" '>' 0
    expect "it works again" "$(field last_answer_s)" '>' "$(field last_error_s)"
    # A guest may stand still for a while.
    expect "calls end by their deadline" "$(field max_us)" '<' 4000000
}

# A load that is one client, and goes on in the background as client_pid until it is killed or
# these seconds are over. Comes back when objects go by card: begin_client get|put|mixed SECONDS ...
begin_client() {
    local op=$1 seconds=$2 moves=written_bytes_total
    "$LARDER_BIN/larder-bench" load --node "$NODE" --path rdma --rdma-device "$RDMA_DEV" \
        --op "$op" --size 1MiB --keys 16 --inflight 4 --seconds "$seconds" "${@:3}" \
        >"$OUT/client.said" 2>&1 &
    client_pid=$!
    [[ $op = get ]] || moves=read_bytes_total
    # The objects that gets ask for are put before, so both have moved by then.
    await_above "$moves" "$(counter "$moves")"
}

# One number of the last load's; nothing if it has none.
field() { sed -n 's/^ *"'"$1"'": \([0-9.]*\),\{0,1\}$/\1/p' "$OUT/load"; }

# Fails unless the numbers compare: expect 'what is to hold' LEFT OPERATOR RIGHT.
expect() {
    awk -v left="$2" -v right="$4" "BEGIN { exit !(left != \"\" && left + 0 $3 right + 0) }" && return
    [[ ! -s $OUT/said ]] || cat "$OUT/said"
    [[ ! -s $OUT/load ]] || cat "$OUT/load"
    fail "$1: $2 $3 $4"
}

# Waits until a counter is above a number.
await_above() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        (($(counter "$1") <= $2)) || return 0
        sleep 0.2
    done
    fail "$1 does not grow"
}
