# shellcheck shell=bash
# What is proven in guests, and how a suite is built and run. For run.sh to read.

# A suite a line: its name, how many guests, its limit in seconds, and what each guest runs:
#   test PACKAGE FEATURES ARGUMENT...     the tests of a package that these arguments name
#   two SCRIPT                            a script of two/, with binaries built for release
suite_list() {
    cat <<'LIST'
verbs           1   300  test larder-transport rdma --lib rdma::verbs -- --include-ignored
verbs_rules     1   300  test larder-transport rdma --test verbs -- --include-ignored
load            2   600  two load.sh
kill_client     2   300  two kill-client.sh
kill_node       2   300  two kill-node.sh
cut             2   300  two cut.sh
stalled         2   300  two stalled.sh
promises_rdma   1   1500 test larder-node rdma --test promises_rdma -- --test-threads=1
reconnect       2   600  two reconnect.sh
LIST
}

list() { suite_list | awk '{ printf "%-16s%s guests, %s\n", $1, $2, $4 " " $5 " " $8 }'; }

# Runs the suites of these names, or all; begins none after LARDER_LAB_SECONDS.
suites() {
    local name result=0 log
    for name; do
        suite_list | grep "^$name " >/dev/null || { say "no suite $name; there are:"; list >&2; exit 2; }
    done
    prepare_build
    # Not through grep -q, which leaves before all is written: then the pipe fails.
    if [[ $(chosen "$@") == *" two "* ]]; then build_binaries || exit; fi
    log=$(mktemp -d)
    # shellcheck disable=SC2064  # as it is now
    trap "rm -rf '$log'" EXIT
    while read -r name guests limit kind what; do
        if ((SECONDS > ${LARDER_LAB_SECONDS:-86400})); then
            printf '%-16s%s\n' "$name" "not begun: no time is left" >>"$log/table"
            continue
        fi
        echo "== $name"
        local began=$SECONDS status=0
        # shellcheck disable=SC2086  # words
        "run_$kind" "$guests" "$limit" $what </dev/null 2>&1 | tee "$log/said" || status=$?
        ((status <= result)) || result=$status
        local word=ok
        ((status == 0)) || word="FAILED ($status)"
        printf '%-16s%-14s%5d s  %s\n' "$name" "$word" $((SECONDS - began)) \
            "$(grep -h '^test result: ' "$log/said" | cut -d' ' -f4- | paste -sd' ')" >>"$log/table"
    done < <(chosen "$@")
    echo "== suites"
    cat "$log/table"
    exit "$result"
}

# The suites of these names, or all.
chosen() {
    local name
    (($#)) || { suite_list; return; }
    for name; do suite_list | grep "^$name "; done
}

run_test() {
    local guests=$1 limit=$2 package=$3 features=$4
    shift 4
    # Tests of the node run the command, too.
    [[ $package != larder-node ]] \
        || cargo build --locked -p larder-client --features rdma --bin larder || return
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$here/run.sh run --hosts $guests --limit $limit --" \
        cargo test --locked -p "$package" --features "$features" "$@"
}

run_two() {
    "$here/run.sh" run --hosts "$1" --limit "$2" -- bash "$here/two/$3"
}

build() {
    prepare_build
    install "$@"
    build_binaries >&2 || exit
    echo "$LARDER_BIN"
}

prepare_build() {
    cd "$here/../.." || exit
    command -v cargo >/dev/null || cannot "there is no cargo"
    prepare
    # The bindings are made with this libclang; that of version 16 makes wrong names of some.
    install libclang-14-dev libibverbs-dev librdmacm-dev pkg-config
    export LIBCLANG_PATH=${LIBCLANG_PATH:-/usr/lib/llvm-14/lib}
}

# Builds the programs with cards, and says where they are. They are put aside, for the next build
# without cards makes others of the same names.
build_binaries() {
    local built=${CARGO_TARGET_DIR:-target}/release
    cargo build --release --locked -p larder-node -p larder-client -p larder-benches \
        --features rdma --bin larder-node --bin larder --bin larder-bench || return
    LARDER_BIN=$(cd "$built/.." && pwd)/rdma-lab
    mkdir -p "$LARDER_BIN"
    cp "$built"/{larder-node,larder,larder-bench} "$LARDER_BIN/" || return
    export LARDER_BIN
}
