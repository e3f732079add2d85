//! The `larder` command: look into a cluster, and put things there, from a shell.
//!
//! Exit codes: 0 done, 1 a key was not there or was not stored, 2 usage, 3 no node answered in
//! time, 4 refused or broken. Whatever goes wrong is one line on standard error.
#![forbid(unsafe_code)]

mod command;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match command::Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("larder: {failure}");
            failure.exit_code()
        }
    }
}
