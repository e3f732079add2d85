//! The program as a person or a script meets it: exit codes, and JSON whose names are kept.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use larder_benches::small::Rival;
use larder_node::config::Config;
use larder_node::node::Node;
use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_larder-bench"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// The JSON that a command writes to standard output.
fn json(arguments: &[&str]) -> Value {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"))
}

/// Beside the program; cargo builds it only with the whole workspace.
fn node_program() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_larder-bench")).with_file_name("larder-node")
}

fn has_numbers(value: &Value, names: &[&str]) {
    for name in names {
        assert!(value[name].is_number(), "{name} in {value}");
    }
}

#[test]
fn load_keeps_its_names() {
    let arguments = "load --embedded --memory 64MiB --op mixed --size 4KiB --keys 100 --batch 4 \
                     --inflight 2 --seconds 0.2 --verify --path tcp --json";
    let results = json(&arguments.split_whitespace().collect::<Vec<_>>());
    assert_eq!((&results["path"], &results["leased"]), (&"tcp".into(), &false.into()));
    has_numbers(
        &results,
        &[
            "ops_per_s",
            "bytes_per_s",
            "p50_us",
            "p99_us",
            "p999_us",
            "cpu_us_per_op",
            "errors",
            "wrong",
            "misses",
            "objects_per_s",
        ],
    );
    assert_eq!((&results["errors"], &results["wrong"]), (&0.into(), &0.into()));
    assert_eq!(results["node_cpu_from"], "embedded");
    let node = &results["node"];
    has_numbers(node, &["works", "doorbells", "pairs_failed", "evicted", "pulled_bytes"]);
    let moved = ["sent_bytes", "stored_bytes"].map(|name| node[name].as_u64().unwrap());
    let bytes = results["objects"].as_u64().unwrap() * 4096;
    assert_eq!((moved[0] + moved[1], &node["written_bytes"]), (bytes, &0.into()), "{results}");
    assert!(results["last_answer_s"].is_number() && results["last_error_s"].is_null());
    assert!(results["machine"]["cores"].is_number());
}

#[test]
fn load_leases_and_checks_what_it_leased() {
    for path in ["auto", "shm"] {
        let arguments = "load --embedded --memory 64MiB --size 64KiB --keys 50 --batch 2 \
                         --seconds 0.1 --verify --lease --json - --path";
        let arguments: Vec<&str> = arguments.split_whitespace().chain([path]).collect();
        let results = json(&arguments);
        assert_eq!((&results["errors"], &results["wrong"]), (&0.into(), &0.into()), "{results}");
        assert!(results["leased"] == true && results["ops"].as_u64().unwrap() > 0);
    }
}

#[test]
fn reconnect_reads_what_each_client_stored() {
    let config = Config { memory_bytes: 64 << 20, ..Config::default() };
    let node = Node::start(config).expect("a node of this size starts");
    let address = node.address().to_string();
    let results = json(&["reconnect", "--node", &address, "--count", "5", "--json"]);
    assert_eq!((&results["clients"], &results["wrong"]), (&5.into(), &0.into()));
    has_numbers(&results, &["seconds", "p50_us", "p99_us"]);
}

#[test]
fn replay_keeps_its_names_and_writes_a_file_if_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replay.json");
    let arguments =
        "replay --embedded --memory 64MiB --object-bytes 1KiB --limit 50 --verify --json";
    let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
    arguments.push(path.to_str().unwrap());
    let output = run(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("prefix hit"));
    let results: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let names = [
        "requests",
        "references",
        "prefix_hit",
        "block_hit",
        "inserts_per_reference",
        "wrong",
        "errors",
    ];
    has_numbers(&results, &names);
    assert_eq!(results["requests"], 50);
    assert_eq!(results["prefix_hit"], results["lru_prefix_hit"]);
}

/// The numbers of a replay of the sample through a policy.
fn policy(arguments: &str) -> Value {
    let all = format!("policy {arguments} --json -");
    json(&all.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn policies_keep_their_names_and_hit_what_independent_programs_hit() {
    // An OrderedDict in Python.
    for (capacity, hits) in [(1000, 3273.0), (4000, 7081.0), (16_000, 20_464.0)] {
        let results = policy(&format!("--capacity {capacity}"));
        has_numbers(
            &results,
            &[
                "requests",
                "references",
                "prefix_hit",
                "block_hit",
                "cost_saved",
                "inserts_per_reference",
                "policy_ns_per_reference",
                "metadata_bytes_per_object",
                "ghost_bytes_per_object",
            ],
        );
        assert_eq!(results["prefix_hit"], hits / 80_619.0, "{capacity}");
        assert_eq!(results["prefix_hit"], results["block_hit"]);
    }
}

#[test]
fn hazard_hits_more_and_writes_less_than_lru_where_room_is_scarce() {
    for shards in [1, 8] {
        let hit = |policy: &str| {
            let results =
                self::policy(&format!("--capacity 2% --policy {policy} --shards {shards}"));
            ["prefix_hit", "inserts_per_reference"].map(|name| results[name].as_f64().unwrap())
        };
        let ([lru, writes], [hazard, fewer]) = (hit("lru"), hit("hazard"));
        let [best, _] = hit("optimum");
        assert!(hazard > 1.3 * lru, "{hazard} against {lru}, {shards} shards");
        assert!(fewer < 0.8 * writes, "{fewer} against {writes}, {shards} shards");
        assert!(hazard < best);
    }
}

#[test]
fn a_cache_larger_than_the_trace_misses_only_what_is_new() {
    for name in ["lru", "s3fifo", "hazard", "hazard-cost", "optimum"] {
        let results = policy(&format!("--capacity 60000 --policy {name}"));
        assert_eq!(results["prefix_hit"], 25_332.0 / 80_619.0, "{name}");
        assert_eq!(results["inserts_per_reference"], 55_287.0 / 80_619.0, "{name}");
    }
}

#[test]
fn a_sweep_draws_what_it_tabulates() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("policies.svg");
    let path = svg.to_str().unwrap();
    let results =
        policy(&format!("--sweep --policies lru,optimum --capacities 1%,5% --svg {path}"));
    assert_eq!(results["replays"].as_array().unwrap().len(), 4);
    let svg = std::fs::read_to_string(svg).unwrap();
    assert!(svg.contains(">lru<") && svg.contains(">optimum<"), "{svg}");
}

#[test]
fn what_a_policy_replay_cannot_use_is_named() {
    for (arguments, part) in [
        ("--capacity 0", "'0'"),
        ("--policy lfu", "'lfu'"),
        ("--trace /no/such/trace", "/no/such/trace"),
        ("--hints /no/such/hints", "/no/such/hints"),
        ("--svg x.svg", "--sweep"),
    ] {
        let all = format!("policy {arguments}");
        let output = run(&all.split_whitespace().collect::<Vec<_>>());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(part), "{arguments}: {stderr}");
    }
}

#[test]
fn demo_ends_with_no_wrong_byte() {
    let arguments =
        ["demo", "--memory", "64MiB", "--object-bytes", "2KiB", "--seconds-max", "20", "--json"];
    let results = json(&arguments);
    assert_eq!((&results["errors"], &results["wrong"]), (&0.into(), &0.into()));
    assert!(results["requests"].as_u64().unwrap() > 0);
    let paths = results["paths"].as_array().unwrap();
    assert_eq!(paths.len(), 3);
    for path in paths {
        has_numbers(path, &["get_p50_us", "get_p99_us", "bytes_per_s"]);
        assert_eq!((&path["errors"], &path["wrong"]), (&0.into(), &0.into()), "{path}");
        assert!(path["bytes_read"].as_u64().unwrap() > 0, "{path}");
    }
}

#[test]
fn limits_tell_every_baseline() {
    let arguments = "limits --size 64KiB --inflight 1,2 --seconds 0.05 --rounds 2 --json -";
    let results = json(&arguments.split_whitespace().collect::<Vec<_>>());
    let whats: Vec<_> = results["limits"].as_array().unwrap().iter().map(|l| &l["what"]).collect();
    let stream = ["stream get", "stream put"];
    let first = ["ping-pong", "unix ping-pong, awake", "copy"];
    assert_eq!(whats, [&first[..], &stream, &stream].concat());
}

#[test]
fn instructions_are_those_of_gets_that_come_back_right() {
    let arguments = ["instructions", "--gets", "5", "--inflight", "2", "--size"];
    for size in ["0B", "100B", "4KiB"] {
        let output = run(&[&arguments[..], &[size]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{size}: {stderr}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with("5 of 5 objects of "), "{size}: {said}");
    }
    for pieces in ["1", "64"] {
        let output = run(&["instructions", "--gets", "5", "--pieces", pieces]);
        let said = String::from_utf8(output.stdout).unwrap();
        let expected = format!("5 of 5 gets of {pieces} pieces were written\n");
        assert_eq!((output.status.code(), said), (Some(0), expected));
    }
}

#[test]
fn compare_stream_tells_ratios() {
    if !node_program().is_file() {
        eprintln!("skipped: {:?} was not built", node_program());
        return;
    }
    let arguments = "compare-stream --size 64KiB --batch 1,4 --seconds 0.05 --rounds 1 \
                     --memory 256MiB --match-keys 100 --json -";
    let results = json(&arguments.split_whitespace().collect::<Vec<_>>());
    let pairs = results["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 4);
    for pair in pairs {
        has_numbers(pair, &["throughput_ratio", "cpu_ratio", "larder_cpu_us_per_object"]);
        assert_eq!(pair["errors"], 0);
    }
    has_numbers(&results["match"], &["p50_us"]);
    assert_eq!(results["node_cpu_from"], "kernel");
}

#[test]
fn compare_tells_every_server_in_every_shape_and_a_markdown_table() {
    let rivals = [Rival::Redis, Rival::Memcached];
    if !node_program().is_file() || rivals.iter().any(|rival| rival.find().is_none()) {
        eprintln!("skipped: needs {:?}, redis-server and memcached", node_program());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compare.json");
    let arguments = "compare --sizes 100B,64KiB --put-sizes 64KiB --clients 1,2 --batch 1,3 \
                     --seconds 0.01 --rounds 2 --json";
    let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
    arguments.push(path.to_str().unwrap());
    let output = run(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let results: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let lines = results["lines"].as_array().unwrap();
    let (gets, puts) = (10, 9);
    assert_eq!(lines.len(), 2 * 4 * gets + 2 * puts);
    for line in lines {
        let names = ["bytes_per_s", "p50_us", "p99_us", "cpu_s_per_gib", "cpu_us_per_object"];
        has_numbers(line, &names);
        assert!(line["bytes_per_s"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!((&line["errors"], &line["wrong"]), (&0.into(), &0.into()), "{line}");
        assert!(line["checked_objects"].as_u64().unwrap() >= 2, "one in each round: {line}");
        assert_eq!(line["speed_to_best_rival"].is_null(), line["kind"] != "larder", "{line}");
    }
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("| op | size |"), "{table}");
    assert_eq!(table.lines().count(), 2 + lines.len());
}

#[test]
fn compare_says_what_it_needs() {
    let output = Command::new(env!("CARGO_BIN_EXE_larder-bench"))
        .args(["compare", "--sizes", "1KiB", "--put-sizes", "none"])
        .env("PATH", "/no/such/folder")
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("needs redis-server and memcached"), "{stderr}");
    assert!(stderr.contains("apt-get install"), "{stderr}");
}

#[test]
fn compare_small_tells_every_server_that_is_installed() {
    if !node_program().is_file() {
        eprintln!("skipped: {:?} was not built", node_program());
        return;
    }
    let arguments = "compare-small --size 100B --keys 300 --inflight 16 --seconds 0.05 --rounds 2 \
                     --json -";
    let results = json(&arguments.split_whitespace().collect::<Vec<_>>());
    let (servers, skipped) =
        (results["servers"].as_array().unwrap(), results["skipped"].as_array().unwrap());
    // Larder is there by its client and a bare socket, memcached by `get` and by `mg`.
    assert_eq!(servers.len() + skipped.len(), 6, "{results}");
    skipped.iter().for_each(|server| eprintln!("skipped: {server}"));
    for server in servers {
        let names = [
            "ops_per_s",
            "p50_us",
            "p99_us",
            "server_cpu_us_per_op",
            "client_cpu_us_per_op",
            "cpu_us_per_op",
            "ops_per_server_cpu_s",
            "ops_per_cpu_s",
        ];
        has_numbers(server, &names);
        assert!(server["ops_per_s"].as_f64().unwrap() > 0.0);
        let bad = [&server["misses"], &server["wrong"], &server["errors"]];
        assert!(bad.iter().all(|count| **count == 0), "{server}");
        assert_eq!(server["rounds"].as_array().unwrap().len(), 2);
    }
    assert_eq!(results["ratios"].as_array().unwrap().len(), 2 * (servers.len() - 2));
    for best in results["against_best"].as_array().unwrap() {
        for name in ["ops_per_s", "ops_per_server_cpu_s", "ops_per_cpu_s"] {
            assert!(best[name]["rival"].is_string() && best[name]["ratio"].is_number(), "{best}");
        }
    }
}

#[test]
fn compare_small_needs_no_rival() {
    if !node_program().is_file() {
        eprintln!("skipped: {:?} was not built", node_program());
        return;
    }
    let arguments = "compare-small --servers larder --size 1KiB --keys 300 --seconds 0.05 \
                     --rounds 1 --json -";
    let results = json(&arguments.split_whitespace().collect::<Vec<_>>());
    let drivers: Vec<_> =
        results["servers"].as_array().unwrap().iter().map(|line| &line["driver"]).collect();
    assert_eq!(drivers, ["client", "bare"]);
    assert_eq!(results["against_best"].as_array().unwrap().len(), 0);
    assert!(results["notes"].as_array().unwrap().len() > 3);
}

#[test]
fn bad_arguments_are_2_and_failures_are_1() {
    for arguments in [
        &["load", "--size", "4GB"][..],
        &["load", "--seconds", "0"],
        &["load", "--batch", "0"],
        &["compare-small", "--size", "128KiB"],
        &["compare-small", "--servers", "etcd"],
        &["compare", "--sizes", "5MiB"],
        &["compare", "--sizes", "1KB"],
        &["compare", "--rounds", "0"],
        &["load", "--path", "pigeon"],
        &["replay", "--object-bytes", "65MiB"],
        &["nothing"],
        &[],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [
        &["load", "--node", "127.0.0.1:1"][..],
        &["load", "--embedded", "--lease", "--path", "tcp"],
        &["load", "--embedded", "--lease", "--path", "rdma"],
        // No card has this name.
        &["load", "--embedded", "--path", "rdma", "--rdma-device", "no-card"],
        &["replay", "--trace", "/no/such/trace"],
        &["compare-stream", "--node-program", "/no/such/program"],
        &["compare-small", "--node-program", "/no/such/program"],
        &["compare-small", "--keys", "4000000", "--size", "1KiB"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.lines().count(), 1, "one line says why: {stderr}");
    }
}
