//! What executors and the control thread share: published counters, and where the node is in life.
//!
//! The request path never touches any of this. A shard counts in plain integers and publishes them
//! each 100 ms, so what is read here is up to that old, and two numbers may be of different ticks.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use larder_protocol::Opcode;
use larder_protocol::stats::{STAT_NUMBERS, Stat};

use crate::board::Board;
use crate::config::Config;
use crate::judgement::Judgement;

/// How many numbers a table of all opcodes needs.
pub const OPCODE_NUMBERS: usize = 32;

/// What one shard has published.
#[derive(Debug)]
pub struct Counters {
    values: [AtomicU64; STAT_NUMBERS],
    requests: [AtomicU64; OPCODE_NUMBERS],
    ticks: AtomicU64,
    thread: AtomicU32,
}

impl Counters {
    /// Counters of a shard that has not ticked yet.
    pub fn new() -> Self {
        Self {
            values: [const { AtomicU64::new(0) }; STAT_NUMBERS],
            requests: [const { AtomicU64::new(0) }; OPCODE_NUMBERS],
            ticks: AtomicU64::new(0),
            thread: AtomicU32::new(0),
        }
    }

    /// Shows the values of all stats, indexed by their numbers.
    pub fn publish(&self, values: &[u64; STAT_NUMBERS]) {
        store_all(&self.values, values);
    }

    /// Shows how many requests of each opcode were answered, indexed by the opcodes' numbers.
    pub fn publish_requests(&self, counts: &[u64; OPCODE_NUMBERS]) {
        store_all(&self.requests, counts);
    }

    /// The value of a stat when it was last published.
    pub fn read(&self, stat: Stat) -> u64 {
        self.values[stat as usize].load(Ordering::Relaxed)
    }

    /// Requests of an opcode when they were last published.
    pub fn requests(&self, opcode: Opcode) -> u64 {
        self.requests[opcode as usize].load(Ordering::Relaxed)
    }

    /// Says that the shard's executor is alive. Each 100 ms, by a task of the executor itself.
    pub fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Says which thread the executor is.
    pub fn set_thread(&self, id: u32) {
        self.thread.store(id, Ordering::Relaxed);
    }

    /// Which thread the executor is, `None` before it has said so.
    pub fn thread(&self) -> Option<u32> {
        Some(self.thread.load(Ordering::Relaxed)).filter(|&id| id != 0)
    }

    /// Says that the executor ends as it should, and that no tick will follow.
    pub fn retire(&self) {
        self.ticks.fetch_or(RETIRED, Ordering::Relaxed);
    }

    /// How often the executor ticked, `None` once it has retired.
    pub fn ticks(&self) -> Option<u64> {
        let ticks = self.ticks.load(Ordering::Relaxed);
        (ticks & RETIRED == 0).then_some(ticks)
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a node is in its life. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Memory and listeners are being prepared.
    Starting = 0,
    /// Takes requests.
    Serving = 1,
    /// Takes no new connections and no puts, finishes what it had accepted.
    Draining = 2,
    /// Executors end now, whatever they were doing.
    Stopping = 3,
}

impl Phase {
    /// Its name in answers and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// What all threads of a node know about it.
#[derive(Debug)]
pub struct NodeState {
    /// Names the node for placement and people.
    pub name: String,
    /// Made from the name, for placement.
    pub id: u64,
    /// Random at each start.
    pub incarnation: u64,
    /// When the node began to start.
    pub started: Instant,
    /// Where each shard listens.
    pub addresses: Vec<SocketAddr>,
    /// What each shard has published.
    pub shards: Vec<Arc<Counters>>,
    /// What they learn from each other.
    pub judgement: Judgement,
    /// What they count by namespace and class.
    pub board: Board,
    /// Where the admin listener is, once it is bound.
    pub admin: OnceLock<SocketAddr>,
    phase: AtomicU8,
    process_cpu_us: AtomicU64,
    process_rss_bytes: AtomicU64,
}

impl NodeState {
    /// The state of a node that starts now. The ports of `config` must be known, see
    /// [`Config::pick_ports`].
    pub fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            name: config.node_name(),
            id: config.node_id(),
            // 0 means that it is not known.
            incarnation: RandomState::new().hash_one(std::process::id()).max(1),
            started: Instant::now(),
            addresses: (0..config.shards).map(|shard| config.shard_address(shard)).collect(),
            shards: (0..config.shards).map(|_| Arc::default()).collect(),
            judgement: Judgement::new(config.shards),
            board: Board::new(config.shards),
            admin: OnceLock::new(),
            phase: AtomicU8::new(Phase::Starting as u8),
            process_cpu_us: AtomicU64::new(0),
            process_rss_bytes: AtomicU64::new(0),
        })
    }

    /// Where the node is in its life. Executors ask this on their tick.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            2 => Phase::Draining,
            _ => Phase::Stopping,
        }
    }

    /// Says that every shard serves.
    pub fn set_ready(&self) {
        self.enter(Phase::Serving);
    }

    /// Asks the shards to take nothing new and to finish what they had accepted.
    pub fn drain(&self) {
        self.enter(Phase::Draining);
    }

    /// Asks the shards to end at once.
    pub fn stop_now(&self) {
        self.enter(Phase::Stopping);
    }

    /// Whether the node takes nothing new.
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Whether executors shall end at once.
    pub fn is_stopping_now(&self) -> bool {
        self.phase() == Phase::Stopping
    }

    fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// What is said of the whole process, when it was last looked at; of other stats 0.
    pub fn process(&self, stat: Stat) -> u64 {
        match stat {
            Stat::ProcessId => u64::from(std::process::id()),
            Stat::ProcessCpuUs => self.process_cpu_us.load(Ordering::Relaxed),
            Stat::ProcessRssBytes => self.process_rss_bytes.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    /// Shows what the process uses. The control thread does this each 200 ms.
    pub(crate) fn publish_process(&self, cpu_us: u64, rss_bytes: u64) {
        self.process_cpu_us.store(cpu_us, Ordering::Relaxed);
        self.process_rss_bytes.store(rss_bytes, Ordering::Relaxed);
    }
}

fn store_all(to: &[AtomicU64], values: &[u64]) {
    to.iter().zip(values).for_each(|(to, value)| to.store(*value, Ordering::Relaxed));
}

/// A bit of the ticks that no executor reaches by ticking, and that one more tick does not clear.
const RETIRED: u64 = 1 << 63;

const _: () = assert!((Opcode::Accounts as usize) < OPCODE_NUMBERS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stat_is_read_where_it_was_published() {
        let counters = Counters::new();
        counters.publish(&std::array::from_fn(|number| number as u64 * 3));
        assert!(Stat::ALL.iter().all(|&stat| counters.read(stat) == stat as u64 * 3));
        counters.publish_requests(&std::array::from_fn(|number| number as u64));
        assert_eq!(counters.requests(Opcode::Put), Opcode::Put as u64);
    }

    #[test]
    fn ticks_grow_until_the_executor_retires() {
        let counters = Counters::new();
        counters.tick();
        counters.tick();
        assert_eq!(counters.ticks(), Some(2));
        counters.retire();
        counters.tick();
        assert_eq!(counters.ticks(), None);
    }

    #[test]
    fn a_node_never_goes_back_to_an_earlier_phase() {
        let config = Config { shards: 2, ..Config::default() };
        let state = NodeState::new(&config);
        assert_eq!((state.phase(), state.shards.len()), (Phase::Starting, 2));
        for (enter, then) in [
            (Phase::Serving, Phase::Serving),
            (Phase::Draining, Phase::Draining),
            (Phase::Serving, Phase::Draining),
            (Phase::Stopping, Phase::Stopping),
            (Phase::Draining, Phase::Stopping),
        ] {
            state.enter(enter);
            assert_eq!(state.phase(), then);
        }
    }
}
