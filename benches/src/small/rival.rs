//! A server of somebody else's for the length of a measurement: Redis, Valkey, memcached.
//!
//! A process of its own on a free port of the loopback, with one thread that serves and nothing on
//! disk. Dropping it ends the process, whatever became of the measurement.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use larder_node::config::free_port_range;

use super::dialect::Text;
use super::pipeline::connect;
use crate::load::Objects;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    /// `redis-server`.
    Redis,
    /// `valkey-server`.
    Valkey,
    /// `memcached`.
    Memcached,
}

/// A server process. Dropping it ends the process.
#[derive(Debug)]
pub struct RivalProcess {
    child: Child,
    address: SocketAddr,
    arguments: Vec<String>,
}

/// Why there is no server, or none with objects.
#[derive(Debug, thiserror::Error)]
pub enum RivalError {
    /// The process could not be started or asked.
    #[error("cannot start {path:?}: {source}")]
    Start {
        /// Which program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process ended, or did not listen in time; its own message is on standard error.
    #[error("{path:?} does not serve")]
    NotReady {
        /// Which program.
        path: PathBuf,
    },
    /// An object could not be stored.
    #[error("an object could not be stored beforehand: {0}")]
    Store(io::Error),
}

impl Rival {
    /// The name of its program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Valkey => "valkey-server",
            Self::Memcached => "memcached",
        }
    }

    /// Where its program is, if it is on the `PATH`.
    pub fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|folder| folder.join(self.program()))
            .find(|path| path.is_file())
    }

    /// What its program says of its version.
    pub fn version(program: &Path) -> String {
        let output = Command::new(program).arg("--version").output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.unwrap_or_default().lines().next().unwrap_or("unknown").to_owned()
    }

    /// The words it speaks, each with the name of a server that speaks them.
    pub const fn texts(self) -> &'static [(&'static str, Text)] {
        match self {
            Self::Redis => &[("redis", Text::Resp)],
            Self::Valkey => &[("valkey", Text::Resp)],
            Self::Memcached => {
                &[("memcached", Text::Memcached), ("memcached-meta", Text::MemcachedMeta)]
            }
        }
    }

    fn arguments(self, port: u16, inflight: usize) -> Vec<String> {
        let line = match self {
            Self::Redis | Self::Valkey => format!(
                "--port {port} --bind 127.0.0.1 --io-threads 1 --appendonly no --loglevel warning \
                 --save"
            ),
            // By default it turns to another connection after 20 requests of one, and sends what
            // it has: more in flight would cost it calls of the system for nothing. It may not
            // stay root, and `-u` says nothing to one that is not.
            Self::Memcached => format!(
                "-p {port} -l 127.0.0.1 -U 0 -t 1 -m 1024 -R {} -u nobody",
                inflight.max(20)
            ),
        };
        let mut arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if self != Self::Memcached {
            // `--save ""` keeps it from writing to disk.
            arguments.push(String::new());
        }
        arguments
    }
}

impl RivalProcess {
    /// Starts `program` and waits until it listens. `inflight` requests will come at once.
    ///
    /// # Errors
    /// [`RivalError`].
    pub fn start(rival: Rival, program: &Path, inflight: usize) -> Result<Self, RivalError> {
        let path = program.to_path_buf();
        let start = |source| RivalError::Start { path: path.clone(), source };
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let port = free_port_range(ip, 1).map_err(start)?;
        let arguments = rival.arguments(port, inflight);
        let child = Command::new(program)
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(start)?;
        let mut process = Self { child, address: SocketAddr::new(ip, port), arguments };
        if process.wait_until_ready().map_err(start)? {
            Ok(process)
        } else {
            Err(RivalError::NotReady { path })
        }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process, as the kernel numbers it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it was started with.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Stores all objects.
    ///
    /// # Errors
    /// [`RivalError::Store`] if it says of one that it did not.
    pub fn store_all(&self, text: Text, objects: &Objects) -> Result<(), RivalError> {
        let mut socket = connect(self.address).map_err(RivalError::Store)?;
        let mut index = 0;
        while index < objects.count() {
            let end = objects.count().min(index + PUTS_IN_FLIGHT);
            store(&mut socket, text, objects, index..end).map_err(RivalError::Store)?;
            index = end;
        }
        Ok(())
    }

    fn wait_until_ready(&mut self) -> io::Result<bool> {
        let until = Instant::now() + READY_TIMEOUT;
        while Instant::now() < until && self.child.try_wait()?.is_none() {
            if TcpStream::connect_timeout(&self.address, READY_PAUSE).is_ok() {
                return Ok(true);
            }
            thread::sleep(READY_PAUSE);
        }
        Ok(false)
    }
}

impl Drop for RivalProcess {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end and nothing to say.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn store(
    socket: &mut TcpStream,
    text: Text,
    objects: &Objects,
    indexes: std::ops::Range<u64>,
) -> io::Result<()> {
    let (mut puts, mut expected) = (Vec::new(), Vec::new());
    for index in indexes {
        text.encode_put(&objects.keys(index, 1)[0], &objects.bytes(index), &mut puts);
        expected.extend_from_slice(text.stored());
    }
    socket.write_all(&puts)?;
    let mut answers = vec![0; expected.len()];
    // An error may be shorter than what is expected; then the socket's timeout ends the wait.
    socket.read_exact(&mut answers)?;
    if answers == expected { Ok(()) } else { Err(super::dialect::odd(&answers)) }
}

/// Answers to so many puts never fill a socket, so writing all of them first cannot lock both up.
const PUTS_IN_FLIGHT: u64 = 64;
const READY_TIMEOUT: Duration = Duration::from_secs(10);
const READY_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_serves_and_nothing_is_written() {
        let redis = Rival::Redis.arguments(7000, 64);
        let at = redis.iter().position(|argument| argument == "--save").unwrap();
        assert_eq!(redis[at + 1], "");
        assert!(redis.join(" ").contains("--io-threads 1 --appendonly no"));
        let memcached = Rival::Memcached.arguments(7000, 64).join(" ");
        assert!(memcached.contains("-t 1 -m 1024 -R 64"), "{memcached}");
    }

    #[test]
    fn a_program_that_does_not_serve_is_an_error() {
        let error = RivalProcess::start(Rival::Redis, Path::new("/bin/true"), 1).unwrap_err();
        assert!(matches!(error, RivalError::NotReady { .. }), "{error}");
        let error = RivalProcess::start(Rival::Redis, Path::new("/no/redis"), 1).unwrap_err();
        assert!(matches!(error, RivalError::Start { .. }), "{error}");
    }
}
