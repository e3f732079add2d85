//! A server of somebody else's for the length of a measurement: Redis, Valkey, memcached.
//!
//! A process of its own on a free port of the loopback or on a Unix socket, with nothing on disk.
//! Dropping it ends the process, whatever became of the measurement.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use larder_node::config::free_port_range;

use super::dialect::{END_OF_LINE, Text};
use crate::endpoint::{Endpoint, Socket};
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

/// What a server is given.
#[derive(Debug, Clone)]
pub struct RivalShape {
    /// Threads that serve: I/O threads of Redis and Valkey, workers of memcached.
    pub threads: usize,
    /// Requests that come at once over one connection.
    pub inflight: usize,
    /// Most memory of memcached in bytes; the others have no limit.
    pub memory_bytes: u64,
    /// The Unix socket to listen on, `None` for a free port of the loopback.
    pub unix: Option<PathBuf>,
}

/// A server process. Dropping it ends the process.
#[derive(Debug)]
pub struct RivalProcess {
    child: Child,
    endpoint: Endpoint,
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

    fn arguments(self, endpoint: &Endpoint, shape: &RivalShape) -> Vec<String> {
        let at = match (self, endpoint) {
            (Self::Memcached, Endpoint::Tcp(address)) => {
                vec!["-p".into(), address.port().to_string(), "-l".into(), address.ip().to_string()]
            }
            (Self::Memcached, Endpoint::Unix(path)) => {
                vec!["-s".into(), path.display().to_string(), "-a".into(), "0700".into()]
            }
            (_, Endpoint::Tcp(address)) => {
                let (ip, port) = (address.ip().to_string(), address.port().to_string());
                vec!["--port".into(), port, "--bind".into(), ip]
            }
            (_, Endpoint::Unix(path)) => {
                let path = path.display().to_string();
                vec!["--port".into(), "0".into(), "--unixsocket".into(), path]
            }
        };
        let threads = shape.threads;
        let line = match self {
            Self::Redis | Self::Valkey => {
                format!("--io-threads {threads} --appendonly no --loglevel warning --save")
            }
            // By default it turns to another connection after 20 requests of one, and sends what
            // it has: more in flight would cost it calls of the system for nothing. Started by
            // root it has to be told who to be, and `-u` says nothing to anybody else; another
            // user could not make a socket in a folder of ours.
            Self::Memcached => format!(
                "-U 0 -t {threads} -m {} -I 8m -R {} -u root",
                shape.memory_bytes >> 20,
                shape.inflight.max(20)
            ),
        };
        let mut arguments: Vec<String> = at;
        arguments.extend(line.split_whitespace().map(str::to_owned));
        if self != Self::Memcached {
            // `--save ""` keeps it from writing to disk.
            arguments.push(String::new());
        }
        arguments
    }
}

impl RivalProcess {
    /// Starts `program` and waits until it listens.
    ///
    /// # Errors
    /// [`RivalError`].
    pub fn start(rival: Rival, program: &Path, shape: &RivalShape) -> Result<Self, RivalError> {
        let path = program.to_path_buf();
        let start = |source| RivalError::Start { path: path.clone(), source };
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let endpoint = match &shape.unix {
            Some(path) => Endpoint::Unix(path.clone()),
            None => Endpoint::Tcp(SocketAddr::new(ip, free_port_range(ip, 1).map_err(start)?)),
        };
        let arguments = rival.arguments(&endpoint, shape);
        let child = Command::new(program)
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(start)?;
        let mut process = Self { child, endpoint, arguments };
        if process.wait_until_ready().map_err(start)? {
            Ok(process)
        } else {
            Err(RivalError::NotReady { path })
        }
    }

    /// Where it listens.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
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
        let mut socket = self.endpoint.connect().map_err(RivalError::Store)?;
        let fitting = PUTS_BYTES / u64::from(objects.object_bytes());
        let puts_in_flight = fitting.clamp(1, PUTS_IN_FLIGHT);
        let mut index = 0;
        while index < objects.count() {
            let end = objects.count().min(index + puts_in_flight);
            store(&mut socket, text, objects, index..end).map_err(RivalError::Store)?;
            index = end;
        }
        Ok(())
    }

    fn wait_until_ready(&mut self) -> io::Result<bool> {
        let until = Instant::now() + READY_TIMEOUT;
        while Instant::now() < until && self.child.try_wait()?.is_none() {
            if self.endpoint.connect().is_ok() {
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
    socket: &mut Socket,
    text: Text,
    objects: &Objects,
    indexes: std::ops::Range<u64>,
) -> io::Result<()> {
    let (mut puts, mut expected) = (Vec::new(), Vec::new());
    for index in indexes {
        let object = objects.bytes(index);
        text.encode_put_head(&objects.keys(index, 1)[0], object.len(), &mut puts);
        puts.extend_from_slice(&object);
        puts.extend_from_slice(END_OF_LINE);
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
/// Of large objects fewer are encoded at once.
const PUTS_BYTES: u64 = 4 << 20;
const READY_TIMEOUT: Duration = Duration::from_secs(10);
const READY_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(unix: Option<&str>) -> RivalShape {
        let unix = unix.map(PathBuf::from);
        RivalShape { threads: 1, inflight: 64, memory_bytes: 1 << 30, unix }
    }

    #[test]
    fn one_thread_serves_and_nothing_is_written() {
        let at = Endpoint::Tcp("127.0.0.1:7000".parse().unwrap());
        let redis = Rival::Redis.arguments(&at, &shape(None));
        let save = redis.iter().position(|argument| argument == "--save").unwrap();
        assert_eq!(redis[save + 1], "");
        assert!(redis.join(" ").contains("--io-threads 1 --appendonly no"));
        let memcached = Rival::Memcached.arguments(&at, &shape(None)).join(" ");
        assert!(memcached.contains("-t 1 -m 1024 -I 8m -R 64"), "{memcached}");
    }

    #[test]
    fn a_unix_socket_is_the_only_way_in() {
        let at = Endpoint::Unix("/x/y.sock".into());
        let redis = Rival::Redis.arguments(&at, &shape(Some("/x/y.sock"))).join(" ");
        assert!(redis.starts_with("--port 0 --unixsocket /x/y.sock "), "{redis}");
        let memcached = Rival::Memcached.arguments(&at, &shape(Some("/x/y.sock"))).join(" ");
        assert!(
            memcached.starts_with("-s /x/y.sock ") && !memcached.contains("-p "),
            "{memcached}"
        );
    }

    #[test]
    fn a_program_that_does_not_serve_is_an_error() {
        let error = RivalProcess::start(Rival::Redis, Path::new("/bin/true"), &shape(None));
        assert!(matches!(error, Err(RivalError::NotReady { .. })), "{error:?}");
        let error = RivalProcess::start(Rival::Redis, Path::new("/no/redis"), &shape(None));
        assert!(matches!(error, Err(RivalError::Start { .. })), "{error:?}");
    }
}
