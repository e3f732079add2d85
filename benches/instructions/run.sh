#!/usr/bin/env bash
# Instructions of one small get, in the node and in the client: writes
# benches/results/instructions.json. Needs valgrind and python3 (Debian: apt-get install valgrind
# python3). Takes a minute or two beside the build. Counts do not depend on what else the machine
# does; those of two compilers differ.
#
# Callgrind counts only inside the functions named below. Each count is the difference between 2N
# and N gets, so that greeting and storing fall away. Valgrind knows no AVX-512; checksums see that
# by themselves, and take their way for older processors.
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v valgrind >/dev/null || { echo "valgrind is missing" >&2; exit 1; }
cargo build --release --locked -p larder-benches
bench="${CARGO_TARGET_DIR:-target}/release/larder-bench"
gets=3200
out="$(mktemp -d)"
trap 'rm -r "$out"' EXIT

# instructions SIZE GETS FUNCTION...
instructions() {
    local size="$1" count="$2" toggles=()
    shift 2
    for function in "$@"; do toggles+=("--toggle-collect=$function"); done
    valgrind --tool=callgrind --callgrind-out-file="$out/callgrind" "${toggles[@]}" \
        "$bench" instructions --size "$size" --gets "$count" 2> "$out/said" > /dev/null ||
        { cat "$out/said" >&2; exit 1; }
    awk '/^(summary|totals):/ { count = $2 } END { print count }' "$out/callgrind"
}

# each_get SIZE FUNCTION...
each_get() {
    local size="$1" once twice
    shift
    once="$(instructions "$size" "$gets" "$@")"
    twice="$(instructions "$size" $((2 * gets)) "$@")"
    echo $(((twice - once) / gets))
}

for size in 100B 1KiB 4KiB; do
    node="$(each_get "$size" larder_node::probe::Probe::serve)"
    client="$(each_get "$size" larder_client::probe::Probe::ask larder_client::probe::Probe::take)"
    echo "$size: node $node, client $client instructions a get" >&2
    echo "$size $node $client"
done > "$out/counts"

python3 - "$out/counts" "$gets" "$(valgrind --version)" > benches/results/instructions.json <<'EOF'
import json, sys
path, gets, valgrind = sys.argv[1:]
rows = [line.split() for line in open(path)]
sizes = [{"size": s, "node_per_get": int(n), "client_per_get": int(c)} for s, n, c in rows]
told = {"command": "benches/instructions/run.sh", "inflight": 64, "gets": int(gets),
        "valgrind": valgrind, "sizes": sizes}
print(json.dumps(told, indent=2))
EOF
