//! Peers that stand still or trickle: cut off in their time, capped meanwhile, in nobody's way.
//!
//! Upper bounds of time are generous, since machines that run tests are busy; lower bounds are
//! exact, since no peer may be cut off too soon.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use larder_protocol::message::Get;
use larder_protocol::stats::Stat;
use larder_protocol::{Code, Opcode, Status};

use content::content;
use process::{Process, within};
use raw::Raw;
use raw::object::Object;
use raw::words::name;

/// Sends a byte each 100 ms until the node hangs up; how long that took.
fn trickle(raw: &mut Raw, bytes: &[u8]) -> Duration {
    let started = Instant::now();
    raw.set_patience(Duration::from_millis(100));
    for byte in bytes {
        if raw.try_send(&[*byte]).is_err() || raw.is_closed() {
            return started.elapsed();
        }
    }
    panic!("all {} bytes were taken in {:?}", bytes.len(), started.elapsed());
}

/// Serves as a witness that others are served while `during` runs.
fn others_are_served<R>(address: SocketAddr, during: impl FnOnce() -> R) -> R {
    let mut witness = Raw::open(address, "witness");
    assert_eq!(witness.put_one("w", b"witness"), Status::Stored);
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let mut slowest = Duration::ZERO;
            while is_over.try_recv().is_err_and(|e| e == std::sync::mpsc::TryRecvError::Empty) {
                let asked = Instant::now();
                assert_eq!(witness.get_one("w").unwrap().bytes, b"witness");
                slowest = slowest.max(asked.elapsed());
                std::thread::sleep(Duration::from_millis(10));
            }
            slowest
        });
        let result = during();
        drop(over);
        let slowest = watch.join().unwrap();
        assert!(slowest < Duration::from_secs(1), "another client waited for {slowest:?}");
        result
    })
}

/// A limit of 500 ms, by a clock that counts whole milliseconds.
const LIMIT: Duration = Duration::from_millis(499);
const CUT_MAX: Duration = Duration::from_secs(4);

#[test]
fn a_trickled_header_is_cut_off_at_its_timeout() {
    let node = Process::start(&["--header-timeout", "500ms"]);
    others_are_served(node.address, || {
        let mut raw = Raw::open(node.address, "slow");
        let frame = raw.frame(Opcode::Stats, &[], 0);
        let took = trickle(&mut raw, &frame);
        assert!((LIMIT..CUT_MAX).contains(&took), "cut after {took:?}");
    });
    assert_eq!(Raw::greeted(node.address).stat(Stat::TimedOut), 1);
}

#[test]
fn a_trickled_body_is_cut_off_at_its_timeout() {
    let node = Process::start(&["--header-timeout", "500ms", "--progress-timeout", "500ms"]);
    others_are_served(node.address, || {
        let mut raw = Raw::open(node.address, "slow");
        let keys = vec![[7; 60].as_slice(); 100];
        let frame = raw.match_frame(&keys, false);
        raw.send(&frame[..100]);
        let took = trickle(&mut raw, &frame[100..]);
        assert!((LIMIT..CUT_MAX).contains(&took), "cut after {took:?}");
    });
}

#[test]
fn a_trickled_payload_is_cut_off_and_its_slot_comes_back() {
    let node = Process::start(&["--progress-timeout", "500ms"]);
    let mut witness = Raw::open(node.address, "slow");
    let before = witness.levels();
    for bytes in [100, 60_000] {
        others_are_served(node.address, || {
            let mut raw = Raw::open(node.address, "slow");
            let object = Object::new("slow", content(b"slow", 1, bytes));
            let frame = raw.put_frame(&[object], false);
            let start = frame.len() - bytes;
            raw.send(&frame[..start]);
            let took = trickle(&mut raw, &frame[start..]);
            assert!((LIMIT..CUT_MAX).contains(&took), "cut after {took:?}");
        });
        assert!(!witness.has("slow"));
    }
    Raw::open(node.address, "witness").remove(&[b"w"]);
    witness.expect_levels(before);
}

#[test]
fn a_deadline_that_has_passed_ends_a_stalled_put_before_the_progress_timeout() {
    let node = Process::start(&["--progress-timeout", "1m"]);
    let mut raw = Raw::open(node.address, "slow");
    raw.deadline_us = 200_000;
    let frame = raw.put_frame(&[Object::new("slow", vec![1; 1000])], false);
    raw.send(&frame[..frame.len() - 1]);
    let started = Instant::now();
    assert!(raw.is_closed());
    let took = started.elapsed();
    assert!((Duration::from_millis(200)..CUT_MAX).contains(&took), "cut after {took:?}");
    Raw::open(node.address, "slow").expect_levels([0; 5]);
}

#[test]
fn who_says_nothing_or_half_a_hello_is_cut_off() {
    let node = Process::start(&["--hello-timeout", "500ms", "--header-timeout", "1m"]);
    for said in [0, 1, 64, 70] {
        let mut raw = Raw::connect(node.address);
        let frame = raw.hello_frame(0, 1);
        let started = Instant::now();
        raw.send(&frame[..said]);
        assert!(raw.is_closed(), "without a word");
        let took = started.elapsed();
        assert!((LIMIT..CUT_MAX).contains(&took), "cut after {took:?}");
    }
    let mut raw = Raw::connect(node.address);
    let frame = raw.hello_frame(0, 1);
    let took = trickle(&mut raw, &frame);
    assert!((LIMIT..CUT_MAX).contains(&took), "cut after {took:?}");
}

#[test]
fn an_idle_connection_stays_unless_it_is_told_otherwise() {
    let short = ["--hello-timeout", "200ms", "--header-timeout", "200ms"];
    let node = Process::start(&[&short[..], &["--progress-timeout", "200ms"]].concat());
    let mut raw = Raw::open(node.address, "idle");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(raw.put_one("k", b"v"), Status::Stored);

    let node = Process::start(&["--connection-idle-timeout", "500ms"]);
    let mut raw = Raw::open(node.address, "idle");
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(raw.put_one("k", b"v"), Status::Stored, "it is not idle");
    }
    let started = Instant::now();
    assert!(raw.is_closed());
    let took = started.elapsed();
    assert!((Duration::from_millis(400)..CUT_MAX).contains(&took), "cut after {took:?}");
}

/// A node with an object of 1 MiB, `reply-bytes-max` and `progress-timeout` small.
fn with_a_big_object() -> Process {
    let node = Process::start(&["--reply-bytes-max", "16MiB", "--progress-timeout", "1s"]);
    let mut raw = Raw::open(node.address, "big");
    assert_eq!(raw.put_one("big", &content(b"big", 1, 1 << 20)), Status::Stored);
    node
}

#[test]
fn readers_that_never_read_are_capped_and_then_cut_off() {
    let node = with_a_big_object();
    let mut witness = Raw::open(node.address, "big");
    others_are_served(node.address, || {
        let mut idlers: Vec<_> = (0..8).map(|_| Raw::open(node.address, "big")).collect();
        for raw in &mut idlers {
            let frames = (0..100).map(|_| raw.get_frame(&Get::whole(true), &[b"big"]));
            let frames: Vec<u8> = frames.collect::<Vec<_>>().concat();
            raw.send(&frames);
        }
        let sending = |witness: &mut Raw| witness.stat(Stat::SendingBytes);
        within(Duration::from_secs(5), "they are being sent to", || sending(&mut witness) > 0);
        let mut most = 0;
        let started = Instant::now();
        while witness.stat(Stat::TimedOut) < 8 {
            most = most.max(sending(&mut witness));
            assert!(witness.get_one("big").is_ok(), "another reader is served");
            assert!(started.elapsed() < Duration::from_secs(15), "they are cut off");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(most <= 8 << 20, "100 MiB were asked for by each of 8, {most} bytes were held");
    });
    within(Duration::from_secs(3), "slots are let go", || witness.stat(Stat::SendingBytes) == 0);
    assert_eq!(witness.get_one("big").unwrap().bytes, content(b"big", 1, 1 << 20));
}

#[test]
fn replies_held_for_sending_are_capped_for_each_and_over_all_connections() {
    let node = with_a_big_object();
    let mut witness = Raw::open(node.address, "big");
    // Each asks for 24 MiB again and again, more than sockets take.
    let keys = [b"big".as_slice(); 24];
    let mut readers: Vec<_> = (0..16).map(|_| Raw::open(node.address, "big")).collect();
    for raw in &mut readers {
        let frames = (0..8).map(|_| raw.get_frame(&Get::whole(true), &keys));
        let frames: Vec<u8> = frames.collect::<Vec<_>>().concat();
        raw.send(&frames);
    }
    let mut refused = 0;
    let started = Instant::now();
    while refused == 0 {
        let sending = witness.stat(Stat::SendingBytes);
        assert!(sending <= (16 + 4) << 20, "the limit and one reply: {sending}");
        let frame = witness.get_frame(&Get::whole(true), &[b"big"]);
        let reply = witness.call(&frame);
        refused += u64::from(reply.header.code == Code::Busy);
        assert!(started.elapsed() < Duration::from_secs(10), "somebody is refused");
    }
    assert_eq!(witness.matched(&[b"big"], false), [true], "what holds nothing is served");
    // Whoever reads gets whole and right bytes for a quarter of the limit, and may ask again.
    for raw in &mut readers {
        let reply = raw.reply();
        if reply.header.code == Code::Busy {
            continue;
        }
        let answers = reply.answers(&keys, &raw.meaning);
        for (index, got) in answers.into_iter().enumerate() {
            match got {
                Ok(got) if index < 4 => assert!(got.bytes == content(b"big", 1, 1 << 20)),
                other => assert_eq!(other.err(), Some(Status::MissReplyFull), "key {index}"),
            }
        }
    }
    drop(readers);
    within(Duration::from_secs(3), "slots are let go", || witness.stat(Stat::SendingBytes) == 0);
}

#[test]
fn a_reader_that_stops_is_cut_off_even_while_a_refusal_is_sent_to_it() {
    let node = with_a_big_object();
    let mut witness = Raw::open(node.address, "big");
    let small = content(b"small", 1, 100_000);
    assert_eq!(witness.put_one("small", &small), Status::Stored);
    assert_eq!(witness.bump(2), 2);
    assert_eq!(witness.put_one("small", &small), Status::Stored);
    let mut raw = Raw::open(node.address, "big");
    let get = raw.get_frame(&Get::whole(true), &[b"small"]);
    // A put that is refused at the door, so that its answer is sent before its payload is read.
    raw.meaning.generation = 1;
    let refused = raw.put_frame(&[Object::new("k", vec![1; 64])], false);
    let both = [get, refused].concat();
    // One pair at a time, until the node waits for this reader in the middle of one.
    let mut standing = Duration::ZERO;
    for pairs in 1.. {
        assert!(pairs < 1000, "sockets take for ever");
        raw.send(&both);
        within(Duration::from_secs(5), "it is begun", || witness.stat(Stat::Hits) == pairs);
        let begun = Instant::now();
        while standing.as_millis() < 300 && witness.stat(Stat::SendingBytes) > 0 {
            standing = begun.elapsed();
        }
        if standing.as_millis() >= 300 {
            break;
        }
    }
    within(Duration::from_secs(5), "it is cut off", || witness.stat(Stat::TimedOut) == 1);
    within(Duration::from_secs(3), "slots are let go", || witness.stat(Stat::SendingBytes) == 0);
}

#[test]
fn stalled_puts_are_capped_by_bytes_and_others_are_told_busy() {
    let node = Process::start(&["--inflight-bytes-max", "4MiB", "--progress-timeout", "1s"]);
    let mut witness = Raw::open(node.address, "stalled");
    let before = witness.levels();
    let mut writers: Vec<_> = (0..12)
        .map(|number| {
            let mut raw = Raw::open(node.address, "stalled");
            let key = name("stalled", number);
            let frame = raw.put_frame(&[Object::new(key, vec![1; 1 << 20])], false);
            raw.send(&frame[..frame.len() - (1 << 20) + 10]);
            raw
        })
        .collect();
    let filling = |witness: &mut Raw| witness.stat(Stat::FillingBytes);
    within(Duration::from_secs(1), "four are let in", || filling(&mut witness) == 4 << 20);
    let reply = witness.try_put(&[Object::new("one more", vec![2; 100])], false);
    assert_eq!(reply.header.code, Code::Busy);
    assert!(witness.stat(Stat::RefusedBusy) >= 1);
    assert!(writers.iter_mut().all(Raw::is_ended), "every staller is cut off");
    witness.expect_levels(before);
    assert_eq!(witness.put_one("one more", b"room again"), Status::Stored);
}
