//! Faults of processes, on real ones: killed, terminated, started twice, short of descriptors.
//!
//! A node keeps nothing over its death: what a client finds after a restart was put after it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use larder_protocol::message::HelloReply;
use larder_protocol::stats::Stat;
use larder_protocol::{Code, Status};

use content::{Random, content};
use process::{Process, within};
use raw::Raw;
use raw::object::Object;
use raw::words::name;

const SOON: Duration = Duration::from_secs(5);

fn incarnation(raw: &mut Raw) -> u64 {
    HelloReply::decode(&raw.hello(0, 0).body).unwrap().incarnation
}

#[test]
fn node_killed_in_mid_put_is_back_at_once_with_whole_objects_or_none() {
    let address = process::free_address();
    let admin = SocketAddr::new(address.ip(), address.port() + 3).to_string();
    let start = || Process::start_at(address, &["--admin", &admin]).expect("its ports are free");
    let mut node = start();
    let mut random = Random::new(3);
    let mut incarnations = Vec::new();
    for round in 0..8 {
        let mut raw = Raw::open(node.address, "killed");
        incarnations.push(incarnation(&mut raw));
        let whole = content(b"whole", round, 3000);
        assert_eq!(raw.put_one("whole", &whole), Status::Stored);
        let objects = [0, 1, 2].map(|n| {
            let key = name("k", n);
            Object::new(&key, content(&key, round, 200_000))
        });
        let frame = raw.put_frame(&objects, false);
        let cut = random.below(frame.len() as u64) as usize;
        raw.send(&frame[..cut]);
        node.kill();
        assert!(raw.is_ended(), "its clients hear of it");
        node = start();
        let mut raw = Raw::open(node.address, "killed");
        for object in &objects {
            match raw.get_one(&object.key) {
                Ok(got) => assert!(got.bytes == object.bytes, "whole, if it is there"),
                Err(status) => assert_eq!(status, Status::Miss),
            }
        }
        assert!(raw.get_one("whole").is_ok_and(|got| got.bytes == whole) || !raw.has("whole"));
        let other = raw.stat(Stat::SlotBytes);
        assert_eq!(other, 0, "round {round}: this memory is gone with its process");
    }
    incarnations.sort_unstable();
    incarnations.dedup();
    assert_eq!(incarnations.len(), 8, "each start is another incarnation");
}

#[test]
fn node_that_drained_is_back_at_once_on_its_port() {
    let mut node = Process::start(&[]);
    for _ in 0..3 {
        let mut raw = Raw::open(node.address, "back");
        assert_eq!(raw.put_one("key", b"bytes"), Status::Stored);
        node.signal("TERM");
        assert_eq!(node.wait(SOON).code(), Some(0));
        // The node closed first, so what is left of the connection is on its side.
        assert!(raw.is_closed());
        drop(raw);
        node = Process::start_at(node.address, &[]).expect("its port is free");
    }
}

#[test]
fn second_node_on_a_port_is_refused_and_the_first_unharmed() {
    let node = Process::start(&["--admin", "127.0.0.1:0"]);
    let mut raw = Raw::open(node.address, "first");
    assert_eq!(raw.put_one("key", b"bytes"), Status::Stored);
    let listen = node.address.to_string();
    let admin = node.ready_line.split(' ').find_map(|word| word.strip_prefix("admin=")).unwrap();
    let free = process::free_address().to_string();
    for (listen, admin, named) in [(&*listen, "off", &*listen), (&*free, admin, "--admin")] {
        let args = ["--listen", listen, "--admin", admin, "--memory", "16MiB", "--shards", "1"];
        let output = Process::refused(&args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let message: Vec<_> =
            said.lines().filter(|line| line.starts_with("larder-node: ")).collect();
        assert!(message.len() == 1 && message[0].contains(named), "{said}");
        assert!(output.stdout.is_empty(), "it was never ready");
    }
    for _ in 0..20 {
        assert_eq!(Raw::open(node.address, "first").get_one("key").unwrap().bytes, b"bytes");
    }
}

#[test]
fn a_port_that_others_listen_on_is_refused_whatever_the_address_is_called() {
    let node = Process::start(&[]);
    let anywhere = format!("0.0.0.0:{}", node.address.port());
    let stranger = TcpListener::bind(process::free_address()).unwrap();
    let strange = stranger.local_addr().unwrap().to_string();
    let open = ["--insecure-listen-anywhere", "--advertise", "localhost"];
    let plain = ["--admin", "off", "--memory", "16MiB", "--shards", "1"];
    for listen in [&anywhere, &strange] {
        let output = Process::refused(&[&["--listen", listen], &open[..], &plain].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("cannot listen on {listen}")), "{said}");
    }
}

#[test]
fn a_port_that_overlaps_another_nodes_shards_is_refused() {
    let node = Process::start(&["--shards", "2"]);
    let listen = node.shard(1).to_string();
    let args = ["--listen", &listen, "--admin", "off", "--memory", "16MiB", "--shards", "1"];
    let output = Process::refused(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains(&listen));
}

#[test]
fn bad_configuration_is_refused_in_one_line_that_names_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let unknown = file("unknown.toml", "memory = \"1GiB\"\ncolour = \"red\"\n");
    let broken = file("broken.toml", "memory = \n");
    let wrong = file("wrong.toml", "header-timeout = \"soon\"\n");
    let cases: &[(&[&str], &str)] = &[
        (&["--memory", "4GB"], "--memory"),
        (&["--memory", "1KiB"], "--memory"),
        (&["--shards", "0"], "--shards"),
        (&["--shards", "257"], "--shards"),
        (&["--listen", "nowhere"], "--listen"),
        (&["--listen", "127.0.0.1:0"], "--listen"),
        (&["--listen", "0.0.0.0:7400"], "--listen"),
        (&["--listen", "127.0.0.1:65535", "--shards", "2"], "--listen"),
        (&["--admin", "0.0.0.0:7480"], "--admin"),
        (&["--header-timeout", "5"], "--header-timeout"),
        (&["--inflight-bytes-max", "1B"], "--inflight-bytes-max"),
        (&["--connections-max", "0"], "--connections-max"),
        (&["--peers", "what"], "--peers"),
        (&["--colour", "red"], "--colour"),
        (&["--memory"], "--memory"),
        (&["--memory", "1GiB", "--memory", "2GiB"], "--memory"),
        (&["--config", "/does/not/exist.toml"], "--config"),
        (&["--config", &unknown], "line 2"),
        (&["--config", &broken], "line 1"),
        (&["--config", &wrong], "header-timeout"),
        (&["surplus"], "surplus"),
    ];
    for (args, named) in cases {
        let output = Process::refused(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(said.starts_with("larder-node: ") && said.contains(named), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_version_are_no_failures() {
    for flag in ["--help", "--version"] {
        let output = Process::refused(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8(output.stdout).unwrap().contains("larder-node"));
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn sigterm_lets_a_put_in_flight_finish_and_then_ends_the_node() {
    for signal in ["TERM", "INT"] {
        let mut node = Process::start(&["--drain-timeout", "30s"]);
        let mut busy = Raw::open(node.address, "drain");
        let mut idle = Raw::open(node.address, "drain");
        let frame = busy.put_frame(&[Object::new("k", vec![1; 100_000])], false);
        busy.send(&frame[..frame.len() - 1]);
        within(SOON, "it has begun", || idle.stat(Stat::FillingBytes) > 0);
        node.signal(signal);
        assert!(idle.is_closed(), "who waits for nothing is let go");
        let late = Raw::try_connect(node.address).and_then(|mut raw| {
            let frame = raw.hello_frame(0, 0);
            raw.try_send(&frame)?;
            raw.try_reply()
        });
        assert!(!late.is_ok_and(|reply| reply.is_some()), "nobody new is let in");
        assert!(node.is_alive(), "it waits for the put");
        busy.send(&frame[frame.len() - 1..]);
        assert_eq!(busy.reply().statuses(), [Status::Stored]);
        assert_eq!(node.wait(SOON).code(), Some(0), "{signal}");
        assert_eq!(node.later_lines(), [""; 0], "the ready line was all it said");
    }
}

#[test]
fn a_draining_node_takes_no_new_put_on_an_old_connection() {
    let mut node = Process::start(&["--drain-timeout", "30s"]);
    let mut busy = Raw::open(node.address, "drain");
    let first = busy.put_frame(&[Object::new("k", vec![1; 1000])], false);
    let second = busy.put_frame(&[Object::new("l", vec![1; 1000])], false);
    busy.send(&first[..first.len() - 1]);
    std::thread::sleep(Duration::from_millis(200));
    node.signal("TERM");
    std::thread::sleep(Duration::from_millis(400));
    busy.send(&[&first[first.len() - 1..], &second].concat());
    assert_eq!(busy.reply().statuses(), [Status::Stored]);
    assert_eq!(busy.reply().header.code, Code::Draining);
    assert_eq!(node.wait(SOON).code(), Some(0));
}

#[test]
fn a_drain_ends_at_its_timeout_whoever_still_holds_on() {
    let mut node = Process::start(&["--drain-timeout", "1s"]);
    let mut stuck = Raw::open(node.address, "drain");
    let frame = stuck.put_frame(&[Object::new("k", vec![1; 1000])], false);
    stuck.send(&frame[..frame.len() - 1]);
    std::thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    node.signal("TERM");
    assert_eq!(node.wait(SOON).code(), Some(0));
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    assert!(stuck.is_ended());
}

#[test]
fn connection_storm_without_descriptors_neither_spins_nor_lasts() {
    let node = Process::start_with_few_descriptors(64, &[]);
    let mut first = Raw::open(node.address, "storm");
    assert_eq!(first.put_one("key", b"bytes"), Status::Stored);
    let storm: Vec<_> = (0..200).map(|_| Raw::connect(node.address)).collect();
    within(SOON, "descriptors are used up", || first.stat(Stat::AcceptErrors) > 0);
    let (cpu, errors) = (node.cpu(), first.stat(Stat::AcceptErrors));
    std::thread::sleep(Duration::from_secs(2));
    let spent = node.cpu() - cpu;
    let tries = first.stat(Stat::AcceptErrors) - errors;
    assert!(spent < Duration::from_millis(500), "{spent:?} of CPU in 2 s: it spins");
    assert!((1..50).contains(&tries), "{tries} tries in 2 s: it backs off and goes on");
    assert_eq!(first.get_one("key").unwrap().bytes, b"bytes", "who is in is served");
    drop(storm);
    let mut late = Raw::open(node.address, "storm");
    assert_eq!(late.get_one("key").unwrap().bytes, b"bytes", "and then others get in again");
}

#[test]
fn connections_beyond_their_maximum_are_closed_and_the_others_served() {
    let node = Process::start(&["--connections-max", "10"]);
    let mut open: Vec<_> = (0..10).map(|_| Raw::open(node.address, "full")).collect();
    for _ in 0..5 {
        assert!(Raw::connect(node.address).is_closed());
    }
    assert_eq!(open[0].stat(Stat::AcceptErrors), 5);
    assert!(open.iter_mut().all(|raw| raw.put_one("k", b"v") == Status::Stored));
    drop(open);
    let mut witness = None;
    within(SOON, "there is room again", || {
        let mut raw = Raw::connect(node.address);
        let frame = raw.hello_frame(0, 0);
        let is_in = raw.try_send(&frame).is_ok() && raw.try_reply().is_ok_and(|r| r.is_some());
        witness = is_in.then_some(raw);
        is_in
    });
}

/// Connects and leaves again in the ways that clients do, and counts what is left open.
fn come_and_go(node: &Process, count: u64) {
    let mut witness = Raw::open(node.address, "flat");
    let alone = |witness: &mut Raw| witness.stat(Stat::Connections) == 1;
    within(SOON, "alone", || alone(&mut witness));
    let (descriptors, accepted) = (node.descriptors(), witness.stat(Stat::Accepted));
    for number in 0..count {
        let mut raw = Raw::connect(node.address);
        match number % 4 {
            0 => drop(raw),
            1 => drop(Raw::greeted(node.address)),
            2 => raw.send(b"garbage"),
            _ => assert_eq!(raw.hello(0, 0).header.code, Code::Ok),
        }
    }
    within(SOON, "all are gone", || alone(&mut witness));
    // Twice in every fourth round.
    let came = count + count / 4;
    assert_eq!(witness.stat(Stat::Accepted) - accepted, came, "none was lost");
    within(SOON, "descriptors are closed", || node.descriptors() <= descriptors);
}

#[test]
fn connections_that_come_and_go_leave_no_descriptor_behind() {
    let node = Process::start(&[]);
    come_and_go(&node, 200);
    let resident = node.resident_bytes();
    come_and_go(&node, 8000);
    let grown = node.resident_bytes().saturating_sub(resident);
    assert!(grown < 8 << 20, "{grown} bytes more after 10,000 connections");
}

#[test]
#[ignore = "long: 100,000 connections; run with `cargo test -p larder-node --test processes -- \
            --ignored`"]
fn a_hundred_thousand_connections_leave_no_descriptor_behind() {
    let node = Process::start(&[]);
    come_and_go(&node, 8000);
    let resident = node.resident_bytes();
    come_and_go(&node, 80_000);
    let grown = node.resident_bytes().saturating_sub(resident);
    assert!(grown < 8 << 20, "{grown} bytes more after 100,000 connections");
}

#[test]
fn clients_that_connect_and_vanish_at_once_are_all_accepted_and_closed() {
    let node = Process::start(&[]);
    let mut witness = Raw::open(node.address, "vanish");
    let descriptors = node.descriptors();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| drop(Raw::connect(node.address))));
        }
    });
    within(SOON, "all were accepted", || witness.stat(Stat::Accepted) == 201);
    within(SOON, "and closed", || witness.stat(Stat::Connections) == 1);
    within(SOON, "descriptors too", || node.descriptors() <= descriptors);
    assert_eq!(witness.put_one("k", b"v"), Status::Stored);
}
