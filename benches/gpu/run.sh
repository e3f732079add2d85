#!/usr/bin/env bash
# Everything that a GPU can show, on a machine that has one: tests of devices, compute-sanitizer over
# the kernel, torch as a baseline, and `larder-bench gpu`, whose table comes last. Ends within 8
# minutes. Where there is no GPU it says so, checks what the host can, and ends well.
#
#   run.sh build           builds into benches/gpu/bin/ (ignored by git): what to take along to a
#                          machine that has no network, or no Rust. Needs no CUDA.
#   run.sh [NAME] [ARG…]   runs what is in benches/gpu/bin/, or builds it first; writes
#                          benches/results/gpu-NAME.json where there is a GPU. NAME: by default
#                          that of the GPU. ARGs go to `larder-bench gpu`. OUT=FOLDER writes
#                          there instead.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=benches/gpu/bin
results=${OUT:-benches/results}

build() {
    cargo build --release --locked -p larder-node
    cargo build --release --locked -p larder-benches --features gpu --bin larder-bench
    local target=${CARGO_TARGET_DIR:-target} tests
    tests=$(cargo test --release --locked -p larder-gpu-bridge --features product --lib --no-run \
        --message-format=json | sed -n 's/.*"executable":"\([^"]*larder_gpu_bridge[^"]*\)".*/\1/p')
    mkdir -p "$bin"
    install "$target/release/larder-node" "$target/release/larder-bench" "$bin/"
    install "$tests" "$bin/gpu-bridge-tests"
    strip "$bin"/* 2>/dev/null || true
    du -sh "$bin"
}

if [ "${1:-}" = build ]; then
    build
    exit
fi
if [ ! -x "$bin/larder-bench" ] || [ ! -x "$bin/gpu-bridge-tests" ]; then
    build
fi

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1) || gpu=
case ${1:-} in
    '' | --*) name=$(tr -cs 'a-zA-Z0-9' - <<<"${gpu:-host}" | tr '[:upper:]' '[:lower:]' | sed 's/^-*//; s/-*$//') ;;
    *) name=$1; shift ;;
esac

# Where the driver, NVRTC and cuBLAS may lie; what is not there is left out by the loader.
packages=$(python3 -c 'import os, nvidia; print(os.path.dirname(list(nvidia.__path__)[0] + "/"))' \
    2>/dev/null) || packages=
for folder in /usr/local/nvidia/lib64 /usr/local/cuda/lib64 ${packages:+"$packages"/*/lib}; do
    [ -d "$folder" ] && LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}

failed=0
if [ -n "$gpu" ]; then
    echo "== tests of devices"
    # Not the one that needs a certain NVRTC.
    timeout -k 5 80 "$bin/gpu-bridge-tests" --ignored --test-threads 1 --skip text_is_what || failed=1
    if command -v compute-sanitizer >/dev/null; then
        echo "== the kernel under compute-sanitizer"
        # Some virtual machines do not let it at the device, which says nothing of the kernel.
        log=$(mktemp)
        if ! timeout -k 5 70 compute-sanitizer --tool memcheck --error-exitcode 9 \
            "$bin/gpu-bridge-tests" --ignored --test-threads 1 every_layout >"$log" 2>&1 &&
            ! grep -q 'Device not supported' "$log"; then
            failed=1
        fi
        tail -n 40 "$log"
        rm -f "$log"
    else
        echo "compute-sanitizer is not installed: skipped"
    fi
    echo "== torch, as people would write it"
    if timeout -k 5 20 python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        timeout -k 5 60 python3 benches/gpu/torch_baseline.py \
            --json "$results/gpu-$name-torch.json" || failed=1
    else
        echo "torch with CUDA is not installed: skipped"
    fi
else
    echo "no NVIDIA GPU here: what needs one is not shown"
fi
echo "== larder-bench gpu"
# What host memory takes, standing in for a device, means nothing: it is not written down.
timeout -k 5 220 "$bin/larder-bench" gpu ${gpu:+--json "$results/gpu-$name.json"} "$@" || failed=1
exit "$failed"
