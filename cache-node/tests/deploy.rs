//! The flags and keys that the files of `deploy/` pass are ones that the node takes.
//!
//! Nothing here runs a container: each file's arguments are taken out as text and parsed.
#![expect(clippy::unwrap_used, reason = "a test; its helpers are not marked as such")]

use std::fs;
use std::path::{Path, PathBuf};

use larder_node::config::Config;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy")
}

fn read(file: &str) -> String {
    fs::read_to_string(deploy().join(file)).unwrap()
}

/// The words of a command line that begins at a flag and ends where its lines do.
fn words(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    joined.split_whitespace().map(|word| word.trim_matches('"').to_owned()).collect()
}

fn takes(arguments: &[String]) -> Config {
    let all = std::iter::once("larder-node".to_owned()).chain(arguments.iter().cloned());
    Config::from_args(all).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

#[test]
fn compose_starts_nodes_that_know_each_other() {
    let text = read("docker/compose.yaml");
    let mut views = Vec::new();
    for command in text.split("command: >-\n").skip(1) {
        let lines = command.lines().take_while(|line| line.trim_start().starts_with("--"));
        let config = takes(&words(&lines.collect::<Vec<_>>().join(" ")));
        let view = config.view(1).unwrap();
        views.push(view.members.iter().map(|m| (m.id, m.port, m.shard_count)).collect::<Vec<_>>());
    }
    assert_eq!(views.len(), 2);
    assert_eq!(views[0], views[1], "both have the same members");
}

#[test]
fn kubernetes_passes_flags_that_the_node_takes() {
    let text = read("kubernetes/statefulset.yaml");
    let start = text.find("exec larder-node").unwrap();
    let end = start + text[start..].find("ports:").unwrap();
    let line = text[start..end].replace("exec larder-node", "");
    let line =
        line.replace("$POD", "larder-0").replace("${peers#,}", "larder-1@larder-1.larder:7400/4");
    let config = takes(&words(&line));
    assert_eq!(config.view(1).unwrap().members.len(), 2);
}

#[test]
fn unit_starts_the_node_with_its_file() {
    assert!(read("systemd/larder-node.service").contains("larder-node --config"));
    let file = deploy().join("systemd/node.toml");
    let config = takes(&["--config".to_owned(), file.display().to_string()]);
    assert_eq!(config.shards, 4);
}
