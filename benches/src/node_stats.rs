//! What the nodes at the other end say of themselves: counters, and CPU time.
//!
//! CPU time is read from the kernel where the node runs on this host, for the node's own figure is
//! up to 300 ms old. In a node embedded in this process it cannot be told from the client's.

use std::thread;
use std::time::Duration;

use larder_client::{Client, Error, ShardValue};
use larder_protocol::stats::{STAT_NUMBERS, Stat};
use larder_transport::process;
use serde::Serialize;

/// Counters of all shards of all nodes together.
#[derive(Debug, Clone)]
pub struct NodeStats {
    sums: [u64; STAT_NUMBERS],
    shards: usize,
    processes: Vec<NodeProcessStats>,
}

/// Figures of one node's process.
#[derive(Debug, Clone, Copy, Default)]
struct NodeProcessStats {
    node_id: u64,
    process_id: u64,
    cpu_us: u64,
}

/// Where the node's CPU time is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuSource {
    /// It is this process: its time is in the client's.
    Embedded,
    /// From this host's kernel, in steps of 10 ms.
    Kernel,
    /// From the node, up to 300 ms old.
    Node,
}

/// Reads the CPU time of the nodes at the other end.
#[derive(Debug, Clone)]
pub struct NodeCpu {
    source: CpuSource,
    local_pids: Vec<u32>,
}

impl NodeStats {
    /// Asks every shard.
    ///
    /// # Errors
    /// If a shard cannot be asked: sums without it would mislead.
    pub fn read(client: &Client) -> Result<Self, Error> {
        let mut stats = Self { sums: [0; STAT_NUMBERS], shards: 0, processes: Vec::new() };
        for shard in client.stats(None)? {
            let ShardValue::Stats(values) = shard.answer? else { continue };
            let mut process = NodeProcessStats { node_id: shard.node_id, ..Default::default() };
            stats.shards += 1;
            for (stat, value) in values {
                stats.sums[stat as usize] += value;
                match stat {
                    Stat::ProcessId => process.process_id = value,
                    Stat::ProcessCpuUs => process.cpu_us = value,
                    _ => {}
                }
            }
            // Every shard of a node tells the figures of the one process.
            if !stats.processes.iter().any(|known| known.node_id == process.node_id) {
                stats.processes.push(process);
            }
        }
        Ok(stats)
    }

    /// What was added since `before`, of what only grows. A node that began anew meanwhile counts
    /// from nothing.
    pub fn since(mut self, before: &Self) -> Self {
        for (sum, before) in self.sums.iter_mut().zip(before.sums) {
            *sum = sum.checked_sub(before).unwrap_or(*sum);
        }
        self
    }

    /// How many shards were asked.
    pub const fn shards(&self) -> usize {
        self.shards
    }

    /// The sum over all shards.
    pub const fn sum(&self, stat: Stat) -> u64 {
        self.sums[stat as usize]
    }
}

impl NodeCpu {
    /// Finds out where to read it.
    ///
    /// # Errors
    /// As [`NodeStats::read`].
    pub fn find(client: &Client) -> Result<Self, Error> {
        let mut stats = NodeStats::read(client)?;
        for _ in 0..TRIES {
            if stats.processes.iter().all(|node| node.process_id != 0) {
                break;
            }
            // A node that has just started tells its process at its first tick.
            thread::sleep(PAUSE);
            stats = NodeStats::read(client)?;
        }
        let pids = stats.processes.iter().filter_map(|node| u32::try_from(node.process_id).ok());
        let local_pids: Vec<u32> = pids.collect();
        let is_own = |pid: &u32| *pid == std::process::id();
        let is_local = |node: &NodeProcessStats| {
            // Another host may have a process of this number, but hardly with this CPU time.
            let pid = u32::try_from(node.process_id).ok();
            pid.and_then(|pid| process::cpu_time_us(Some(pid)).ok())
                .is_some_and(|cpu_us| cpu_us.abs_diff(node.cpu_us) < SAME_PROCESS_US)
        };
        let source = if local_pids.iter().any(is_own) {
            CpuSource::Embedded
        } else if stats.processes.iter().all(is_local) {
            CpuSource::Kernel
        } else {
            CpuSource::Node
        };
        Ok(Self { source, local_pids })
    }

    /// Where it is read.
    pub const fn source(&self) -> CpuSource {
        self.source
    }

    /// CPU time of all nodes since they started, in microseconds; 0 if they are this process.
    ///
    /// # Errors
    /// As [`NodeStats::read`]; [`Error::System`] if a local node has ended.
    pub fn read_us(&self, client: &Client) -> Result<u64, Error> {
        match self.source {
            CpuSource::Embedded => Ok(0),
            CpuSource::Kernel => {
                let times = self.local_pids.iter().map(|&pid| process::cpu_time_us(Some(pid)));
                times.sum::<std::io::Result<u64>>().map_err(|error| Error::System {
                    what: "CPU time of the node",
                    kind: error.kind(),
                })
            }
            CpuSource::Node => {
                let stats = NodeStats::read(client)?;
                Ok(stats.processes.iter().map(|node| node.cpu_us).sum())
            }
        }
    }
}

/// A node's own figure is 300 ms old, and its threads may be busy meanwhile; 16 cores for that time
/// stay below this.
const SAME_PROCESS_US: u64 = 5_000_000;
/// A node ticks every tenth of a second.
const PAUSE: Duration = Duration::from_millis(50);
const TRIES: usize = 20;
