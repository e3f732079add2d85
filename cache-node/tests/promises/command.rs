//! The `larder` command against a node: what it prints, and the exit code that a script sees.
//!
//! It belongs to another package, so it is here only after the workspace was built: without it the
//! tests say that they are skipped.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::calls::by;
use crate::limit::{alone, among_others};
use crate::process::Process;

const DONE: i32 = 0;
const MISS: i32 = 1;
const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 3;

/// The command, if it was built.
fn command() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_larder-node")).with_file_name("larder");
    if path.exists() {
        return Some(path);
    }
    // Past the capture of the test runner, which would hide it.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {} is not built", path.display());
    None
}

/// Runs it with these arguments and this input.
fn run(path: &PathBuf, node: &Process, args: &[&str], input: &[u8]) -> Output {
    run_by(path, node, "5s", args, input)
}

/// As [`run`], with another deadline.
fn run_by(path: &PathBuf, node: &Process, deadline: &str, args: &[&str], input: &[u8]) -> Output {
    let address = node.address.to_string();
    let mut child = Command::new(path)
        .args(["--node", &address, "--deadline", deadline])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It does not read what it was not asked to read.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `test` with the command and a node of two shards.
fn with_command(test: fn(&PathBuf, &Process)) {
    let Some(path) = command() else { return };
    among_others(move |nodes| {
        let node = nodes.start(&["--shards", "2"]);
        test(&path, &node);
    });
}

#[test]
fn the_command_puts_gets_matches_and_removes() {
    with_command(|path, node| {
        let run = |args: &[&str], input: &[u8]| run(path, node, args, input);
        let bytes: Vec<u8> = (0..300_000).map(|at: u32| (at * 31) as u8).collect();
        assert_eq!(code(&run(&["put", "a", "--meta", "of a", "--tag", "9"], &bytes)), DONE);
        assert_eq!(code(&run(&["put", "b"], b"")), DONE);
        let got = run(&["get", "a"], b"");
        assert!(code(&got) == DONE && got.stdout == bytes, "byte for byte");
        assert_eq!(run(&["get", "b"], b"").stdout, b"");
        let matched = run(&["match", "a", "b"], b"");
        assert_eq!((code(&matched), said(&matched)), (DONE, "a hit 300000 of a\nb hit 0\n".into()));
        let missing = run(&["get", "c"], b"");
        assert_eq!((code(&missing), missing.stdout.is_empty()), (MISS, true));
        assert!(!missing.stderr.is_empty(), "it says why");
        assert_eq!(code(&run(&["match", "a", "c"], b"")), MISS);
        assert_eq!(code(&run(&["put", "a", "--if-absent"], b"other")), MISS);
        assert_eq!(code(&run(&["pin", "a", "b", "--for", "1m"], b"")), DONE);
        assert_eq!(code(&run(&["pin", "c", "--for", "1m"], b"")), MISS);
        assert_eq!(code(&run(&["pin", "a"], b"")), USAGE);
        assert_eq!(code(&run(&["rm", "b"], b"")), DONE);
        assert_eq!(code(&run(&["rm", "b"], b"")), MISS);
        assert_eq!(code(&run(&["rm", "--tag", "9"], b"")), DONE);
        assert_eq!(code(&run(&["get", "a"], b"")), MISS);
        assert_eq!(code(&run(&["put", "a", "--ttl", "soon"], b"x")), USAGE);
        assert_eq!(code(&run(&["put", &"k".repeat(65)], b"x")), USAGE);
    });
}

#[test]
fn the_command_bumps_shows_and_counts() {
    with_command(|path, node| {
        let run = |args: &[&str], input: &[u8]| run(path, node, args, input);
        assert_eq!(code(&run(&["put", "a"], b"old")), DONE);
        let bumped = run(&["bump"], b"");
        assert_eq!(code(&bumped), DONE);
        let said_generation = said(&bumped);
        let generation = said_generation.trim().strip_prefix("generation ").unwrap();
        assert!(generation.parse::<u64>().unwrap() > 1, "{generation}");
        assert_eq!(code(&run(&["get", "a"], b"")), MISS);
        assert_eq!(code(&run(&["put", "a"], b"new")), DONE);
        assert_eq!(said(&run(&["get", "a"], b"")), "new");
        assert_eq!(code(&run(&["--namespace", "x/y", "get", "a"], b"")), MISS);
        let view = run(&["view", "--json"], b"");
        let view: serde_json::Value = serde_json::from_str(&said(&view)).unwrap();
        assert_eq!(view["members"][0]["shards"], 2);
        let stats = run(&["stat", "--json"], b"");
        let stats: serde_json::Value = serde_json::from_str(&said(&stats)).unwrap();
        assert_eq!(stats["total"]["objects"].as_u64(), Some(1), "{stats}");
        assert_eq!(stats["shards"].as_array().unwrap().len(), 2);
        let stats = run(&["stat", "--json", "--by-namespace"], b"");
        let stats: serde_json::Value = serde_json::from_str(&said(&stats)).unwrap();
        let of = |tenant| {
            stats["namespaces"].as_array().unwrap().iter().find(move |n| n["tenant"] == tenant)
        };
        assert_eq!(of("default").unwrap()["stats"]["stored_total"], 2, "{stats}");
        assert_eq!(of("x").unwrap()["stats"]["misses_absent_total"], 1, "{stats}");
        assert_eq!(stats["classes"][0]["stats"]["hits_total"], 1, "{stats}");
        let table = said(&run(&["stat", "--by-namespace"], b""));
        assert!(table.lines().any(|line| line.starts_with("default/default ")), "{table}");
    });
}

#[test]
fn the_command_tells_a_dead_node_from_a_miss_in_time() {
    alone(|nodes| {
        let Some(path) = &command() else { return };
        let mut node = nodes.start(&[]);
        let node = &mut node;
        assert_eq!(code(&run(path, node, &["get", "a"], b"")), MISS);
        node.signal("STOP");
        let stopped =
            by(Duration::from_secs(2), || run_by(path, node, "300ms", &["get", "a"], b""));
        assert_eq!(code(&stopped), UNAVAILABLE);
        assert!(!stopped.stderr.is_empty());
        node.signal("CONT");
        assert_eq!(code(&run(path, node, &["get", "a"], b"")), MISS);
        node.kill();
        let dead = run(path, node, &["get", "a"], b"");
        assert_eq!((code(&dead), dead.stdout.is_empty()), (UNAVAILABLE, true));
    });
}
