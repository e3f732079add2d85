//! The hidden command that is one client process of `compare`.
//!
//! It ends with its standard input, so it never outlives the command that started it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use larder_benches::matrix::{Crew, CrewError, Setup, work};

use super::Failure;

pub(super) const NAME: &str = "compare-worker";

#[derive(Debug, clap::Args)]
pub(super) struct Work {}

impl Work {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        work(io::stdin().lock(), io::stdout().lock())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Starts this program again, once for each worker.
pub(super) fn start(setup: &Setup) -> Result<Crew, CrewError> {
    let program: PathBuf = std::env::current_exe()?;
    Crew::start(&program, NAME, setup)
}
