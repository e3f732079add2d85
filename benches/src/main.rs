//! `larder-bench`: measures a node, replays traces against it, and shows what it does.
//!
//! Results go to standard output, progress to standard error. 0: done. 1: failed, or a byte was
//! wrong. 2: bad arguments.
#![forbid(unsafe_code)]

mod command;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let command = command::CommandLine::parse();
    // An embedded node may have something to say.
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("warn"))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("larder-bench: {}", error.to_string().replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}
