#!/bin/sh
# Fuzzes one target for some seconds:   protocol/fuzz/run.sh TARGET SECONDS [libFuzzer options]
# Builds all targets and runs none:     protocol/fuzz/run.sh --build-only
# Targets: header, bodies, view. A crash is written to protocol/fuzz/target/artifacts/TARGET-*; run the
# binary on that file to see it again, and make it a test before fixing it.
#
# Plain stable Rust, without cargo-fuzz: libFuzzer needs the coverage counters that the flags below
# add, nothing more. No sanitizer: the crate forbids unsafe code, so a fault is a panic or time.
# `--target` keeps the flags away from build scripts, which would not link with them.
set -eu
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table \
-Ccodegen-units=1"
CARGO_TARGET_DIR=$PWD/target
export CARGO_TARGET_DIR
if [ "${1-}" = --build-only ]; then
    exec cargo build --release --locked --target "$host" --bins
fi
target=${1:?usage: run.sh header|bodies|view SECONDS}
seconds=${2:?usage: run.sh header|bodies|view SECONDS}
shift 2
cargo build --release --locked --target "$host" --bin "$target"

# Seeds are the golden messages. `bodies` wants the number of a decoder in front: every number is
# tried with every message, and libFuzzer keeps what reaches new code.
corpus=target/corpus/$target
mkdir -p "$corpus" target/artifacts
for golden in ../tests/golden/v1/*.hex; do
    seed=$corpus/$(basename "$golden" .hex)
    for byte in $(sed 's/#.*//' "$golden"); do
        printf "\\$(printf '%03o' "0x$byte")"
    done >"$seed"
    [ "$target" = bodies ] || continue
    for pick in 0 1 2 3 4 5 6 7 10 11 12 13 14 15; do
        { printf "\\$pick" && cat "$seed"; } >"$seed-$pick"
    done
done

exec "target/$host/release/$target" -max_total_time="$seconds" -max_len=65536 -timeout=5 \
    -rss_limit_mb=1024 -artifact_prefix="target/artifacts/$target-" "$@" "$corpus"
