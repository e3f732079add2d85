#!/usr/bin/env bash
# Gets and puts through network cards beside ib_write_bw and ib_read_bw (package perftest), which do
# nothing but move as many bytes the same way: prints a table. Needs python3.
#
#   run.sh        in two guests with cards in software (deploy/rdma-lab): writes
#                 benches/results/rdma-lab.json. Such cards are slow, and differ by a factor from run
#                 to run: only the ratios of neighbours mean anything
#   run.sh messages
#                 there, how long a message takes from card to card (ib_send_lat) and over TCP
#                 (package qperf), as requests and answers go: benches/results/rdma-lab-messages.json
#   run.sh hosts NODE_IP CLIENT_IP NODE_DEVICE CLIENT_DEVICE GID_INDEX FILE
#                 both, between two hosts with cards, started on the client's: writes FILE. The other
#                 one is reached by `ssh NODE_IP` and has this checkout under the same path. Both have
#                 perftest and qperf, and were built with `cargo build --release --features rdma`
#
# From the environment: ROUNDS (3), SIZES of objects in bytes (65536 1048576 16777216), EACH_S (2 s),
# MESSAGE_SIZES (64 1024 16384), and MESSAGES, how many cards send (200 in the lab, else 20000).
set -euo pipefail
cd "$(dirname "$0")/../.."
export ROUNDS=${ROUNDS:-3} EACH_S=${EACH_S:-2}
export SIZES=${SIZES:-65536 1048576 16777216} MESSAGE_SIZES=${MESSAGE_SIZES:-64 1024 16384}

rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
if [[ ${1-} = hosts && $# = 7 ]]; then
    export NODE_IP=$2 CLIENT_IP=$3 NODE_DEVICE=$4 CLIENT_DEVICE=$5 GID_INDEX=$6
    export LARDER_BIN=$PWD/target/release NODE_MEMORY=8GiB KEYS_BYTES=$((1 << 30))
    export PERFTEST_BYTES=$((20 << 30))
    export MESSAGES=${MESSAGES:-20000}
    where=hosts file=$7
    benches/rdma/measure.sh | tee "$rows"
elif [[ $* = "" || $* = messages ]]; then
    LARDER_BIN=$(deploy/rdma-lab/run.sh build perftest qperf)
    export LARDER_BIN NODE_MEMORY=320MiB KEYS_BYTES=$((64 << 20)) PERFTEST_BYTES=$((32 << 20))
    export MESSAGES=${MESSAGES:-200}
    where=lab file=benches/results/rdma-lab${1:+-$1}.json
    if [[ $* = messages ]]; then SIZES=; else MESSAGE_SIZES=; fi
    deploy/rdma-lab/run.sh run --hosts 2 --limit 3600 -- benches/rdma/guest.sh | tee "$rows"
else
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2
fi
python3 benches/rdma/table.py "$rows" "$where" "$file"
