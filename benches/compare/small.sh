#!/usr/bin/env bash
# Small gets from Larder, Redis and memcached, and Valkey if it is installed: writes
# benches/results/compare-small-*.json. Takes about two minutes beside the build.
# Arguments go to every run of compare-small, such as --seconds 10.
set -euo pipefail
cd "$(dirname "$0")/../.."

source benches/compare/rivals.sh
command -v valkey-server >/dev/null || echo "valkey-server is missing: it will be left out" >&2

cargo build --release --locked -p larder-node -p larder-benches
for size in 100B 1KiB 4KiB; do
    echo "== $size"
    # 64 in flight, 100,000 objects, 3 rounds of 3 seconds: the defaults.
    "${CARGO_TARGET_DIR:-target}/release/larder-bench" compare-small --size "$size" \
        --json "benches/results/compare-small-$size.json" "$@"
done
