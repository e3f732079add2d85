//! A load on a node: workers, what they do, and what came of it.
//!
//! [`Load::prepare`] connects, makes memory and stores what will be read; [`Load::run`] may follow
//! many times and measures nothing of that. A run ends when the last operation that it began does.

mod arrivals;
mod objects;
mod prefill;
mod score;
mod shelf;
mod worker;

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use larder_client::{Client, CompletionQueue, Config, Error, Key, Namespace, NamespaceSpec};

use crate::cold::ColdMemory;
use crate::measure::{Cost, Stopwatch};
use crate::node_stats::{CpuSource, NodeCpu, NodeStats};
use crate::paths::{self, PathChoice};
use crate::random::{Random, mix};
use arrivals::Arrivals;
pub use objects::Objects;
pub use prefill::prefill;
pub use score::{Live, Score};
use shelf::SHELF_BYTES_MAX;
pub use shelf::Shelf;
use worker::Worker;

/// What an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Reads a batch of objects.
    Get,
    /// Stores a batch of objects.
    Put,
    /// Either of the two, at random.
    Mixed,
    /// Asks which of a batch of keys are there.
    Match,
}

/// Where a get's objects come to lie, and where a put's come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// In memory that the client allocates, many calls in flight from one thread.
    Allocated,
    /// In cold memory that belongs to the load, one thread for each call in flight.
    Own,
    /// As [`Reads::Own`], in memory that is registered with the client. Puts come from such memory,
    /// too, in which all objects are made beforehand.
    Registered,
    /// Where the node has them, one thread for each call in flight. An object that is not checked
    /// in every byte is not looked at.
    Leased,
}

/// What a load does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Address of a node.
    pub node: String,
    /// What its operations are.
    pub op: Op,
    /// Size of every object in bytes.
    pub object_bytes: u32,
    /// How many objects there are.
    pub keys: u64,
    /// Objects of one operation.
    pub batch: usize,
    /// Operations in flight on each client.
    pub inflight: usize,
    /// Clients, each with an I/O thread and connections of its own.
    pub clients: usize,
    /// Of 100 operations of [`Op::Mixed`], how many store.
    pub put_percent: u8,
    /// Names the objects, which are numbered from 0.
    pub key_of: fn(u64) -> Key,
    /// Of so many reads one is checked in every byte against what it must be; 0 checks none. The
    /// others are checked in length.
    pub verify_one_in: u64,
    /// Open loop: operations a second that are due, all clients together. `None` is a closed loop.
    pub rate_per_s: Option<f64>,
    /// How long one operation may take.
    pub deadline: Duration,
    /// Where a get's objects come to lie.
    pub reads: Reads,
    /// Which way the clients go.
    pub path: PathChoice,
    /// The network card that they use, `None` for the first that there is.
    pub rdma_device: Option<String>,
    /// Memory that reads go through, all workers together, in bytes.
    pub cold_bytes: u64,
}

/// Why a load could not be prepared or run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The node, or the client, did not do its part.
    #[error("{what}: {source}")]
    Client {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        source: Error,
    },
    /// An object that is to be read could not be stored.
    #[error("an object could not be stored beforehand: {0}")]
    Prefill(larder_client::KeyError),
    /// All objects would not fit the memory that they are put from.
    #[error("objects of {bytes} B do not fit registered memory of {SHELF_BYTES_MAX} B: take fewer")]
    Shelf {
        /// What they have together.
        bytes: u64,
    },
    /// CPU times could not be read.
    #[error("CPU time: {0}")]
    Cpu(#[from] io::Error),
}

/// A load that is ready to run.
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    clients: Vec<Client>,
    namespace: Namespace,
    objects: Arc<Objects>,
    memories: Vec<ColdMemory>,
    /// One for each client, if puts come from registered memory.
    shelves: Vec<Arc<Shelf>>,
    node_cpu: NodeCpu,
    rounds: u64,
}

/// What came of one run.
#[derive(Debug)]
pub struct Round {
    /// Counts of all workers.
    pub score: Score,
    /// What it cost.
    pub cost: Cost,
    /// What the nodes counted meanwhile, of what only grows, where they were asked.
    pub node: Option<NodeStats>,
}

impl Load {
    /// Connects, and stores what will be read.
    ///
    /// # Errors
    /// [`LoadError`].
    ///
    /// # Panics
    /// If a number of the plan is 0.
    pub fn prepare(plan: Plan) -> Result<Self, LoadError> {
        assert!(
            plan.keys > 0 && plan.batch > 0 && plan.inflight > 0 && plan.clients > 0,
            "{plan:?}"
        );
        let mut clients = Vec::new();
        let spec = NamespaceSpec {
            layout: format!("{} B", plan.object_bytes),
            ..NamespaceSpec::new("larder-bench", "load")
        };
        let mut namespace = None;
        for _ in 0..plan.clients {
            let config = Config {
                deadline: plan.deadline,
                name: "larder-bench load".into(),
                inflight_max: plan.inflight.max(Config::default().inflight_max),
                rdma_device: plan.rdma_device.clone(),
                ..Config::seed(&plan.node)
            };
            let client = paths::connect(config, plan.path).map_err(failed("connect"))?;
            // Asks every shard, so every connection is there before the first measured call.
            namespace = Some(client.namespace(spec.clone()).map_err(failed("open the namespace"))?);
            clients.push(client);
        }
        let namespace = namespace.expect("there is a client");
        let node_cpu = NodeCpu::find(&clients[0]).map_err(failed("ask for counters"))?;
        let mut objects = Objects::new(plan.object_bytes, plan.keys, plan.batch, plan.key_of);
        let mut shelves = Vec::new();
        if plan.reads == Reads::Registered {
            for client in &clients {
                shelves.push(Arc::new(Shelf::new(client, &objects)?));
            }
        } else if matches!(plan.op, Op::Put | Op::Mixed) {
            objects.make_ready();
        }
        let memories = memories(&plan, &clients)?;
        let (objects, rounds) = (Arc::new(objects), 0);
        let load = Self { plan, clients, namespace, objects, memories, shelves, node_cpu, rounds };
        if load.plan.op != Op::Put {
            let shelf = load.shelves.first().map(|shelf| &**shelf);
            prefill(load.client(), &load.namespace, &load.objects, shelf)?;
        }
        Ok(load)
    }

    /// Where the CPU time of the node is read.
    pub const fn cpu_source(&self) -> CpuSource {
        self.node_cpu.source()
    }

    /// The client that a caller may ask for counters meanwhile.
    pub fn client(&self) -> &Client {
        &self.clients[0]
    }

    /// The namespace that the objects are in.
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What it reads and writes.
    pub const fn objects(&self) -> &Arc<Objects> {
        &self.objects
    }

    /// Works for `duration`; `watch` is called about every tenth of a second meanwhile.
    ///
    /// # Errors
    /// [`LoadError`] if CPU times cannot be read or there is no descriptor left. What operations
    /// meet is counted instead.
    pub fn run(
        &mut self,
        duration: Duration,
        mut watch: impl FnMut(&Live),
    ) -> Result<Round, LoadError> {
        self.rounds += 1;
        let live = Arc::new(Live::default());
        let workers = self.workers(&live)?;
        let start = Barrier::new(workers.len() + 1);
        let rate = self.plan.rate_per_s.map(|rate| rate / workers.len() as f64);
        let mut score = Score::default();
        let (ended, ends) = mpsc::channel();
        let before = NodeStats::read(self.client()).map_err(failed("ask for counters"))?;
        let node_before = self.node_cpu_us()?;
        let (took, own_cpu_us) = thread::scope(|scope| {
            let (mut working, start) = (workers.len(), &start);
            for worker in workers {
                let ended = ended.clone();
                scope.spawn(move || {
                    start.wait();
                    // The receiver lives until every worker has ended.
                    let _ = ended.send(worker.work(rate, duration));
                });
            }
            drop(ended);
            // No way out before the workers were let go: they would wait for ever.
            let stopwatch = Stopwatch::start();
            start.wait();
            while working > 0 {
                match ends.recv_timeout(WATCH_PAUSE) {
                    Ok((worker_score, memory)) => {
                        score.merge(worker_score);
                        self.memories.push(memory);
                        working -= 1;
                    }
                    Err(RecvTimeoutError::Timeout) => watch(&live),
                    // A worker panicked; the scope tells.
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            stopwatch?.read()
        })?;
        let other_cpu_us = self.node_cpu_us()?.saturating_sub(node_before);
        let after = NodeStats::read(self.client()).map_err(failed("ask for counters"))?;
        let Score { ops, objects, bytes, .. } = score;
        let latency = score.latency.clone();
        let cost = Cost { ops, objects, bytes, took, own_cpu_us, other_cpu_us, latency };
        Ok(Round { score, cost, node: Some(after.since(&before)) })
    }

    fn workers(&mut self, live: &Arc<Live>) -> Result<Vec<Seat>, LoadError> {
        let per_client = self.memories.len() / self.clients.len();
        let mut seats = Vec::new();
        for (number, memory) in std::mem::take(&mut self.memories).into_iter().enumerate() {
            let seed = mix(self.rounds, number as u64);
            let worker = Worker {
                client: self.clients[number / per_client].clone(),
                shelf: self.shelves.get(number / per_client).map(Arc::clone),
                namespace: self.namespace.clone(),
                objects: Arc::clone(&self.objects),
                plan: self.plan.clone(),
                random: Random::new(seed),
                live: Arc::clone(live),
                started: Instant::now(),
                score: Score::default(),
            };
            let queue = match self.plan.reads {
                Reads::Allocated => {
                    Some(CompletionQueue::new().map_err(failed("make a completion queue"))?)
                }
                Reads::Own | Reads::Registered | Reads::Leased => None,
            };
            seats.push(Seat { worker, memory, queue, seed });
        }
        Ok(seats)
    }

    fn node_cpu_us(&self) -> Result<u64, LoadError> {
        self.node_cpu.read_us(self.client()).map_err(failed("ask for CPU time"))
    }
}

/// A worker with what only it may touch.
struct Seat {
    worker: Worker,
    memory: ColdMemory,
    queue: Option<CompletionQueue>,
    seed: u64,
}

impl Seat {
    fn work(mut self, rate: Option<f64>, duration: Duration) -> (Score, ColdMemory) {
        let start = Instant::now();
        let arrivals = rate.map(|rate| Arrivals::new(start, rate, self.seed));
        let until = start + duration;
        self.worker.started = start;
        match &self.queue {
            None => self.worker.wait_for_each(arrivals, until, &mut self.memory),
            Some(queue) => self.worker.keep_queued(arrivals, until, queue),
        }
        (self.worker.score, self.memory)
    }
}

/// One memory for each worker: of all calls in flight if they wait, else of each client.
fn memories(plan: &Plan, clients: &[Client]) -> Result<Vec<ColdMemory>, LoadError> {
    if plan.reads == Reads::Allocated {
        return Ok((0..plan.clients).map(|_| ColdMemory::new(0, 0)).collect());
    }
    let workers = plan.clients * plan.inflight;
    if plan.reads == Reads::Leased || matches!(plan.op, Op::Put | Op::Match) {
        return Ok((0..workers).map(|_| ColdMemory::new(0, 0)).collect());
    }
    let operation_bytes = plan.batch as u64 * u64::from(plan.object_bytes);
    let share = plan.cold_bytes / workers as u64;
    if plan.reads == Reads::Own {
        return Ok((0..workers).map(|_| ColdMemory::new(share, operation_bytes)).collect());
    }
    let memory = |number: usize| {
        ColdMemory::registered(&clients[number / plan.inflight], share, operation_bytes)
    };
    (0..workers).map(memory).collect::<Result<_, _>>().map_err(failed("register memory"))
}

fn failed(what: &'static str) -> impl Fn(Error) -> LoadError {
    move |source| LoadError::Client { what, source }
}

const WATCH_PAUSE: Duration = Duration::from_millis(100);
