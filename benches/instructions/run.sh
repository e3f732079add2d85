#!/usr/bin/env bash
# Instructions and allocations of one small get, in the node and in the client, and of a get that is
# posted to a network card (a simulated one) and heard of: writes
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

# profile NAME OPTION VALUE GETS FUNCTION...
profile() {
    local name="$1" option="$2" value="$3" count="$4" toggles=()
    shift 4
    for function in "$@"; do toggles+=("--toggle-collect=$function"); done
    valgrind --tool=callgrind "--callgrind-out-file=$out/$name" "${toggles[@]}" \
        "$bench" instructions "$option" "$value" --gets "$count" 2> "$out/said" > /dev/null ||
        { cat "$out/said" >&2; exit 1; }
}

# profiles WHO OPTION VALUE FUNCTION...
profiles() {
    local who="$1" option="$2" value="$3"
    shift 3
    profile "$value-$who-once" "$option" "$value" "$gets" "$@"
    profile "$value-$who-twice" "$option" "$value" $((2 * gets)) "$@"
}

sizes=(100B 1KiB 4KiB)
for size in "${sizes[@]}"; do
    profiles node --size "$size" larder_node::probe::Probe::serve
    profiles client --size "$size" larder_client::probe::Probe::ask larder_client::probe::Probe::take
done
for pieces in 1 64; do
    profiles card --pieces "$pieces" \
        larder_benches::posting::Posting::post larder_benches::posting::Posting::poll
done

python3 - "$out" "$gets" "$(valgrind --version)" "${sizes[@]}" > "$out/told" <<'PYTHON'
import json, re, sys

folder, gets, valgrind, *sizes = sys.argv[1:]
gets = int(gets)
ALLOCATE = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"}


def counts(path):
    """Instructions, and calls that allocate. A name is spelled out only where it comes first."""
    names, called, instructions, allocations = {}, None, 0, 0
    for line in open(path, encoding="utf-8", errors="replace"):
        if found := re.match(r"c?fn=\((\d+)\)(?: (.*))?", line):
            number, name = found.groups()
            names.setdefault(number, name)
            called = names[number] if line.startswith("cfn") else None
        elif line.startswith("calls=") and called in ALLOCATE:
            allocations += int(line[len("calls="):].split()[0])
        elif line.startswith(("summary:", "totals:")):
            instructions = int(line.split()[1])
    return instructions, allocations


def each_get(size, who):
    once, twice = (counts(f"{folder}/{size}-{who}-{times}") for times in ("once", "twice"))
    return [(after - before) / gets for before, after in zip(once, twice)]


rows = []
for size in sizes:
    row = {"size": size}
    for who in ("node", "client"):
        instructions, allocations = each_get(size, who)
        row[f"{who}_per_get"] = round(instructions)
        row[f"{who}_allocations_per_get"] = round(allocations, 2)
    rows.append(row)
posted = []
for pieces in (1, 64):
    instructions, allocations = each_get(pieces, "card")
    posted.append({"pieces": pieces, "node_per_posted_get": round(instructions),
                   "node_allocations_per_posted_get": round(allocations, 2)})
told = {"command": "benches/instructions/run.sh", "inflight": 64, "gets": gets,
        "valgrind": valgrind, "sizes": rows, "posted": posted}
print(json.dumps(told, indent=2))
PYTHON
mv "$out/told" benches/results/instructions.json
cat benches/results/instructions.json
