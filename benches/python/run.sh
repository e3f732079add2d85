#!/usr/bin/env bash
# The Python package beside the Rust client, on one node. Needs Rust and Python >= 3.10 with venv;
# makes an environment of its own under target/. Arguments go to speed.py: --seconds, --rounds, --json.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --release --locked --bin larder-node --bin larder-bench
environment=target/python-bench
[ -x "$environment/bin/python" ] || python3 -m venv "$environment"
"$environment/bin/pip" install --quiet ./client/python
exec "$environment/bin/python" benches/python/speed.py "$@"
