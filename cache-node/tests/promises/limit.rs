//! How long a test may take, whether others may run beside it, and who ends its nodes if it hangs.
//!
//! A test that hangs fails and its nodes are killed; its thread is left behind, since nobody can
//! end a thread.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::process::{Process, ms};

/// Starts the nodes of one test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nodes {
    pids: Arc<Mutex<Vec<u32>>>,
}

impl Nodes {
    /// As [`Process::start`].
    pub(crate) fn start(&self, args: &[&str]) -> Process {
        let node = Process::start(args);
        self.note(node.pid());
        node
    }

    /// As [`Process::start_at`].
    pub(crate) fn start_at(
        &self,
        address: SocketAddr,
        args: &[&str],
    ) -> Result<Process, ExitStatus> {
        let node = Process::start_at(address, args)?;
        self.note(node.pid());
        Ok(node)
    }

    fn note(&self, pid: u32) {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
    }

    fn kill_all(&self) {
        for pid in self.pids.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // Those that have ended may have left their number to somebody else.
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim_end() == "larder-node" {
                let script = format!("kill -KILL {pid}");
                let _ = std::process::Command::new("sh").args(["-c", &script]).status();
            }
        }
    }
}

/// Runs a test that looks at time: no other one runs beside it.
///
/// Threads of test machines are kept waiting by other work, sometimes for half a second. A fault of
/// ours does so each time: a test whose calls came late is run again, and fails if they always do.
pub(crate) fn alone(test: fn(&Nodes)) {
    let _machine = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let take_late = || std::mem::take(&mut *LATE.lock().unwrap_or_else(PoisonError::into_inner));
    // A test that failed may have left some.
    let mut late = take_late();
    for _ in 0..ATTEMPTS_MAX {
        limited(TEST_MAX, test);
        late = take_late();
        if late.is_empty() {
            return;
        }
        eprintln!("late, to be tried again: {late:?}");
    }
    panic!("late in each of {ATTEMPTS_MAX} attempts: {late:?}");
}

/// Notes that something came too late in a test that runs [`alone`].
pub(crate) fn note_late(what: String) {
    LATE.lock().unwrap_or_else(PoisonError::into_inner).push(what);
}

/// Runs a test that others may run beside.
pub(crate) fn among_others(test: impl FnOnce(&Nodes) + Send + 'static) {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    limited(TEST_MAX, test);
}

/// Fails a test that takes longer than this.
pub(crate) fn limited(at_most: Duration, test: impl FnOnce(&Nodes) + Send + 'static) {
    let nodes = Nodes::default();
    let (ended, end) = channel();
    let thread = std::thread::spawn({
        let nodes = nodes.clone();
        move || {
            test(&nodes);
            // Nobody listens to the end of a test that was given up.
            let _ = ended.send(());
        }
    });
    if end.recv_timeout(at_most) == Err(RecvTimeoutError::Timeout) {
        nodes.kill_all();
        panic!("not over after {at_most:?}");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

static MACHINE: RwLock<()> = RwLock::new(());
static LATE: Mutex<Vec<String>> = Mutex::new(Vec::new());
const ATTEMPTS_MAX: usize = 3;
/// Each takes seconds; test machines are shared and busy.
const TEST_MAX: Duration = ms(60_000);
