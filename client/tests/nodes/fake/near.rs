//! The Unix socket of a fake node: one that is missing, shut or open.
//!
//! What a reader would get wrong: the node tells everybody of its socket from the start, also while
//! there is none. Descriptors that come over it are lost, so it sees no memory that it is given.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{sleep, spawn};
use std::time::Duration;

use larder_protocol::message::SocketPath;

use super::{FakeNode, Mood};

/// A node of one shard, and where its Unix socket is or will be.
pub(crate) struct NearNode {
    pub(crate) node: FakeNode,
    path: PathBuf,
}

impl NearNode {
    /// A node without its socket. `name` is the test's.
    pub(crate) fn start(name: &str) -> Self {
        let name = format!("larder-fake-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let uds = SocketPath::new(path.as_os_str().as_bytes()).unwrap();
        Self { node: FakeNode::start_with(1, 1, uds), path }
    }

    /// Makes its socket.
    pub(crate) fn open(&self) {
        let listener = UnixListener::bind(Path::new(&self.path)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::clone(&self.node.shared);
        spawn(move || {
            while !shared.is_down.load(Ordering::SeqCst) {
                let Ok((socket, _)) = listener.accept() else {
                    sleep(Duration::from_millis(1));
                    continue;
                };
                if *shared.mood.lock().unwrap() == Mood::Shut {
                    continue;
                }
                shared.near_connections.fetch_add(1, Ordering::SeqCst);
                // Any stream socket is one to the kernel.
                shared.talk(0, TcpStream::from(OwnedFd::from(socket)));
            }
        });
    }

    /// How many connections over the socket were let in.
    pub(crate) fn connection_count(&self) -> usize {
        self.node.shared.near_connections.load(Ordering::SeqCst)
    }
}

impl Drop for NearNode {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
