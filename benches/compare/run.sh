#!/usr/bin/env bash
# Larder against Redis and memcached in one run: prints one Markdown table and writes
# benches/results/compare.json. Takes about ten minutes beside the build, a minute with --quick.
# Arguments go to larder-bench compare, such as --quick or --sizes 1MiB.
set -euo pipefail
cd "$(dirname "$0")/../.."
source benches/compare/rivals.sh

cargo build --release --locked -p larder-node -p larder-benches
exec "${CARGO_TARGET_DIR:-target}/release/larder-bench" compare \
    --json benches/results/compare.json "$@"
