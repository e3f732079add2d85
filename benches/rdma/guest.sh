#!/usr/bin/env bash
# In a guest of the lab: guest 1 measures, guest 0 does what it is told through /run/lab.
set -euo pipefail
if ((HOST_INDEX == 1)); then
    trap ': >/run/lab/over' EXIT
    NODE_IP=$PEER_IP CLIENT_IP=$HOST_IP NODE_DEVICE=$RDMA_DEV CLIENT_DEVICE=$RDMA_DEV GID_INDEX=1 \
        benches/rdma/measure.sh
    exit
fi
until [[ -e /run/lab/over ]]; do
    for ask in /run/lab/ask.*; do
        [[ -e $ask ]] || continue
        status=0
        bash "$ask" >"${ask/ask/answer}" 2>"${ask/ask/trouble}" || status=$?
        rm "$ask"
        echo $status >"${ask/ask/told}.new"
        mv "${ask/ask/told}.new" "${ask/ask/told}"
    done
    sleep 0.05
done
