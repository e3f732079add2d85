//! The Unix sockets of a node: who owns their paths, who may connect, and how a connection gets to
//! its shard.
//!
//! One thread accepts for all shards, since the runtime's own Unix sockets cannot pass descriptors.
//! What a reader would get wrong: a socket file stays when its node is killed, and tells nothing. A
//! lock beside it does, which ends with its process, and a knock, to meet whoever listens without.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use larder_transport::{PeerProcess, process, socket};

use crate::config::Config;
use crate::counters::NodeState;

/// The sockets of all shards, listening; nobody is let in yet.
#[derive(Debug)]
pub(crate) struct Sockets {
    listeners: Vec<Listening>,
    halls: Vec<Arc<Hall>>,
    allowed: Vec<u32>,
    lock: Lock,
}

/// One socket and its file, which is removed with it.
#[derive(Debug)]
struct Listening {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

/// The thread that lets clients in, until the node drains.
#[derive(Debug)]
pub(crate) struct UdsDoor {
    thread: Option<JoinHandle<()>>,
    _lock: Lock,
}

/// Where connections wait for their shard.
#[derive(Debug)]
pub(crate) struct Hall {
    guests: Mutex<Vec<Guest>>,
    guests_max: usize,
    denied: AtomicU64,
    failed: AtomicU64,
    bell: UnixStream,
}

/// A connection that was let in.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) socket: UnixStream,
    pub(crate) process: PeerProcess,
}

/// What a shard needs to take its connections in.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) hall: Arc<Hall>,
    /// A byte arrives here whenever the hall is worth a look.
    pub(crate) bell: UnixStream,
}

impl Sockets {
    /// Listens for all shards of a node, and answers what each of them needs.
    ///
    /// # Errors
    /// With a message that names the path, if it is somebody else's, or no socket can be made.
    pub(crate) fn bind(config: &Config) -> io::Result<Option<(Self, Vec<Entry>)>> {
        let Some(base) = &config.uds else { return Ok(None) };
        if let Some(directory) = base.parent().filter(|directory| !directory.exists()) {
            DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
        }
        let lock = Lock::take(base)?;
        let (mut listeners, mut halls, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for path in (0..config.shards).filter_map(|shard| config.shard_socket(shard)) {
            listeners.push(Listening::bind(path)?);
            let (ours, bell) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            let hall = Arc::new(Hall {
                guests: Mutex::default(),
                guests_max: config.connections_max,
                denied: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                bell: ours,
            });
            halls.push(Arc::clone(&hall));
            entries.push(Entry { hall, bell });
        }
        let mut allowed = config.uds_allow.clone();
        if allowed.is_empty() {
            allowed.push(process::user_id());
        }
        Ok(Some((Self { listeners, halls, allowed, lock }, entries)))
    }

    /// Lets clients in until the node drains.
    ///
    /// # Errors
    /// If no thread can be had.
    pub(crate) fn open(self, state: Arc<NodeState>) -> io::Result<UdsDoor> {
        let Self { listeners, halls, allowed, lock } = self;
        let thread = std::thread::Builder::new().name("larder-door".into()).spawn(move || {
            let mut pause = PAUSE_MIN;
            while !state.is_draining() {
                match let_in(&listeners, &halls, &allowed) {
                    Ok(()) => pause = PAUSE_MIN,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept; waiting before the next try");
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
            }
        })?;
        Ok(UdsDoor { thread: Some(thread), _lock: lock })
    }
}

/// Waits for clients for a moment, and takes in some of those who came.
fn let_in(listeners: &[Listening], halls: &[Arc<Hall>], allowed: &[u32]) -> io::Result<()> {
    let sockets: Vec<_> = listeners.iter().map(|listening| &listening.listener).collect();
    if !socket::wait_readable(&sockets, LOOK_EVERY)? {
        return Ok(());
    }
    for (listener, hall) in sockets.iter().zip(halls) {
        for _ in 0..BURST {
            match listener.accept() {
                Ok((socket, _)) => hall.welcome(socket, allowed),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    hall.failed.fetch_add(1, Ordering::Relaxed);
                    hall.ring();
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

impl Drop for UdsDoor {
    fn drop(&mut self) {
        // The node is draining or stopping: else it would not be dropped.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that lets clients in failed");
        }
    }
}

impl Hall {
    fn welcome(&self, socket: UnixStream, allowed: &[u32]) {
        let counted = match PeerProcess::of(&socket) {
            Ok(process) if !allowed.contains(&process.uid()) => {
                tracing::info!(uid = process.uid(), pid = process.pid(), "a user is not allowed");
                Some(&self.denied)
            }
            Ok(process) => {
                let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
                if guests.len() < self.guests_max {
                    guests.push(Guest { socket, process });
                    None
                } else {
                    Some(&self.failed)
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot tell who connects");
                Some(&self.failed)
            }
        };
        if let Some(counter) = counted {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.ring();
    }

    fn ring(&self) {
        // A bell that is full of bytes has rung.
        let _ = (&self.bell).write(&[1]);
    }

    /// Takes those who wait.
    pub(crate) fn guests(&self) -> Vec<Guest> {
        std::mem::take(&mut *self.guests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many were denied, and how many could not be accepted, since the last time.
    pub(crate) fn turned_away(&self) -> [u64; 2] {
        [&self.denied, &self.failed].map(|counter| counter.swap(0, Ordering::Relaxed))
    }
}

impl Listening {
    fn bind(path: PathBuf) -> io::Result<Self> {
        remove_stale(&path)?;
        let listener = UnixListener::bind(&path)?;
        let inode = std::fs::symlink_metadata(&path)?.ino();
        let listening = Self { listener, path, inode };
        std::fs::set_permissions(&listening.path, Permissions::from_mode(0o660))?;
        listening.listener.set_nonblocking(true)?;
        Ok(listening)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "a socket file stays");
        }
    }
}

/// Removes the file of a socket that nobody listens at.
fn remove_stale(path: &Path) -> io::Result<()> {
    let taken = |what: &str| {
        let message = format!("{}: {what}", path.display());
        io::Error::new(io::ErrorKind::AddrInUse, message)
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(taken("a file is there that is no socket"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(taken("another process listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

/// Says whose a path is, for as long as this process lives.
#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    fn take(base: &Path) -> io::Result<Self> {
        let mut path = base.to_owned();
        path.as_mut_os_string().push(".lock");
        let taken = || {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            let message = format!(
                "another larder-node serves at {} (process {})",
                base.display(),
                holder.trim()
            );
            io::Error::new(io::ErrorKind::AddrInUse, message)
        };
        for _ in 0..LOCK_TRIES {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o640);
            let mut file = options.open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken()),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever had it before may have removed the file on the way: then it locks nothing.
            let is_it = std::fs::metadata(&path).is_ok_and(|found| {
                file.metadata()
                    .is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
            });
            if is_it {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(Self { file, path });
            }
        }
        Err(taken())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a lock file stays");
        }
        // Only now may somebody else have it.
        let _ = self.file.unlock();
    }
}

/// How often the thread looks whether the node drains.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Clients of one shard before those of the next. A guess.
const BURST: usize = 16;
/// Until accepting is tried again after it failed, and how long that may become. Guesses: most
/// often a descriptor has to be given back first.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A guess: each try loses against a node that removed its lock file just then.
const LOCK_TRIES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path) -> io::Result<Option<(Sockets, Vec<Entry>)>> {
        let config = Config { shards: 2, uds: Some(path.to_owned()), ..Config::default() };
        Sockets::bind(&config)
    }

    #[test]
    fn path_has_one_owner_and_its_files_go_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/node.sock");
        let first = bind(&path).unwrap().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(path.parent().unwrap()), 0o750);
        let second = directory.path().join("made/node.sock.1");
        assert_eq!((mode(&path), mode(&second)), (0o660, 0o660));
        let refused = bind(&path).unwrap_err().to_string();
        assert!(refused.contains("another larder-node serves at"), "{refused}");
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        // The base of one may be the second socket of another.
        let refused = bind(&second).unwrap_err().to_string();
        assert!(refused.contains("another process listens there"), "{refused}");
        drop(first);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        bind(&path).unwrap().unwrap();
    }

    #[test]
    fn stale_socket_is_replaced_and_other_files_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a socket that nobody listens at");
        drop(bind(&path).unwrap().unwrap());
        std::fs::write(&path, "mine").unwrap();
        let refused = bind(&path).unwrap_err().to_string();
        assert!(refused.contains("no socket"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
