//! The `larder-node` program: arguments in, one node, an exit code out.
//!
//! Standard output carries one line, when the node serves; everything else goes to standard error.
//! 0: drained. 1: did not start, or failed. 2: bad arguments or configuration.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use larder_node::config::{Config, ConfigError};
use larder_node::node::Node;
use larder_transport::process::raise_open_files_limit;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match Config::from_args(std::env::args_os()) {
        Ok(config) => run(config),
        Err(ConfigError::Shown(text)) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => fail(error, EXIT_USAGE),
    }
}

fn run(config: Config) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&config.log))
        .with_writer(stderr)
        .with_ansi(false)
        .init();
    // A soft limit is often below the connections that one shard may have.
    if let Err(error) = raise_open_files_limit() {
        tracing::warn!(%error, "the limit of open files stays what it is");
    }
    let node = match Node::start(config) {
        Ok(node) => node,
        Err(error) => return fail(error, EXIT_FAILURE),
    };
    say(&format!("{}\n", node.ready_line()));
    match node.wait() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error, EXIT_FAILURE),
    }
}

/// Writes to whoever started this. That nobody listens any more is no reason to end a node.
fn say(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn fail(error: impl Display, code: u8) -> ExitCode {
    // One line, whatever the system's messages look like.
    let message = error.to_string().replace('\n', " ");
    let _ = writeln!(stderr(), "larder-node: {message}");
    ExitCode::from(code)
}

const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 2;
