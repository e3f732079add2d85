//! Style that a machine can check: who may depend on whom, who may name what, how long files are.
//!
//! Every rule says what to do instead. The rules read files as text, so a rule that is broken on
//! purpose in a comment is broken all the same.

#![expect(clippy::unwrap_used, reason = "a test; its helpers are not marked as such")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files below `dir` that end in `ending`, as paths relative to the root with their text.
fn files(dir: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(dir)];
    while let Some(path) = todo.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                let skipped = ["target", "vendor", "data", "results", ".git", ".venv"];
                if !skipped.contains(&name.as_str()) {
                    todo.push(path);
                }
            } else if name.ends_with(ending) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().display().to_string(), text));
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<(String, String)> {
    let mut files: Vec<_> = CRATES.iter().flat_map(|(dir, _)| files(dir, ".rs")).collect();
    // One crate's folder may lie in another's.
    files.sort();
    files.dedup();
    assert!(files.len() > 40, "the walk found the tree: {}", files.len());
    files
}

fn report(broken: &[String], instead: &str) {
    assert!(broken.is_empty(), "{instead}:\n  {}", broken.join("\n  "));
}

/// Code of a line, without what follows `//`.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Each crate and the crates of ours that it may depend on (tests apart).
const CRATES: [(&str, &[&str]); 8] = [
    ("protocol", &[]),
    ("transport", &["larder-protocol"]),
    ("cache-node", &["larder-protocol", "larder-transport"]),
    ("gpu-bridge", &["larder-protocol", "larder-transport"]),
    ("client", &["larder-protocol", "larder-transport", "larder-gpu-bridge"]),
    ("client/c", &["larder-transport", "larder-client"]),
    (
        "client/python",
        &["larder-protocol", "larder-transport", "larder-client", "larder-gpu-bridge"],
    ),
    (
        "benches",
        &[
            "larder-protocol",
            "larder-transport",
            "larder-node",
            "larder-client",
            "larder-gpu-bridge",
        ],
    ),
];

/// A library, and the files that may name it.
const NAMED_ALONE: [(&str, &[&str]); 11] = [
    (
        "glommio::",
        &[
            "cache-node/src/node.rs",
            "cache-node/src/polls.rs",
            "cache-node/src/polls/tests.rs",
            "cache-node/src/rdma.rs",
            "cache-node/src/shm.rs",
            "cache-node/src/tcp.rs",
        ],
    ),
    ("socket2::", &["cache-node/src/shm.rs", "cache-node/src/polls/tests.rs"]),
    ("tokio::", &["cache-node/src/control"]),
    ("axum::", &["cache-node/src/control"]),
    ("cudarc::", &["gpu-bridge/src/cuda"]),
    ("mio::", &["client/src/", "client/tests/"]),
    ("libc::", &["transport/src/"]),
    ("pyo3::", &["client/python/src/"]),
    ("rdma_sys", &["transport/src/rdma/verbs/bindings.rs"]),
    ("rustix::", &["transport/src/"]),
    ("SystemTime", &["cache-node/tests/tidy.rs"]),
];

/// Where memory is moved, and where another language's pointers come in.
const MAY_BE_UNSAFE: [&str; 5] = [
    "transport/",
    "gpu-bridge/",
    "client/c/src/",
    "client/python/src/buffer.rs",
    "client/python/src/devices.rs",
];

#[test]
fn crates_depend_only_downwards() {
    let mut broken = Vec::new();
    for (dir, allowed) in CRATES {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
        let section = manifest.split("\n[dependencies]").nth(1).unwrap();
        let section = section.split("\n[").next().unwrap();
        for line in section.lines().filter(|line| line.starts_with("larder-")) {
            let name = line.split(['.', ' ', '=']).next().unwrap();
            if !allowed.contains(&name) {
                broken.push(format!("{dir}: {name}"));
            }
        }
    }
    report(&broken, "a crate may use only what stands below it (ARCHITECTURE.md)");
}

#[test]
fn far_reaching_libraries_are_named_in_their_files_alone() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        for (name, homes) in NAMED_ALONE {
            let is_word = |line: &str| {
                code(line).match_indices(name).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '"')
                })
            };
            let is_home = homes.iter().any(|home| path.starts_with(home));
            if !is_home && text.lines().any(is_word) {
                broken.push(format!("{path}: {name}"));
            }
        }
    }
    report(&broken, "only the files that wrap a library name it");
}

#[test]
fn unsafe_code_stays_where_it_belongs() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        let may = MAY_BE_UNSAFE.iter().any(|home| path.starts_with(home));
        let uses = |line: &str| {
            let line = code(line);
            line.contains("unsafe ") && !line.contains("unsafe_") && !line.contains('"')
        };
        if !may && text.lines().any(uses) {
            broken.push(path.clone());
        }
        let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
        // Denied where a file may, which says so by itself.
        let denies = ["#![forbid(unsafe_code)]", "#![deny(unsafe_code)]"];
        if !may && is_root && !denies.iter().any(|denies| text.contains(denies)) {
            broken.push(format!("{path}: does not forbid unsafe code"));
        }
    }
    report(&broken, "move it into transport or gpu-bridge behind a safe interface");
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            broken.push(format!("{path}: {lines} lines, at most {LINES_MAX}: it is two ideas"));
        }
        if !text.starts_with("//!") {
            broken.push(format!("{path}: open it with `//!`, what it is for"));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > COLUMNS_MAX && !line.contains("://") {
                broken.push(format!("{path}:{}: longer than {COLUMNS_MAX} columns", number + 1));
            }
        }
    }
    report(&broken, "one idea per file");
}

#[test]
fn nothing_is_left_for_later_in_silence() {
    let mut broken = Vec::new();
    let marks = [["TO", "DO"], ["FIX", "ME"], ["X", "XX"], ["#[igno", "re]"]].map(|m| m.concat());
    for (path, text) in rust_files() {
        for mark in &marks {
            if text.contains(mark.as_str()) {
                broken.push(format!("{path}: {mark}"));
            }
        }
        for bad in ["utils", "helpers", "common", "misc"] {
            if text.lines().any(|line| line.trim() == format!("mod {bad};")) {
                broken.push(format!("{path}: `{bad}`: name the file after its idea"));
            }
        }
    }
    report(&broken, "do it, or say what it waits for; a skipped test says what it needs");
}

#[test]
fn manifests_take_versions_from_the_root() {
    let mut broken = Vec::new();
    for (dir, _) in CRATES {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
        let lines = manifest.lines().filter(|line| line.contains("version = \""));
        broken.extend(lines.map(|line| format!("{dir}: {line}")));
        if !manifest.contains("[lints]\nworkspace = true") {
            broken.push(format!("{dir}: no `[lints] workspace = true`"));
        }
    }
    report(&broken, "versions and lints stand once, in the root manifest");
}

#[test]
fn protocol_stays_pure() {
    let mut broken = Vec::new();
    for (path, text) in files("protocol/src", ".rs") {
        for impure in ["std::net", "std::fs", "std::time", "std::thread", "std::env", "tracing"] {
            if text.lines().any(|line| code(line).contains(impure)) {
                broken.push(format!("{path}: {impure}"));
            }
        }
    }
    report(&broken, "time is an argument, sockets and files belong to drivers");
}

/// Tests included.
const LINES_MAX: usize = 500;
const COLUMNS_MAX: usize = 100;
