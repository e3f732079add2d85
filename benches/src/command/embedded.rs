//! A node inside this process, on free ports and a Unix socket, and without an admin listener.
//!
//! Its CPU time is part of this process's, so nothing that compares CPU may use it.

use larder_node::config::Config;
use larder_node::node::Node;
use tempfile::TempDir;

use super::Failure;

/// A node. Dropping it stops it.
pub(super) struct Embedded {
    node: Node,
    /// Where its socket is; goes after the node.
    _folder: TempDir,
}

/// Starts a node.
pub(super) fn start(shards: u16, memory_bytes: u64) -> Result<Embedded, Failure> {
    let folder = TempDir::new()?;
    let uds = Some(folder.path().join("larder.sock"));
    let node = Node::start(Config { shards, memory_bytes, uds, ..Config::default() })?;
    Ok(Embedded { node, _folder: folder })
}

impl std::ops::Deref for Embedded {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}
