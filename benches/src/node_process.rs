//! A `larder-node` process for the length of a measurement.
//!
//! A process of its own, because the CPU time of node and client must be told apart. The program is
//! the one beside this one; `cargo run --bin larder-bench` does not build it, so the message for a
//! missing one says how to.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use larder_node::config::free_port_range;

use crate::units::format_bytes;

/// What the node is given.
#[derive(Debug, Clone)]
pub struct NodeShape {
    /// How many shards.
    pub shards: u16,
    /// Memory for objects, all shards together, in bytes.
    pub memory_bytes: u64,
    /// Keeps each shard on a core, as nodes do unless told otherwise.
    pub is_pinned: bool,
    /// A Unix socket to listen on too.
    pub unix: Option<PathBuf>,
}

/// A node process. Dropping it ends the process.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    address: SocketAddr,
}

/// Why there is no node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no such program.
    #[error(
        "there is no {path:?}: build it with `cargo build --release -p larder-node`, name it with \
         --node-program, or name a node that runs with --node"
    )]
    NoProgram {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The process could not be started or asked.
    #[error("cannot start {path:?}: {source}")]
    Start {
        /// Which program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process ended before it served; its own message is on standard error.
    #[error("{path:?} ended without serving")]
    NotReady {
        /// Which program.
        path: PathBuf,
    },
}

impl NodeProcess {
    /// Starts `program`, or the one beside this program, on free ports of the loopback, and waits
    /// until it serves.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn start(program: Option<&Path>, shape: &NodeShape) -> Result<Self, NodeError> {
        let path = program.map_or_else(beside_this_program, Path::to_path_buf);
        if !path.is_file() {
            return Err(NodeError::NoProgram { path });
        }
        let start = |source| NodeError::Start { path: path.clone(), source };
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let address = SocketAddr::new(ip, free_port_range(ip, shape.shards).map_err(start)?);
        let child = Command::new(&path)
            .args(["--listen", &address.to_string()])
            .args(["--shards", &shape.shards.to_string()])
            .args(["--memory", &format_bytes(shape.memory_bytes)])
            .args(["--pin-cores", if shape.is_pinned { "on" } else { "off" }])
            .args(["--admin", "off", "--log", "warn"])
            .args(shape.unix.iter().flat_map(|socket| [OsStr::new("--uds"), socket.as_os_str()]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let mut node = Self { child, address };
        if !node.wait_until_ready().map_err(start)? {
            return Err(NodeError::NotReady { path });
        }
        Ok(node)
    }

    /// Where its first shard listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process, as the kernel numbers it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&mut self) -> io::Result<bool> {
        let stdout = self.child.stdout.take().expect("its standard output is piped");
        let mut line = String::new();
        BufReader::new(stdout.take(LINE_BYTES_MAX)).read_line(&mut line)?;
        Ok(line.starts_with("ready "))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end and nothing to say.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn beside_this_program() -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name("larder-node")
}

const LINE_BYTES_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> NodeShape {
        NodeShape { shards: 1, memory_bytes: 64 << 20, is_pinned: true, unix: None }
    }

    #[test]
    fn a_missing_program_is_named_with_the_way_to_build_it() {
        let error = NodeProcess::start(Some(Path::new("/no/larder-node")), &shape()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("/no/larder-node") && message.contains("cargo build"),
            "{message}"
        );
    }

    #[test]
    fn a_program_that_does_not_serve_is_an_error() {
        let error = NodeProcess::start(Some(Path::new("/bin/true")), &shape()).unwrap_err();
        assert!(matches!(error, NodeError::NotReady { .. }), "{error}");
    }
}
