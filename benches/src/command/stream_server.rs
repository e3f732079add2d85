//! The hidden command that is the far end of the bare stream.
//!
//! It ends with its standard input, so it never outlives the command that started it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use larder_benches::stream::{self, StreamServer};
use larder_benches::units::parse_bytes;

use super::Failure;

pub(super) const NAME: &str = "stream-server";

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    #[arg(long, value_parser = parse_bytes)]
    cold_bytes: u64,
}

impl Serve {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        stream::serve(io::stdout(), &mut io::stdin(), self.cold_bytes)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Starts this program again as the far end.
pub(super) fn start(cold_bytes: u64) -> io::Result<StreamServer> {
    let program: PathBuf = std::env::current_exe()?;
    StreamServer::start(&program, NAME, cold_bytes)
}
