//! The program as a person or a script meets it: exit codes, and JSON whose names are kept.

use std::process::{Command, Output};

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

fn has_numbers(value: &Value, names: &[&str]) {
    for name in names {
        assert!(value[name].is_number(), "{name} in {value}");
    }
}

#[test]
fn load_keeps_its_names() {
    let arguments = "load --embedded --memory 64MiB --op mixed --size 4KiB --keys 100 --batch 4 \
                     --inflight 2 --seconds 0.2 --verify --json";
    let results = json(&arguments.split_whitespace().collect::<Vec<_>>());
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
    assert!(results["machine"]["cores"].is_number());
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

#[test]
fn demo_ends_with_no_wrong_byte() {
    let arguments =
        ["demo", "--memory", "64MiB", "--object-bytes", "2KiB", "--seconds-max", "20", "--json"];
    let results = json(&arguments);
    assert_eq!((&results["errors"], &results["wrong"]), (&0.into(), &0.into()));
    assert!(results["requests"].as_u64().unwrap() > 0);
}

#[test]
fn limits_tell_every_baseline() {
    let arguments = "limits --size 64KiB --inflight 1,2 --seconds 0.05 --rounds 2 --json -";
    let results = json(&arguments.split_whitespace().collect::<Vec<_>>());
    let whats: Vec<_> = results["limits"].as_array().unwrap().iter().map(|l| &l["what"]).collect();
    let stream = ["stream get", "stream put"];
    assert_eq!(whats, [&["ping-pong", "copy"][..], &stream, &stream].concat());
}

#[test]
fn compare_stream_tells_ratios() {
    let program =
        std::path::Path::new(env!("CARGO_BIN_EXE_larder-bench")).with_file_name("larder-node");
    if !program.is_file() {
        eprintln!("skipped: {program:?} was not built");
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
fn bad_arguments_are_2_and_failures_are_1() {
    for arguments in [
        &["load", "--size", "4GB"][..],
        &["load", "--seconds", "0"],
        &["load", "--batch", "0"],
        &["replay", "--object-bytes", "65MiB"],
        &["nothing"],
        &[],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [
        &["load", "--node", "127.0.0.1:1"][..],
        &["replay", "--trace", "/no/such/trace"],
        &["compare-stream", "--node-program", "/no/such/program"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.lines().count(), 1, "one line says why: {stderr}");
    }
}
