#!/usr/bin/env bash
# The client's side of run.sh, which says what the environment has to have. Prints a line for each
# measurement, rounds interleaved:
#   row ROUND BYTES WHAT MIB_PER_S [OBJECTS BYTES_BY_CARD WORKS DOORBELLS]
#   message ROUND BYTES WHAT US     one way, half of there and back
# A get is a write by the node's card, a put a read: so perftest is started on the node's side.
set -euo pipefail
# So many messages, or calls, are under way at a time on either side.
depth=4
port=18515

# Runs a line of shell on the node's host.
on_node() {
    if [[ ! -d /run/lab ]]; then
        # shellcheck disable=SC2029  # the line is made here
        ssh "$NODE_IP" "cd '$PWD' && $*"
        return
    fi
    local number=$BASHPID-$RANDOM
    echo "$*" >"/run/lab/new.$number"
    mv "/run/lab/new.$number" "/run/lab/ask.$number"
    until [[ -e /run/lab/told.$number ]]; do sleep 0.05; done
    cat "/run/lab/answer.$number"
    cat "/run/lab/trouble.$number" >&2
    return "$(<"/run/lab/told.$number")"
}

# MiB/s of ib_write_bw or ib_read_bw, from the node's card to and from this one.
perftest() {
    local tool=$1 bytes=$2 count=$((PERFTEST_BYTES / $2)) server
    ((count > 8)) || count=8
    # A guest may stand still for a while, hence the long timeout.
    local options="-x $GID_INDEX -p $port -F -s $bytes -n $count -t $depth -u 18"
    # shellcheck disable=SC2086  # words
    "$tool" -d "$CLIENT_DEVICE" $options >/dev/null &
    server=$!
    until ss -ltn | grep -q ":$port "; do sleep 0.05; done
    on_node "$tool -d $NODE_DEVICE $options --output=bandwidth $CLIENT_IP" | grep -E '^[0-9.]+$'
    wait $server
}

# How long a message takes, sent and received by cards.
sent_by_card() {
    local bytes=$1 server
    local options="-x $GID_INDEX -p $port -F -s $bytes -n $MESSAGES -u 18"
    # shellcheck disable=SC2086  # words
    ib_send_lat -d "$CLIENT_DEVICE" $options >/dev/null &
    server=$!
    until ss -ltn | grep -q ":$port "; do sleep 0.05; done
    on_node "ib_send_lat -d $NODE_DEVICE $options --output=latency $CLIENT_IP" \
        | grep -E '^[0-9.]+$'
    wait $server
}

# The same over TCP.
sent_by_tcp() {
    local told
    told=$(qperf "$NODE_IP" --msg_size "$1" --time "$EACH_S" tcp_lat)
    awk '/latency/ { print $3 * ($4 == "ns" ? 1e-3 : $4 == "us" ? 1 : $4 == "ms" ? 1e3 : 1e6) }' \
        <<<"$told"
}

# The same of a load, and what the node counted.
load() {
    local op=$1 bytes=$2 file keys=$((KEYS_BYTES / $2))
    file=$(mktemp)
    ((keys < 64)) || keys=64
    "$LARDER_BIN/larder-bench" load --node "$NODE_IP:7400" --path rdma \
        --rdma-device "$CLIENT_DEVICE" --op "$op" --size "${bytes}B" --keys $keys \
        --inflight $depth --seconds "$EACH_S" --deadline 60s --json "$file" >&2
    python3 - "$file" <<'PYTHON'
import json, sys

told = json.load(open(sys.argv[1]))
node = told["node"]
by_card = node["written_bytes"] + node["read_bytes"]
if told["errors"] or told["misses"]:
    sys.exit(f"{told['errors']} errors, {told['misses']} misses: {told['first_error']}")
print(told["bytes_per_s"] / 2**20, told["objects"], by_card, node["works"], node["doorbells"])
PYTHON
    rm "$file"
}

node="$LARDER_BIN/larder-node --listen $NODE_IP:7400 --insecure-listen-anywhere --shards 1"
node+=" --admin off --memory $NODE_MEMORY --rdma-device $NODE_DEVICE"
on_node "setsid $node >/tmp/larder-rdma-node.log 2>&1 </dev/null & echo \$! >/tmp/larder-rdma-node.pid
    until grep -q '^ready ' /tmp/larder-rdma-node.log; do
        kill -0 \$(cat /tmp/larder-rdma-node.pid) || { cat /tmp/larder-rdma-node.log; exit 1; }
        sleep 0.1
    done"
# shellcheck disable=SC2016  # on the other host
trap 'on_node "kill \$(cat /tmp/larder-rdma-node.pid) \$(cat /tmp/larder-qperf.pid)"' EXIT
# shellcheck disable=SC2016
on_node 'setsid qperf >/dev/null 2>&1 </dev/null & echo $! >/tmp/larder-qperf.pid'
for ((round = 0; round < ROUNDS; round++)); do
    for bytes in $SIZES; do
        echo "row $round $bytes ib_write_bw $(perftest ib_write_bw "$bytes")"
        echo "row $round $bytes get $(load get "$bytes")"
        echo "row $round $bytes ib_read_bw $(perftest ib_read_bw "$bytes")"
        echo "row $round $bytes put $(load put "$bytes")"
    done
    for bytes in $MESSAGE_SIZES; do
        echo "message $round $bytes send $(sent_by_card "$bytes")"
        echo "message $round $bytes tcp $(sent_by_tcp "$bytes")"
    done
done
