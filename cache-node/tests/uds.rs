//! The Unix sockets of a node: its flags, its files, who may connect, and the protocol over them.
//!
//! What a reader would get wrong: a socket file says nothing about who listens. These tests start
//! nodes beside files that others left, and beside others that live.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use larder_protocol::message::{CAPABILITY_SHARED, ClientPath, HelloReply};
use larder_protocol::stats::Stat;
use larder_protocol::{Code, NamespaceSpec, Status};

use content::content;
use process::{Process, free_address, within};
use raw::Raw;
use raw::object::Object;
use raw::words::{borrowed, name};

const SOON: Duration = Duration::from_secs(3);

#[test]
fn everything_is_served_over_a_unix_socket() {
    let node = Process::start_local(&["--memory", "128MiB"]);
    let mut raw = Raw::open_local(&node.socket(), "m");
    let keys: Vec<_> = (0..300).map(|number| name("k", number)).collect();
    let objects = keys.iter().enumerate();
    let objects: Vec<_> =
        objects.map(|(i, key)| Object::new(key, content(key, 1, i * i * 2))).collect();
    assert!(raw.put(&objects).iter().all(|status| *status == Status::Stored));
    // Many replies on their way at once, more than a socket takes.
    let frames: Vec<_> = keys
        .iter()
        .map(|key| raw.get_frame(&larder_protocol::message::Get::whole(true), &[key]))
        .collect();
    raw.send(&frames.concat());
    std::thread::sleep(Duration::from_millis(50));
    for (key, object) in keys.iter().zip(&objects) {
        let reply = raw.reply();
        assert!(reply.answers(&[key], &raw.meaning)[0].as_ref().unwrap().bytes == object.bytes);
    }
    assert!(raw.matched(&borrowed(&keys), true).iter().all(|hit| *hit));
    assert_eq!(raw.remove(&[&keys[7]]), [Status::Removed]);
    assert_eq!(raw.bump(5), 5);
    assert_eq!(raw.matched(&borrowed(&keys), true), vec![false; 300]);
    let large = content(b"large", 1, 64 << 20);
    assert_eq!(raw.put_one("large", &large), Status::Stored);
    assert!(raw.get_one("large").unwrap().bytes == large);
}

#[test]
fn clients_are_told_of_the_path_whatever_way_they_come() {
    let node = Process::start_local(&["--shards", "2", "--memory", "64MiB"]);
    let second = node.socket().with_extension("sock.1");
    let local = |path: &Path| Raw::connect_local(path);
    let hello = |mut raw: Raw, shard| {
        let reply = raw.hello(shard, 0);
        assert_eq!(reply.header.code, Code::Ok);
        HelloReply::decode(&reply.body).unwrap()
    };
    let path = node.socket();
    for (reply, capabilities) in [
        (hello(local(&path), 0), CAPABILITY_SHARED),
        (hello(local(&second), 1), CAPABILITY_SHARED),
        (hello(Raw::connect(node.shard(0)), 0), 0),
        (hello(Raw::connect(node.shard(1)), 1), 0),
    ] {
        assert_eq!(reply.uds.as_bytes(), path.to_str().unwrap().as_bytes());
        assert_eq!(reply.capabilities, capabilities);
    }
    let mut raw = local(&second);
    assert_eq!(raw.hello(0, 0).header.code, Code::WrongShard, "each socket is one shard's");
    let plain = Process::start(&["--uds", "off"]);
    assert!(hello(Raw::connect(plain.address), 0).uds.is_none());
    assert!(plain.ready_line.contains(" uds=off "), "{}", plain.ready_line);
}

#[test]
fn clients_are_listed_with_their_paths() {
    let node = Process::start_local(&[]);
    let mut witness = Raw::open(node.address, "m");
    let local = Raw::open_local(&node.socket(), "m");
    assert_eq!(witness.paths(), [ClientPath::Tcp, ClientPath::Shm]);
    drop(local);
    within(SOON, "it leaves", || witness.paths() == [ClientPath::Tcp]);
}

#[test]
fn who_is_not_allowed_is_turned_away_at_once() {
    let node = Process::start_local(&["--uds-allow", "12345"]);
    let mut witness = Raw::open(node.address, "m");
    for count in 1..4 {
        let mut raw = Raw::connect_local(&node.socket());
        assert!(raw.is_closed(), "without a word");
        within(SOON, "it is counted", || witness.stat(Stat::UdsDenied) == count);
    }
    assert_eq!(witness.stat(Stat::Accepted), 1);
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    let node = Process::start_local(&["--uds-allow", &format!("12345,{own}")]);
    Raw::open_local(&node.socket(), "m");
}

#[test]
fn files_are_for_the_user_and_the_group_and_go_with_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/for/it/node.sock");
    let uds = path.to_str().unwrap();
    let mut node = Process::start(&["--uds", uds, "--shards", "2", "--memory", "64MiB"]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o750);
    for socket in [path.clone(), path.with_extension("sock.1")] {
        assert_eq!(mode(&socket), 0o660, "{socket:?}");
    }
    node.signal("TERM");
    assert!(node.wait(Duration::from_secs(10)).success());
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
}

fn refusal(uds: &str) -> String {
    let listen = free_address().to_string();
    let args = ["--listen", &listen, "--memory", "64MiB", "--shards", "1", "--admin", "off"];
    let output = Process::refused(&[&args[..], &["--uds", uds]].concat());
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn second_node_at_a_path_is_refused_and_the_first_serves_on() {
    let node = Process::start_local(&["--shards", "2", "--memory", "64MiB"]);
    let path = node.socket();
    let why = refusal(path.to_str().unwrap());
    assert!(why.contains("another larder-node serves at"), "{why}");
    assert!(why.contains(&node.pid().to_string()), "{why}");
    let why = refusal(path.with_extension("sock.1").to_str().unwrap());
    assert!(why.contains("another process listens there"), "{why}");
    Raw::open_local(&path, "m");
    Raw::connect_local(&path.with_extension("sock.1"));
}

#[test]
fn what_a_killed_node_left_is_replaced_and_what_others_put_there_is_not() {
    let mut node = Process::start_local(&[]);
    let path = node.socket();
    let directory = path.parent().unwrap().to_owned();
    for _ in 0..3 {
        node.kill();
        assert!(path.exists());
        let uds = path.to_str().unwrap();
        node.restart(&["--uds", uds]);
        Raw::open_local(&path, "m");
    }
    let file = directory.join("a file");
    std::fs::write(&file, "mine").unwrap();
    let why = refusal(file.to_str().unwrap());
    assert!(why.contains("no socket"), "{why}");
    let other = directory.join("other.sock");
    let _listener = UnixListener::bind(&other).unwrap();
    let why = refusal(other.to_str().unwrap());
    assert!(why.contains("another process listens there"), "{why}");
    let why = refusal("/proc/nowhere/node.sock");
    assert!(why.contains("/proc/nowhere/node.sock"), "{why}");
}

#[test]
fn connections_over_both_ways_have_one_limit() {
    let node = Process::start_local(&["--connections-max", "4"]);
    let mut witness = Raw::open(node.address, "m");
    let open = || Raw::open_local(&node.socket(), "m");
    let mut held: Vec<_> = (0..3).map(|_| open()).collect();
    let mut surplus = Raw::connect_local(&node.socket());
    assert!(surplus.is_closed());
    assert_eq!(witness.stat(Stat::AcceptErrors), 1);
    held.pop();
    within(SOON, "its place is free", || witness.stat(Stat::Connections) == 3);
    open();
}

#[test]
fn lack_of_descriptors_passes() {
    let node = Process::start_with_few_descriptors(48, &["--uds", "off"]);
    drop(node);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.sock");
    let uds = ["--uds", path.to_str().unwrap()];
    let node = Process::start_with_few_descriptors(48, &uds);
    let mut witness = Raw::open(node.address, "m");
    let crowd: Vec<_> = (0..100).map_while(|_| Raw::try_connect_local(&path).ok()).collect();
    within(SOON, "it runs out", || witness.stat(Stat::AcceptErrors) > 0);
    assert_eq!(witness.put_one("k", b"v"), Status::Stored);
    drop(crowd);
    within(Duration::from_secs(10), "it recovers", || {
        let mut raw = Raw::connect_local(&path);
        raw.set_patience(Duration::from_millis(500));
        let frame = raw.hello_frame(0, 0);
        raw.try_send(&frame).is_ok() && matches!(raw.try_reply(), Ok(Some(_)))
    });
}

#[test]
fn descriptors_are_flat_over_many_connections() {
    let node = Process::start_local(&[]);
    let mut witness = Raw::open(node.address, "m");
    assert_eq!(witness.put_one("k", &[7; 100_000]), Status::Stored);
    let mut before = None;
    for round in 0..600 {
        let mut raw = Raw::open_local(&node.socket(), "m");
        assert!(raw.lease_one("k").unwrap().place.is_some());
        if round % 2 == 0 {
            // Half of them with a get on its way.
            let frame = raw.frame(larder_protocol::Opcode::Stats, &[], 0);
            raw.send(&frame);
        }
        drop(raw);
        if round == 50 {
            within(SOON, "all are gone", || witness.stat(Stat::Connections) == 1);
            before = Some(node.descriptors());
        }
    }
    within(SOON, "all are gone", || witness.stat(Stat::Connections) == 1);
    within(SOON, "none is left open", || node.descriptors() <= before.unwrap());
    assert_eq!(witness.stat(Stat::LeasesHeld), 0);
}

#[test]
fn idle_and_silent_connections_are_cut_off_as_others_are() {
    let limits = ["--connection-idle-timeout", "500ms", "--hello-timeout", "300ms"];
    let node = Process::start_local(&limits);
    let started = Instant::now();
    let mut silent = Raw::connect_local(&node.socket());
    let mut idle = Raw::open_local(&node.socket(), "m");
    assert!(silent.is_closed());
    assert!((300..3000).contains(&started.elapsed().as_millis()));
    assert!(idle.is_closed());
    assert!((500..3000).contains(&started.elapsed().as_millis()));
    let mut witness = Raw::open(node.address, "m");
    within(SOON, "both are counted", || witness.stat(Stat::TimedOut) == 2);
}

#[test]
fn draining_node_takes_nobody_new_and_finishes_what_it_has() {
    let mut node = Process::start_local(&["--drain-timeout", "20s"]);
    let mut raw = Raw::open_local(&node.socket(), "m");
    let frame = raw.put_frame(&[Object::new("k", vec![1; 100_000])], false);
    raw.send(&frame[..50_000]);
    std::thread::sleep(Duration::from_millis(100));
    node.signal("TERM");
    let path = node.socket();
    within(SOON, "nobody new is let in", || Raw::try_connect_local(&path).is_err());
    raw.send(&frame[50_000..]);
    assert_eq!(raw.reply().statuses(), [Status::Stored]);
    assert!(raw.is_closed());
    assert!(node.wait(Duration::from_secs(10)).success());
}

#[test]
fn namespace_of_one_way_is_that_of_the_other() {
    let node = Process::start_local(&[]);
    let spec = NamespaceSpec::new("tests", "m");
    let mut far = Raw::open_spec(node.address, &spec);
    let mut near = Raw::open_local_spec(&node.socket(), &spec);
    assert_eq!(far.put_one("k", b"by network"), Status::Stored);
    assert_eq!(near.get_one("k").unwrap().bytes, b"by network");
    assert_eq!(near.put_one("k", b"by memory"), Status::Stored);
    assert_eq!(far.get_one("k").unwrap().bytes, b"by memory");
}
