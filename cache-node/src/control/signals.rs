//! SIGTERM and SIGINT: the first one drains the node, the second one ends the process.
//!
//! Handlers belong to a process, not to a node: they are set only where the process is nothing but
//! a node, and stay set when this is dropped.

use std::io;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::counters::NodeState;

/// SIGTERM and SIGINT, which are no longer deadly once this exists.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over from now on.
    ///
    /// # Errors
    /// If the system does not let this process handle them.
    pub(super) fn new(runtime: &Runtime) -> io::Result<Self> {
        let _inside = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The first signal drains the node, the second one ends the process.
pub(super) async fn heed(signals: Option<Signals>, state: &NodeState) {
    let Some(mut signals) = signals else { return std::future::pending().await };
    signals.next().await;
    tracing::info!("draining; a second signal ends the process at once");
    state.drain();
    signals.next().await;
    std::process::exit(EXIT_INTERRUPTED);
}

/// What a shell says of a process that SIGINT ended.
const EXIT_INTERRUPTED: i32 = 130;
