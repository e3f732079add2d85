#!/usr/bin/env bash
# Of two clients one is stopped in mid-transfer: the other one is served meanwhile, and the stopped
# one finds right bytes or nothing when it goes on.
. "$(dirname "$0")/lab.sh"

case $HOST_INDEX in
    0)
        start_node --memory 256MiB
        say node
        hear end
        ;;
    1)
        hear node
        for op in get put; do
            begin_client "$op" 15 --deadline 2s --verify --json "$OUT/stopped"
            kill -STOP "$client_pid"
            load --op mixed --puts 30 --size 1MiB --keys 16 --inflight 2 --seconds 5
            expect "no error" "$(field errors)" == 0
            expect "no wrong byte" "$(field wrong)" == 0
            expect "gets go by card" "$(field written_bytes)" '>' 0
            expect "puts go by card" "$(field read_bytes)" '>' 0
            echo "one stopped amid $op: $(field ops) operations of the other are right"
            kill -CONT "$client_pid"
            wait "$client_pid" || { cat "$OUT/client.said"; fail "the one that was stopped"; }
            mv "$OUT/stopped" "$OUT/load"
            expect "no wrong byte after it goes on" "$(field wrong)" == 0
            expect "it goes on" "$(field ops)" '>' 0
        done
        say end
        ;;
esac
