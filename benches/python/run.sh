#!/usr/bin/env bash
# The Python package beside the Rust client, on one node. Needs Rust and Python >= 3.10 with venv;
# makes an environment of its own under target/. Arguments go to speed.py: --seconds, --rounds, --json.
#
#   run.sh --tier [ENVIRONMENT] …      what vLLM's offload tier adds to a get instead, by tier.py
#
# ENVIRONMENT has vLLM in it (no GPU is needed), default: what client/python/tests/runtimes/run.sh made.
# The package of this checkout is put into it.
set -euo pipefail
cd "$(dirname "$0")/../.."

script=speed.py
environment=target/python-bench
if [ "${1:-}" = --tier ]; then
    script=tier.py
    environment=${LARDER_RUNTIMES_CACHE:-$HOME/.cache/larder-runtimes}/vllm
    shift
    case ${1:---} in
        --*) ;;
        *) environment=$1; shift ;;
    esac
    if [ ! -x "$environment/bin/python" ]; then
        echo "no vLLM in $environment: client/python/tests/runtimes/run.sh --only vllm-tier" >&2
        exit 2
    fi
    # Else it tells of every start of the tier, and looks for a GPU.
    export VLLM_LOGGING_LEVEL=WARNING CUDA_VISIBLE_DEVICES=
fi

cargo build --release --locked --bin larder-node --bin larder-bench
[ -x "$environment/bin/python" ] || python3 -m venv "$environment"
"$environment/bin/pip" install --quiet ./client/python
exec "$environment/bin/python" "benches/python/$script" "$@"
