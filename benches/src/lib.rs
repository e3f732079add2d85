//! Workloads, trace replay and the load tester `larder-bench`.
//!
//! Every number comes with the command that made it, and every ratio is taken inside one run: two
//! runs of one machine differ by more than most claims.
#![forbid(unsafe_code)]

pub mod awake;
pub mod cold;
pub mod content;
pub mod copy;
pub mod cpu;
pub mod endpoint;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod latency;
pub mod load;
pub mod machine;
pub mod matrix;
pub mod measure;
pub mod mixed;
pub mod names;
pub mod node_process;
pub mod node_stats;
pub mod paths;
pub mod policy;
pub mod posting;
pub mod progress;
pub mod random;
pub mod reference;
pub mod replay;
pub mod report;
pub mod sides;
pub mod small;
pub mod standstill;
pub mod stream;
pub mod tally;
pub mod trace;
pub mod units;
