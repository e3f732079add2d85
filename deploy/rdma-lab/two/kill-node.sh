#!/usr/bin/env bash
# The node is killed in mid-transfer and comes back: the client's calls end by their deadline, and
# the same client goes on through its card when the node is there again.
. "$(dirname "$0")/lab.sh"

case $HOST_INDEX in
    0)
        start_node --memory 256MiB
        say node
        hear amid
        kill_node
        say dead
        sleep 4
        start_node --memory 256MiB
        say back
        hear end
        ;;
    1)
        hear node
        (
            load --op mixed --puts 40 --size 1MiB --keys 16 --inflight 4 \
                --deadline 2s --seconds 25
        ) &
        load_pid=$!
        await_above written_bytes_total 0
        say amid
        hear back
        await_above read_bytes_total 0
        await_above written_bytes_total 0
        wait $load_pid || fail "the load"
        echo "$(field errors) errors until $(field last_error_s) s, answers until" \
            "$(field last_answer_s) s, none later than $(field max_us) us"
        expect "no wrong byte" "$(field wrong)" == 0
        expect "the death was noticed" "$(field errors)" '>' 0
        expect "it works again" "$(field last_answer_s)" '>' "$(field last_error_s)"
        # A guest may stand still for a while.
        expect "calls end by their deadline" "$(field max_us)" '<' 4000000
        say end
        ;;
esac
