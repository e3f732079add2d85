#!/usr/bin/env bash
# A thousand clients connect, store, read and go, one after the other: the node has no more
# descriptors, queue pairs or memory afterwards than before.
. "$(dirname "$0")/lab.sh"

reconnect() {
    "$LARDER_BIN/larder-bench" reconnect --node "$NODE" --path rdma --rdma-device "$RDMA_DEV" \
        --size 64KiB --deadline 30s "$@" || fail "reconnect $*"
}

# What the node and its host have, by names.
holds() {
    echo "descriptors $(find /proc/"$node_pid"/fd | wc -l)"
    echo "mappings $(wc -l </proc/"$node_pid"/maps)"
    echo "pairs $(rdma resource show qp link "$RDMA_DEV" 2>/dev/null | grep -c "pid $node_pid ")"
    echo "resident_kib $(awk '$1 == "VmRSS:" { print $2 }' /proc/"$node_pid"/status)"
}

case $HOST_INDEX in
    0)
        start_node --memory 64MiB
        say node
        hear warm
        sleep 1
        holds | tee "$OUT/before"
        say counted
        hear gone
        sleep 1
        holds | tee "$OUT/after"
        for what in descriptors mappings pairs resident_kib; do
            before=$(sed -n "s/^$what //p" "$OUT/before")
            more=8
            [[ $what != resident_kib ]] || more=8192
            expect "$what" "$(sed -n "s/^$what //p" "$OUT/after")" '<=' $((before + more))
        done
        say end
        ;;
    1)
        hear node
        reconnect --count 50
        say warm
        hear counted
        reconnect --count 1000
        say gone
        hear end
        ;;
esac
