//! A `larder-node` process of our own: started on free ports, signalled and killed by its pid.
//!
//! Faults of a process are shown on a process. What a reader would get wrong: free ports are not
//! reserved, so a start that finds its port taken meanwhile is tried again elsewhere.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use larder_node::config::free_port_range;

/// A running node. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    /// The line that it said when it was ready.
    pub(crate) ready_line: String,
    /// Where shard 0 listens.
    pub(crate) address: SocketAddr,
    /// Where the Unix sockets of a node of [`Process::start_local`] are.
    directory: Option<tempfile::TempDir>,
}

impl Process {
    /// A node of one shard with 64 MiB, no admin listener; `args` add to that or replace it.
    pub(crate) fn start(args: &[&str]) -> Self {
        for _ in 0..5 {
            if let Ok(node) = Self::start_at(free_address(), args) {
                return node;
            }
        }
        panic!("no node could be started");
    }

    /// As [`Process::start`], at this address; an error if it ends before it is ready.
    pub(crate) fn start_at(address: SocketAddr, args: &[&str]) -> Result<Self, ExitStatus> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder-node"));
        Self::spawn(command.args(arguments(address, args)), address)
    }

    /// As [`Process::start`], with Unix sockets in a directory of its own.
    pub(crate) fn start_local(args: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.sock");
        let uds = ["--uds", path.to_str().unwrap()];
        let mut node = Self::start(&[&uds[..], args].concat());
        node.directory = Some(directory);
        node
    }

    /// Starts it again at its address, once it has ended.
    pub(crate) fn restart(&mut self, args: &[&str]) {
        let again = Self::start_at(self.address, args).expect("its address is free");
        let ended = std::mem::replace(self, again);
        self.directory = ended.keep_directory();
    }

    fn keep_directory(mut self) -> Option<tempfile::TempDir> {
        self.directory.take()
    }

    /// Path of the Unix socket of shard 0.
    pub(crate) fn socket(&self) -> PathBuf {
        let word = self.ready_line.split(' ').find_map(|word| word.strip_prefix("uds="));
        PathBuf::from(word.filter(|path| *path != "off").expect("it has Unix sockets"))
    }

    /// As [`Process::start`], with at most `descriptors` open files.
    pub(crate) fn start_with_few_descriptors(descriptors: u32, args: &[&str]) -> Self {
        for _ in 0..5 {
            let address = free_address();
            let mut command = Command::new("sh");
            let script = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
            command.args(["-c", &script, env!("CARGO_BIN_EXE_larder-node")]);
            if let Ok(node) = Self::spawn(command.args(arguments(address, args)), address) {
                return node;
            }
        }
        panic!("no node could be started");
    }

    /// Runs `larder-node` with exactly these arguments, which must not make it serve.
    pub(crate) fn refused(args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder-node"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > START_MAX {
                child.kill().unwrap();
                panic!("{args:?} make it serve");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait_with_output().unwrap()
    }

    fn spawn(command: &mut Command, address: SocketAddr) -> Result<Self, ExitStatus> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        // From here on the child is killed whatever happens.
        let mut node = Self { child, lines, ready_line: String::new(), address, directory: None };
        match node.lines.recv_timeout(START_MAX) {
            Ok(line) => node.ready_line = line,
            Err(RecvTimeoutError::Disconnected) => return Err(node.child.wait().unwrap()),
            Err(RecvTimeoutError::Timeout) => panic!("not ready after {START_MAX:?}"),
        }
        assert!(node.ready_line.starts_with("ready "), "{}", node.ready_line);
        Ok(node)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Address of shard `index`.
    pub(crate) fn shard(&self, index: u16) -> SocketAddr {
        SocketAddr::new(self.address.ip(), self.address.port() + index)
    }

    /// Sends a signal by name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < at_most, "still there after {at_most:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lines on standard output behind the ready line, once it has ended.
    pub(crate) fn later_lines(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * OS_PAGE_BYTES
    }

    /// CPU time used so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / TICKS_A_SECOND)
    }

    /// Status and text of an admin page.
    pub(crate) fn page(&self, path: &str) -> (u16, String) {
        self.page_by("GET", path)
    }

    /// As [`Process::page`], asked for by another verb than `GET`.
    pub(crate) fn page_by(&self, verb: &str, path: &str) -> (u16, String) {
        let admin = self.ready_line.split(' ').find_map(|word| word.strip_prefix("admin="));
        let mut stream = TcpStream::connect(admin.unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "{verb} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address with room for a few shards.
pub(crate) fn free_address() -> SocketAddr {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    SocketAddr::new(ip, free_port_range(ip, 4).unwrap())
}

/// Waits until `is_so`, and fails with `what` if it is not within `at_most`.
pub(crate) fn within(at_most: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < at_most, "{what}: not within {at_most:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn arguments(address: SocketAddr, args: &[&str]) -> Vec<String> {
    let listen = address.to_string();
    let defaults = [
        ("--listen", listen.as_str()),
        ("--shards", "1"),
        ("--memory", "64MiB"),
        ("--admin", "off"),
        // Several nodes run at once here; pinned, they would all sit on the first core.
        ("--pin-cores", "off"),
        ("--log", "error"),
    ];
    let uds = socket_of(address).display().to_string();
    let uds = IS_OVER_SHM.then_some(("--uds", uds.as_str()));
    let device = rdma_device();
    let device = device.as_deref().map(|device| ("--rdma-device", device));
    let missing =
        defaults.into_iter().chain(uds).chain(device).filter(|(flag, _)| !args.contains(flag));
    let given = args.iter().map(|&arg| arg.to_owned());
    missing.flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]).chain(given).collect()
}

/// The network card to be tested with, if one is: where there are several, that of `RDMA_DEV`.
pub(crate) fn rdma_device() -> Option<String> {
    let named = || std::env::var("RDMA_DEV").unwrap_or_else(|_| "auto".into());
    IS_OVER_RDMA.then(named)
}

/// The socket of a node that is started again at its address is where it was. Those of nodes that
/// were killed stay, until another one takes their place.
fn socket_of(address: SocketAddr) -> PathBuf {
    let here = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    // The kernel takes no long ones.
    let is_short = here.as_os_str().len() < 80;
    let directory = if is_short { here } else { std::env::temp_dir().join("larder-tests") };
    directory.join(format!("{}.sock", address.port()))
}

/// Whether these tests are to go over shared memory: the same files make two test programs.
pub(crate) const IS_OVER_SHM: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"promises_shm");
/// As [`IS_OVER_SHM`], through network cards.
pub(crate) const IS_OVER_RDMA: bool =
    matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"promises_rdma");
/// How much has to happen for a test to mean something: less where machines are emulated.
pub(crate) const fn enough(count: u64) -> u64 {
    if IS_OVER_RDMA { count / 10 } else { count }
}
/// How long something may take, or is to go on, that takes so many milliseconds elsewhere.
pub(crate) const fn ms(usual: u64) -> Duration {
    Duration::from_millis(if IS_OVER_RDMA { SLOWNESS * usual } else { usual })
}

/// Of emulated machines, whose cards move 10 to 20 MiB a second.
const SLOWNESS: u64 = 6;
/// Machines that run tests are busy.
const START_MAX: Duration = Duration::from_secs(30);
/// Of the kernels that we run on.
const OS_PAGE_BYTES: u64 = 4096;
/// `USER_HZ`, which is part of Linux's interface.
const TICKS_A_SECOND: u64 = 100;
