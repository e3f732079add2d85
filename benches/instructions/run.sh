#!/usr/bin/env bash
# Instructions and allocations of one small get, in the node and in the client: writes
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

# profile NAME SIZE GETS FUNCTION...
profile() {
    local name="$1" size="$2" count="$3" toggles=()
    shift 3
    for function in "$@"; do toggles+=("--toggle-collect=$function"); done
    valgrind --tool=callgrind "--callgrind-out-file=$out/$name" "${toggles[@]}" \
        "$bench" instructions --size "$size" --gets "$count" 2> "$out/said" > /dev/null ||
        { cat "$out/said" >&2; exit 1; }
}

# profiles WHO SIZE FUNCTION...
profiles() {
    local who="$1" size="$2"
    shift 2
    profile "$size-$who-once" "$size" "$gets" "$@"
    profile "$size-$who-twice" "$size" $((2 * gets)) "$@"
}

sizes=(100B 1KiB 4KiB)
for size in "${sizes[@]}"; do
    profiles node "$size" larder_node::probe::Probe::serve
    profiles client "$size" larder_client::probe::Probe::ask larder_client::probe::Probe::take
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
told = {"command": "benches/instructions/run.sh", "inflight": 64, "gets": gets,
        "valgrind": valgrind, "sizes": rows}
print(json.dumps(told, indent=2))
PYTHON
mv "$out/told" benches/results/instructions.json
cat benches/results/instructions.json
