#!/usr/bin/env bash
# A client is killed in mid-transfer, again and again: the node lets go of its queue pair and goes
# on to serve right bytes to others.
. "$(dirname "$0")/lab.sh"

case $HOST_INDEX in
    0)
        start_node --memory 256MiB
        say node
        hear end
        ;;
    1)
        hear node
        for op in get put mixed get put; do
            begin_client "$op" 60 --deadline 10s
            "$LARDER_BIN/larder" --node "$NODE" --path tcp --deadline 10s stat >"$OUT/shown"
            grep -Eq '^larder-bench load +rdma +1 ' "$OUT/shown" \
                || { cat "$OUT/shown"; fail "the path is not shown"; }
            kill -9 "$client_pid"
            wait "$client_pid" 2>/dev/null || :
            load --op get --size 1MiB --keys 16 --seconds 1
            expect "no error" "$(field errors)" == 0
            expect "no wrong byte" "$(field wrong)" == 0
            expect "the bytes go by card" "$(field written_bytes)" '>' 0
            echo "killed amid $op: $(field ops) gets of another client are right"
        done
        for ((tries = 0; tries < 50; tries++)); do
            (($(counter pairs) > 0)) || break
            sleep 0.2
        done
        expect "no queue pair is left" "$(counter pairs)" == 0
        say end
        ;;
esac
