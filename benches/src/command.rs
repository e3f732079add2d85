//! The command line: one file for each command, and what they share.
//!
//! A command returns its exit code, because a run that ends well may still have found wrong bytes.

mod compare;
mod compare_small;
mod compare_stream;
mod demo;
mod embedded;
#[cfg(feature = "gpu")]
mod gpu;
mod instructions;
mod limits;
mod load;
mod mixed;
mod policy;
mod reconnect;
mod replay;
mod stream_server;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Why a command ended early; a sentence for whoever started it.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Measures Larder, replays traces against it, and shows what it does.
///
/// Sizes take B, KiB, MiB or GiB, durations us, ms, s or m. Numbers of a debug build mean nothing:
/// build with --release.
#[derive(Debug, Parser)]
#[command(name = "larder-bench", version)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Load(load::LoadArgs),
    Replay(replay::ReplayArgs),
    Policy(policy::PolicyArgs),
    Mixed(mixed::MixedArgs),
    Limits(limits::Limits),
    #[cfg(feature = "gpu")]
    Gpu(gpu::Gpu),
    Compare(compare::Compare),
    CompareStream(compare_stream::CompareStream),
    CompareSmall(compare_small::CompareSmall),
    Instructions(instructions::Instructions),
    Reconnect(reconnect::Reconnect),
    #[command(name = stream_server::NAME, hide = true)]
    StreamServer(stream_server::Serve),
    #[command(name = worker::NAME, hide = true)]
    Worker(worker::Work),
}

impl CommandLine {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Demo(demo) => demo.run(),
            Command::Load(load) => load.run(),
            Command::Replay(replay) => replay.run(),
            Command::Policy(policy) => policy.run(),
            Command::Mixed(mixed) => mixed.run(),
            Command::Limits(limits) => limits.run(),
            #[cfg(feature = "gpu")]
            Command::Gpu(gpu) => gpu.run(),
            Command::Compare(compare) => compare.run(),
            Command::CompareStream(compare) => compare.run(),
            Command::CompareSmall(compare) => compare.run(),
            Command::Instructions(instructions) => instructions.run(),
            Command::Reconnect(reconnect) => reconnect.run(),
            Command::StreamServer(serve) => serve.run(),
            Command::Worker(work) => work.run(),
        }
    }
}
