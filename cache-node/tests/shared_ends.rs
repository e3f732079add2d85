//! How leases end: with the socket or the process that has them, and never sooner.
//!
//! Holders are processes, this test's own binary, since only a process can be killed or stopped.
//! What a reader would get wrong: a connection that the node has ended still holds its leases.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use larder_protocol::message::{Get, Sharing};
use larder_protocol::stats::Stat;
use larder_protocol::{Opcode, Status};

use content::content;
use process::{Process, within};
use raw::Raw;
use raw::object::Object;
use raw::words::name;

const LARGE: usize = 100_000;
const SOON: Duration = Duration::from_secs(3);

/// Another process that holds leases on the keys `k-0` to `k-4`. It is killed when dropped.
struct Holder {
    child: Child,
    /// A process of its own that has its socket, if it was told to have one.
    heir: Option<u32>,
}

impl Holder {
    fn start(socket: &Path, with_heir: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "holder_of_leases", "--nocapture", "--test-threads=1"]);
        command.env(HOLDER_SOCKET, socket).env(HOLDER_HEIR, if with_heir { "1" } else { "" });
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.find_map(|line| Some(line.unwrap().split_once(HOLDS)?.1.to_owned()));
        let heir = said.expect("it gets its leases").trim().parse().ok();
        Self { child, heir }
    }

    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(heir) = self.heir {
            signal(heir, "KILL");
        }
    }
}

fn signal(pid: u32, name: &str) {
    Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
}

/// What a holder does; nothing, in the test run itself.
#[test]
fn holder_of_leases() {
    let Ok(socket) = std::env::var(HOLDER_SOCKET) else { return };
    let mut raw = Raw::open_local(Path::new(&socket), "m");
    let keys: Vec<_> = (0..5).map(|number| name("k", number)).collect();
    let found = raw.lease(Sharing::LeaseOrBusy, &raw::words::borrowed(&keys));
    assert!(found.iter().all(|found| found.as_ref().is_ok_and(|leased| leased.place.is_some())));
    let mut heir = String::new();
    if std::env::var(HOLDER_HEIR).is_ok_and(|heir| !heir.is_empty()) {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::from(raw.descriptor())).stdout(Stdio::null());
        heir = command.spawn().unwrap().id().to_string();
    }
    println!("{HOLDS}{heir}");
    std::io::stdout().flush().unwrap();
    std::thread::sleep(Duration::from_secs(1000));
}

const HOLDER_SOCKET: &str = "LARDER_TEST_HOLDER_SOCKET";
const HOLDER_HEIR: &str = "LARDER_TEST_HOLDER_HEIR";
const HOLDS: &str = "holds leases ";

/// A node with five objects, and a connection to it from which to watch.
fn node_with_objects(args: &[&str]) -> (Process, Raw) {
    let node = Process::start_local(args);
    let mut witness = Raw::open(node.address, "m");
    for key in (0..5).map(|number| name("k", number)) {
        assert_eq!(witness.put_one(&key, &content(&key, 1, LARGE)), Status::Stored);
    }
    (node, witness)
}

fn remove_all(witness: &mut Raw) {
    let keys: Vec<_> = (0..5).map(|number| name("k", number)).collect();
    assert_eq!(witness.remove(&raw::words::borrowed(&keys)), [Status::Removed; 5]);
}

fn leased_bytes(witness: &mut Raw) -> u64 {
    witness.stat(Stat::LeasedBytes)
}

fn kill_holders(rounds: u32) {
    let (node, mut witness) = node_with_objects(&[]);
    let before = witness.levels();
    // One of each kind may leave something behind that stays; more may not.
    let mut descriptors = None;
    for _ in 0..rounds {
        let mut holder = Holder::start(&node.socket(), false);
        assert!(leased_bytes(&mut witness) >= 5 * LARGE as u64);
        holder.kill();
        within(SOON, "its leases end", || leased_bytes(&mut witness) == 0);
        within(SOON, "its connection ends", || witness.stat(Stat::Connections) == 1);
        let now = node.descriptors();
        let first = *descriptors.get_or_insert(now);
        within(SOON, "no descriptor leaks", || node.descriptors() <= first);
    }
    witness.expect_levels(before);
    assert_eq!(witness.stat(Stat::LeasesHeld), 0);
    remove_all(&mut witness);
    assert_eq!(witness.levels()[0], 0, "every slot is free");
}

#[test]
fn holders_that_are_killed_leave_nothing_behind() {
    kill_holders(50);
}

#[test]
#[ignore = "long: a thousand processes"]
fn a_thousand_holders_that_are_killed_leave_nothing_behind() {
    kill_holders(1000);
}

#[test]
fn leases_end_with_their_process_though_a_child_has_its_socket() {
    let (node, mut witness) = node_with_objects(&[]);
    let mut holder = Holder::start(&node.socket(), true);
    assert!(holder.heir.is_some());
    std::thread::sleep(Duration::from_millis(300));
    assert!(leased_bytes(&mut witness) > 0);
    holder.kill();
    within(SOON, "its leases end", || leased_bytes(&mut witness) == 0);
    within(SOON, "its connection ends", || witness.stat(Stat::Connections) == 1);
}

#[test]
fn process_that_stands_still_keeps_its_leases() {
    let short = ["--progress-timeout", "200ms", "--header-timeout", "200ms"];
    let idle = ["--connection-idle-timeout", "300ms", "--memory", "16MiB"];
    let (node, _) = node_with_objects(&[short, idle].concat());
    let witness = || Raw::open(node.address, "m");
    let mut holder = Holder::start(&node.socket(), false);
    let mut own = Raw::open_local(&node.socket(), "m");
    let leased = own.lease_one("k-0").unwrap();
    holder.signal("STOP");
    let held = leased_bytes(&mut witness());
    remove_all(&mut witness());
    let mut writer = witness();
    for number in 0..400 {
        writer.put_one(name("other", number), &content(b"other", number as u64, LARGE));
    }
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(leased_bytes(&mut witness()), held, "nothing is reclaimed under them");
    assert!(leased.now() == content(b"k-0", 1, LARGE));
    assert!(own.lease_one("other-399").is_ok(), "nor is who holds leases ever idle");
    holder.signal("CONT");
    holder.kill();
    drop(own);
    within(SOON, "their leases end", || leased_bytes(&mut witness()) == 0);
}

/// A connection that is ended by the node, and its leases.
fn ended_by_the_node(args: &[&str], end: impl FnOnce(&mut Raw)) {
    let (node, mut witness) = node_with_objects(args);
    let mut raw = Raw::open_local(&node.socket(), "m");
    let leased = raw.lease_one("k-0").unwrap();
    let held = leased_bytes(&mut witness);
    end(&mut raw);
    remove_all(&mut witness);
    for number in 0..600 {
        witness.put_one(name("other", number), &content(b"other", number as u64, LARGE));
    }
    assert_eq!(leased_bytes(&mut witness), held);
    assert!(leased.now() == content(b"k-0", 1, LARGE), "still there for who may be reading");
    assert_eq!(witness.stat(Stat::FillingBytes) + witness.stat(Stat::SendingBytes), 0);
    // Whatever it says is read and thrown away.
    let frame = raw.frame(Opcode::Stats, &[], 0);
    let requests = witness.stat(Stat::Requests);
    raw.send(&frame.repeat(1000));
    std::thread::sleep(Duration::from_millis(100));
    assert!(witness.stat(Stat::Requests) < requests + 10);
    assert!(leased.now() == content(b"k-0", 1, LARGE));
    drop(raw);
    within(SOON, "the leases end", || leased_bytes(&mut witness) == 0);
    within(SOON, "the connection ends", || witness.stat(Stat::Connections) == 1);
    let mut again = Raw::open_local(&node.socket(), "m");
    assert!(again.lease_one("other-599").is_ok(), "others are served");
}

#[test]
fn malformed_request_does_not_end_leases() {
    ended_by_the_node(&[], |raw| {
        raw.send(b"nonsense that is long enough to be taken for the header of a frame, 64");
        assert!(raw.farewell().contains("not a frame"));
    });
}

#[test]
fn trickled_request_does_not_end_leases() {
    ended_by_the_node(&["--header-timeout", "300ms"], |raw| {
        let frame = raw.frame(Opcode::Stats, &[], 0);
        raw.send(&frame[..10]);
        assert!(raw.is_closed(), "it is told");
    });
}

#[test]
fn stalled_put_does_not_end_leases() {
    ended_by_the_node(&["--progress-timeout", "300ms"], |raw| {
        let frame = raw.put_frame(&[Object::new("half", vec![1; LARGE])], false);
        raw.send(&frame[..frame.len() / 2]);
        assert!(raw.is_closed(), "it is told");
    });
}

#[test]
fn reader_that_does_not_read_keeps_its_leases() {
    ended_by_the_node(&["--progress-timeout", "300ms"], |raw| {
        let frame = raw.get_frame(&Get::whole(false), &[b"k-1", b"k-2", b"k-3"]);
        raw.send(&frame.repeat(20));
        // What the node sent before it gave up is still to be read.
        std::thread::sleep(Duration::from_millis(1200));
        assert!(raw.is_ended_within_frames());
    });
}

#[test]
fn node_that_drains_does_not_wait_for_holders_and_their_bytes_stay() {
    let (mut node, mut witness) = node_with_objects(&["--drain-timeout", "20s"]);
    let mut raw = Raw::open_local(&node.socket(), "m");
    let leased = raw.lease_one("k-0").unwrap();
    // One that is served, one that the node has ended already.
    let mut ended = Raw::open_local(&node.socket(), "m");
    assert!(ended.lease_one("k-1").is_ok());
    ended.send(&[b'?'; 64]);
    assert!(ended.farewell().contains("not a frame"));
    within(SOON, "both hold", || witness.stat(Stat::LeasesHeld) == 2);
    let socket = node.socket();
    let started = Instant::now();
    node.signal("TERM");
    assert!(node.wait(Duration::from_secs(10)).success());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(leased.now() == content(b"k-0", 1, LARGE), "for as long as it is mapped");
    assert!(raw.is_closed());
    assert!(!socket.exists(), "its files are gone");
}

#[test]
fn node_that_is_killed_leaves_leased_bytes_as_they_are() {
    let (mut node, _) = node_with_objects(&[]);
    let mut raw = Raw::open_local(&node.socket(), "m");
    let leased = raw.lease_one("k-0").unwrap();
    node.kill();
    assert!(leased.now() == content(b"k-0", 1, LARGE));
    assert!(raw.is_closed());
}
