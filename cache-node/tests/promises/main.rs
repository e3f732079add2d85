//! What the tier promises, kept by the real client and real `larder-node` processes.
//!
//! Over TCP by the test `promises`, over shared memory by `promises_shm`, through network cards by
//! `promises_rdma`, which are this folder by other names. A file for each kind of promise. Nodes
//! are stopped and killed as processes, values say which key and version they are of, and no call
//! may outlast its deadline. What a reader would get wrong: a miss because of damage is as much a
//! failure here as wrong bytes, since nothing was damaged.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

#[path = "../content/mod.rs"]
mod content;
#[path = "../process/mod.rs"]
mod process;

mod budgets;
mod calls;
mod command;
mod fenced;
mod fresh;
mod full;
mod honest;
mod hurried;
mod killed;
mod limit;
mod load;
mod members;
mod room;
mod silence;
mod sizes;
mod stopped;
mod wanted;
