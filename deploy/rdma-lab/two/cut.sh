#!/usr/bin/env bash
# The link is cut in mid-transfer and restored: calls end by their deadline, later ones succeed, and
# objects go by card again.
. "$(dirname "$0")/lab.sh"

case $HOST_INDEX in
    0)
        start_node --memory 256MiB
        say node
        hear amid
        tc qdisc add dev eth0 root netem loss 100%
        sleep 6
        tc qdisc del dev eth0 root
        say restored
        hear end
        ;;
    1)
        hear node
        begin_mixed 40
        await_above written_bytes_total 0
        say amid
        hear restored
        # What was on its way when it was cut may be counted still.
        sleep 5
        await_above written_bytes_total "$(counter written_bytes_total)"
        await_above read_bytes_total "$(counter read_bytes_total)"
        end_mixed
        load --op get --size 1MiB --keys 16 --seconds 1
        expect "no error" "$(field errors)" == 0
        expect "no wrong byte" "$(field wrong)" == 0
        say end
        ;;
esac
