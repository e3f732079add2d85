#!/usr/bin/env bash
# Gets and puts of all sizes through cards, every byte checked, alone and many at a time, at any
# address, and then on a node that has to evict for each put.
. "$(dirname "$0")/lab.sh"

# Puts, then gets; objects of more than this go by card, and most of their bytes have to.
by_card_bytes=16384

both() {
    local size=$1 op by moved
    for op in put get; do
        load --op "$op" --size "$size"B "${@:2}"
        expect "no error" "$(field errors)" == 0
        expect "no miss" "$(field misses)" == 0
        expect "no wrong byte" "$(field wrong)" == 0
        expect "something is done" "$(field ops)" '>' 0
        moved=$(($(field objects) * size))
        if [[ $op = get ]]; then by=$(field written_bytes); else by=$(field read_bytes); fi
        echo "$op $size B ${*:2}: $(field ops) operations, $by of $moved B by card"
        if ((size > by_card_bytes)); then expect "bytes go by card" "$by" '>=' $((moved / 2)); fi
    done
}

case $HOST_INDEX in
    0)
        start_node --memory 320MiB
        say node
        hear small
        kill_node
        start_node --memory 64MiB
        say small-node
        hear end
        ;;
    1)
        hear node
        # Bytes, around where cards begin, not a multiple of anything, and the largest there is.
        for size in 1 100 4096 16384 16385 65537 1048576 4000037 16777216; do
            both "$size" --keys 8 --seconds 0.5
        done
        both 67108864 --keys 2 --seconds 0.5
        # Objects lie one behind the other, so most begin at odd addresses.
        both 20011 --keys 64 --batch 16 --seconds 1
        both 1000003 --keys 16 --batch 8 --inflight 2 --seconds 1
        both 1 --keys 64 --batch 64 --seconds 0.5
        say small

        hear small-node
        # Three times what the node has room for: nearly every put evicts, and every other get misses.
        load --op mixed --puts 50 --size 300007B --keys 600 --batch 4 --inflight 4 --seconds 10
        echo "full: $(field ops) operations, $(field misses) misses, $(field evicted) evicted," \
            "$(field written_bytes) B written and $(field read_bytes) B read by card"
        expect "no error" "$(field errors)" == 0
        expect "no wrong byte" "$(field wrong)" == 0
        expect "the node was full" "$(field evicted)" '>' 0
        expect "gets go by card" "$(field written_bytes)" '>' 0
        expect "puts go by card" "$(field read_bytes)" '>' 0
        say end
        ;;
esac
