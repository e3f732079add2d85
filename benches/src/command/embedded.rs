//! A node inside this process, on free ports and without an admin listener.
//!
//! Its CPU time is part of this process's, so nothing that compares CPU may use it.

use larder_node::config::Config;
use larder_node::node::{Node, StartError};

/// Starts a node; dropping it stops it.
pub(super) fn start(shards: u16, memory_bytes: u64) -> Result<Node, StartError> {
    Node::start(Config { shards, memory_bytes, ..Config::default() })
}
