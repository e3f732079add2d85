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
        begin_mixed 25
        await_above written_bytes_total 0
        say amid
        hear back
        await_above read_bytes_total 0
        await_above written_bytes_total 0
        end_mixed
        say end
        ;;
esac
