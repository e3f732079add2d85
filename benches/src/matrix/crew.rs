//! The worker processes of a comparison, as whoever gives the orders sees them.
//!
//! A process is this program again, under a hidden command. It ends when its standard input does,
//! so it never outlives whoever started it.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::order::{Ask, Order, Ran, Setup};

/// Worker processes. Dropping it ends them.
#[derive(Debug)]
pub struct Crew {
    workers: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    /// A worker could not be started, or told.
    #[error("a worker: {0}")]
    Io(#[from] io::Error),
    /// A worker ended; its own message is on standard error.
    #[error("a worker ended early")]
    Ended,
    /// A worker's answer is none.
    #[error("a worker's answer: {0}")]
    Json(#[from] serde_json::Error),
}

impl Crew {
    /// Starts `program` with `command` as often as `setup` says, and waits until all are ready.
    ///
    /// # Errors
    /// [`CrewError`].
    pub fn start(program: &Path, command: &str, setup: &Setup) -> Result<Self, CrewError> {
        let mut crew = Self { workers: Vec::new() };
        for number in 0..setup.workers {
            let mut child = Command::new(program)
                .arg(command)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let orders = child.stdin.take().expect("its standard input is piped");
            let answers = child.stdout.take().expect("its standard output is piped");
            let mut worker = Process { child, orders, answers: BufReader::new(answers) };
            let told = worker.tell(&Setup { number, ..setup.clone() });
            crew.workers.push(worker);
            told?;
        }
        crew.answers(setup.workers)?;
        Ok(crew)
    }

    /// Lets the first `clients` workers make ready for `order`.
    ///
    /// # Errors
    /// [`CrewError`].
    pub fn prepare(&mut self, clients: usize, order: &Order) -> Result<(), CrewError> {
        self.ask(clients, &Ask::Prepare(order.clone())).map(drop)
    }

    /// Lets the first `clients` workers do what they prepared, at the same time, and says how long
    /// that took from the first start to the last end.
    ///
    /// # Errors
    /// [`CrewError`].
    pub fn run(&mut self, clients: usize) -> Result<(Vec<Ran>, Duration), CrewError> {
        let started = Instant::now();
        let ran = self.ask(clients, &Ask::Run)?;
        Ok((ran, started.elapsed()))
    }

    /// Lets the first `clients` workers check every byte of a call like their last, or of what
    /// they put last.
    ///
    /// # Errors
    /// [`CrewError`].
    pub fn check_last(&mut self, clients: usize) -> Result<Vec<Ran>, CrewError> {
        self.ask(clients, &Ask::CheckLast)
    }

    /// Lets the first worker read `count` objects, evenly spread, and check every byte.
    ///
    /// # Errors
    /// [`CrewError`].
    pub fn check_all(&mut self, link: usize, count: u64) -> Result<Vec<Ran>, CrewError> {
        self.ask(1, &Ask::CheckAll { link, count })
    }

    fn ask(&mut self, clients: usize, ask: &Ask) -> Result<Vec<Ran>, CrewError> {
        for worker in &mut self.workers[..clients] {
            worker.tell(ask)?;
        }
        self.answers(clients)
    }

    fn answers(&mut self, clients: usize) -> Result<Vec<Ran>, CrewError> {
        self.workers[..clients].iter_mut().map(Process::answer).collect()
    }
}

impl Process {
    fn tell(&mut self, what: &impl serde::Serialize) -> Result<(), CrewError> {
        let mut line = serde_json::to_string(what)?;
        line.push('\n');
        Ok(self.orders.write_all(line.as_bytes())?)
    }

    fn answer(&mut self) -> Result<Ran, CrewError> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(CrewError::Ended);
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end and nothing to say.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
