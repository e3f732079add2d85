//! Clients on the node's host that lie: about descriptors, about places, about sizes.
//!
//! Each lie ends its own connection with a reason, and that is all: others are served, no
//! descriptor stays open, nothing stays mapped.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use larder_protocol::message::{Get, LeasedPlace};
use larder_protocol::stats::Stat;
use larder_protocol::wire::Write;
use larder_protocol::{Code, Opcode, Status};
use larder_transport::SharedMemory;

use process::{Process, within};
use raw::Raw;
use raw::object::Object;

const SOON: Duration = Duration::from_secs(3);

/// A node, a connection to watch it from, and how many descriptors it has open then.
struct Watched {
    node: Process,
    witness: Raw,
    descriptors: usize,
    malformed: u64,
}

impl Watched {
    fn start(args: &[&str]) -> Self {
        let node = Process::start_local(args);
        let mut witness = Raw::open(node.address, "m");
        // A first connection, for what stays open behind the first.
        drop(Raw::open_local(&node.socket(), "m"));
        within(SOON, "it is alone", || witness.stat(Stat::Connections) == 1);
        assert_eq!(witness.put_one("k", &[1; 100_000]), Status::Stored);
        let descriptors = node.descriptors();
        Self { node, witness, descriptors, malformed: 0 }
    }

    /// Lies, and expects to be told why that was the end.
    fn lie(&mut self, what: &str, reason: &str, lie: impl FnOnce(&mut Raw)) {
        let mut raw = Raw::open_local(&self.node.socket(), "m");
        lie(&mut raw);
        let why = raw.farewell();
        assert!(why.contains(reason), "{what}: {why}");
        drop(raw);
        self.malformed += 1;
        self.nothing_is_left(what);
    }

    fn nothing_is_left(&mut self, what: &str) {
        let Self { node, witness, descriptors, malformed } = self;
        within(SOON, what, || witness.stat(Stat::Connections) == 1);
        within(SOON, what, || node.descriptors() <= *descriptors);
        assert_eq!(witness.stat(Stat::Malformed), *malformed, "{what}");
        assert_eq!(witness.stat(Stat::Panics), 0, "{what}");
        assert!(witness.has("k"), "{what}");
        assert!(!self.maps().contains("larder-shared"), "{what}: it stays mapped");
    }

    fn maps(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/maps", self.node.pid())).unwrap()
    }
}

fn share(raw: &mut Raw, region: u32, bytes: u64, descriptor: &impl AsFd) {
    let frame = raw.share_frame(region, bytes);
    raw.send_with(&frame, descriptor.as_fd());
}

#[test]
fn what_is_no_sealed_memory_is_not_mapped() {
    let mut watched = Watched::start(&[]);
    let memory = SharedMemory::new(8192).unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(8192).unwrap();
    watched.lie("a pipe", "file system", |raw| share(raw, 0, 8192, &pipe));
    watched.lie("a file", "shared memory", |raw| share(raw, 0, 8192, &file));
    let directory = File::open("/").unwrap();
    watched.lie("a directory", "shared memory", |raw| share(raw, 0, 8192, &directory));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    watched.lie("a socket", "file system", |raw| share(raw, 0, 8192, &socket));
    for bytes in [4096, 12_288] {
        watched.lie("another size", "size of", |raw| share(raw, 0, bytes, &memory.descriptor()));
    }
    for bytes in [0, 8191, (64 << 30) + 4096] {
        watched.lie("an odd size", "size of", |raw| share(raw, 0, bytes, &memory.descriptor()));
    }
    let huge = (1 << 40) + 4096;
    watched.lie("a huge size", "region bytes", |raw| share(raw, 0, huge, &memory.descriptor()));
    watched.lie("a high number", "region", |raw| share(raw, 16, 8192, &memory.descriptor()));
    watched.lie("a number twice", "shared region", |raw| {
        assert_eq!(raw.share(2, &memory), Code::Ok);
        share(raw, 2, 8192, &memory.descriptor());
    });
    watched.lie("a number that is not there", "region", |raw| {
        assert_eq!(raw.share(2, &memory), Code::Ok);
        let frame = raw.unshare_frame(3);
        raw.send(&frame);
    });
}

/// Memory that safe code here cannot make, held by a process that was told to.
struct Odd(Child);

impl Drop for Odd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ODD: &str = "
import fcntl, os, sys, time
SHRINK, GROW, WRITE, FUTURE, SEAL = 2, 4, 8, 16, 1
def make(seals, whole=True, flags=os.MFD_ALLOW_SEALING):
    fd = os.memfd_create('larder-shared', flags)
    os.ftruncate(fd, 1 << 20)
    if whole:
        os.posix_fallocate(fd, 0, 1 << 20)
    if seals:
        fcntl.fcntl(fd, 1033, seals)
    return fd
most = SHRINK | GROW | FUTURE | SEAL
sparse = make(0, False)
os.pwrite(sparse, b'x', (1 << 20) - 1)
os.pwrite(sparse, b'x' * 4096, 0)
fcntl.fcntl(sparse, 1033, most)
print(make(0), make(most & ~SHRINK), make(most & ~GROW), make(most & ~FUTURE), make(most & ~SEAL),
    make(0, True, 0), make(most, False), sparse)
sys.stdout.flush()
time.sleep(1000)
";

#[test]
fn memory_that_could_be_changed_or_is_not_there_is_not_mapped() {
    let mut python = Command::new("python3");
    python.args(["-c", ODD]).stdin(Stdio::null()).stdout(Stdio::piped());
    let Ok(child) = python.spawn() else {
        eprintln!("not tested: there is no python3");
        return;
    };
    let mut odd = Odd(child);
    let mut line = String::new();
    BufReader::new(odd.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let of_kind = ["seals", "seals", "seals", "seals", "seals", "seals", "hole", "hole"];
    let mut watched = Watched::start(&[]);
    assert_eq!(line.split_whitespace().count(), of_kind.len(), "{line}");
    for (number, reason) in line.split_whitespace().zip(of_kind) {
        let path = PathBuf::from(format!("/proc/{}/fd/{number}", odd.0.id()));
        let memory = File::open(path).unwrap();
        assert_eq!(memory.metadata().unwrap().size(), 1 << 20);
        watched.lie(reason, reason, |raw| share(raw, 0, 1 << 20, &memory));
    }
}

#[test]
fn descriptor_comes_with_a_share_and_with_nothing_else() {
    let mut watched = Watched::start(&[]);
    let memory = SharedMemory::new(8192).unwrap();
    let descriptor = || -> OwnedFd { memory.descriptor().try_clone_to_owned().unwrap() };
    watched.lie("none", "descriptors of a share", |raw| {
        let frame = raw.share_frame(0, 8192);
        raw.send(&frame);
    });
    for count in [2, 3, 4] {
        watched.lie("too many", "descriptors", |raw| {
            let frame = raw.share_frame(0, 8192);
            let (rest, last) = frame.split_at(count);
            rest.iter().for_each(|byte| raw.send_with(&[*byte], descriptor().as_fd()));
            raw.send(last);
        });
    }
    watched.lie("one for every byte", "descriptors", |raw| {
        let frame = raw.share_frame(0, 8192);
        for byte in &frame {
            if raw.try_send_with(&[*byte], descriptor().as_fd()).is_err() {
                break;
            }
        }
    });
    watched.lie("with a put's payload", "descriptors", |raw| {
        let frame = raw.put_frame(&[Object::new("new", vec![1; 100_000])], false);
        let (head, tail) = frame.split_at(frame.len() - 50_000);
        raw.send(head);
        raw.send_with(tail, descriptor().as_fd());
    });
    type Frame = fn(&mut Raw) -> Vec<u8>;
    let frames: [(&str, Frame); 4] = [
        ("with stats", |raw| raw.frame(Opcode::Stats, &[], 0)),
        ("with an unshare", |raw| raw.share_then_unshare_frame()),
        ("with a release", |raw| raw.release_frame(&[LeasedPlace { region: 0, offset: 0 }])),
        ("with a get", |raw| raw.get_frame(&Get::whole(true), &[b"k"])),
    ];
    for (what, frame) in frames {
        let mut raw = Raw::open_local(&watched.node.socket(), "m");
        let frame = frame(&mut raw);
        raw.send_with(&frame, descriptor().as_fd());
        assert!(raw.is_ended_within_frames(), "{what}");
        watched.malformed += 1;
        watched.nothing_is_left(what);
    }
    // Before the first word, and without the capability.
    let mut stranger = Raw::connect_local(&watched.node.socket());
    let frame = stranger.hello_frame(0, 0);
    stranger.send_with(&frame, descriptor().as_fd());
    assert!(stranger.is_ended_within_frames());
    watched.malformed += 1;
    watched.nothing_is_left("with a hello");
    // In the middle of nothing: the connection is closed while they are on their way.
    for _ in 0..100 {
        let mut raw = Raw::open_local(&watched.node.socket(), "m");
        raw.send_with(b"L", descriptor().as_fd());
    }
    watched.nothing_is_left("half a header");
}

impl Raw {
    fn share_then_unshare_frame(&mut self) -> Vec<u8> {
        assert_eq!(self.share(0, &SharedMemory::new(4096).unwrap()), Code::Ok);
        self.unshare_frame(0)
    }
}

#[test]
fn put_from_places_outside_its_memory_ends_the_connection() {
    let mut watched = Watched::start(&[]);
    let memory = SharedMemory::new(8192).unwrap();
    let put = |raw: &mut Raw, region: u32, offset: u64| {
        assert_eq!(raw.share(0, &memory), Code::Ok);
        let right = Object { shared: Some((0, 0)), ..Object::new("right", vec![0; 100]) };
        let wrong = Object { shared: Some((region, offset)), ..Object::new("bad", vec![0; 100]) };
        let frame = raw.put_frame(&[right, wrong], false);
        raw.send(&frame);
    };
    for offset in [8093, 8192, 1 << 40, u64::MAX - 99, u64::MAX] {
        watched.lie("a place outside", "shared offset", |raw| put(raw, 0, offset));
    }
    for region in [1, 15, 16, u32::MAX] {
        watched.lie("a region that is not there", "region", |raw| put(raw, region, 0));
    }
    watched.lie("a region taken back", "region", |raw| {
        assert_eq!(raw.share(5, &memory), Code::Ok);
        let frame = raw.unshare_frame(5);
        assert_eq!(raw.call(&frame).header.code, Code::Ok);
        put(raw, 5, 0);
    });
    assert!(!watched.witness.has("right"), "nothing of such a put is stored");
    // As far as it goes, it is right.
    let mut raw = Raw::open_local(&watched.node.socket(), "m");
    assert_eq!(raw.share(0, &memory), Code::Ok);
    let last = Object { shared: Some((0, 8092)), ..Object::new("last", vec![0; 100]) };
    assert_eq!(raw.put(&[last]), [Status::Stored]);
    drop(raw);
    watched.nothing_is_left("memory of a client that left");
}

#[test]
fn bodies_that_are_cut_or_too_long_end_the_connection() {
    let mut watched = Watched::start(&[]);
    let many = |count: u32| {
        let mut body = Vec::new();
        body.u32(count);
        (0..count).for_each(|_| body.extend_from_slice(&[0; 12]));
        body
    };
    for (what, opcode, body, reason) in [
        ("a short release", Opcode::Release, vec![1, 0, 0, 0, 9], "message ends inside"),
        ("a long release", Opcode::Release, many(4097), "leases of 4097"),
        ("a surplus", Opcode::Release, [many(1), vec![0]].concat(), "follow"),
        ("a short share", Opcode::Share, vec![0; 11], "message ends inside"),
        ("a short unshare", Opcode::Unshare, vec![0; 3], "message ends inside"),
    ] {
        watched.lie(what, reason, |raw| {
            let frame = raw.frame(opcode, &body, 0);
            raw.send(&frame);
        });
    }
    let mut raw = Raw::open_local(&watched.node.socket(), "m");
    let frame = raw.frame(Opcode::Region, &[0; 12], 0);
    assert_eq!(raw.call(&frame).header.code, Code::UnknownOpcode);
    raw.release(&vec![LeasedPlace { region: 0, offset: 64 }; 4096]);
    assert_eq!(raw.stat(Stat::LeasesUnknown), 4096);
}
