//! A node that reads what is put from the memory of a client, over a simulated fabric.
//!
//! What a reader would get wrong: bytes are read some time between the request and its answer, so a
//! test that changes them in between means the checks to notice.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod fabric;
mod process;
mod raw;

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use larder_protocol::message::{Get, MatchReply, PairAddress, RemotePiece};
use larder_protocol::stats::Stat;
use larder_protocol::{Code, Status};
use larder_transport::rdma::QueuePair;

use content::content;
use fabric::{Far, Stand, Want};
use process::within;
use raw::object::Object;
use raw::words::name;

/// An object of so many bytes, which are at `at` in the memory of `far`.
fn object(far: &Far, key: &[u8], at: usize, bytes: usize) -> Object {
    far.object(key, content(key, 1, bytes), &[(at, bytes)])
}

#[test]
fn objects_of_all_sizes_are_read_from_where_the_client_said() {
    let stand = Stand::start(|_| {});
    let mut witness = stand.plain();
    let mut far = Far::connect(&stand, 6 << 20);
    let sizes = [0, 1, 2, 63, 4096, 4097, 100_000, (1 << 20) + 7, 5 << 20];
    for (number, &bytes) in sizes.iter().enumerate() {
        let key = name("sized", number);
        let object = object(&far, &key, 5000 + 17 * number, bytes);
        assert_eq!(far.raw.put(std::slice::from_ref(&object)), [Status::Stored], "{bytes}");
        assert!(witness.get_one(&key).unwrap().bytes == object.bytes, "{bytes}");
    }
    let read: u64 = sizes.iter().map(|&bytes| bytes as u64).sum();
    assert_eq!(far.raw.stat(Stat::ReadBytes), read);
    assert_eq!(far.raw.stat(Stat::FillingBytes), 0);
}

#[test]
fn scattered_and_mixed_objects_have_their_statuses_in_order() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 4 << 20);
    let mut objects: Vec<_> = (0..30)
        .map(|n| {
            let key = name("mixed", n);
            let bytes = content(&key, 1, 3000 * n);
            match n % 3 {
                0 => Object::new(&key, bytes),
                1 => object(&far, &key, 100_000 * n, 3000 * n),
                _ => {
                    let at = 100_000 * n;
                    let places = [(at + 60, n), (at, 0), (at + 500, 2999 * n)];
                    far.object(&key, bytes, &places)
                }
            }
        })
        .collect();
    objects[7].parts = Some(vec![0xee; 8]);
    objects[12].seal = Some(1);
    let statuses = far.raw.put(&objects);
    for (n, status) in statuses.iter().enumerate() {
        let expected = if [7, 12].contains(&n) { Status::Corrupt } else { Status::Stored };
        assert_eq!(*status, expected, "{n}");
    }
    for (n, object) in objects.iter().enumerate() {
        match far.raw.get_one(&object.key) {
            Ok(got) => assert!(got.bytes == object.bytes, "{n}"),
            Err(status) => assert!(status == Status::Miss && [7, 12].contains(&n), "{n}"),
        }
    }
}

#[test]
fn bytes_that_are_not_what_the_put_says_are_not_stored() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 4 << 20);
    let before = far.raw.levels();
    for bytes in [1, 5000, 3 << 20] {
        for wrong in [0, bytes / 2, bytes - 1] {
            let object = object(&far, b"k", 0, bytes);
            far.memory.write(wrong, &[object.bytes[wrong] ^ 1]);
            assert_eq!(far.raw.put(&[object]), [Status::Corrupt]);
        }
    }
    assert_eq!(far.raw.stat(Stat::Corrupt), 9);
    assert!(!far.raw.has("k"));
    far.raw.expect_levels(before);
}

#[test]
fn put_of_more_than_may_be_filled_at_once_is_stored_by_and_by() {
    let stand = Stand::start(|config| config.inflight_bytes_max = Some(2 << 20));
    let mut far = Far::connect(&stand, 12 << 20);
    let objects: Vec<_> =
        (0..12).map(|n| object(&far, &name("many", n), n << 20, 1 << 20)).collect();
    assert_eq!(far.raw.put(&objects), [Status::Stored; 12]);
    for object in &objects {
        assert!(far.raw.get_one(&object.key).unwrap().bytes == object.bytes);
    }
    // Many small ones are read with few rings.
    let doorbells = far.raw.stat(Stat::Doorbells);
    let objects: Vec<_> =
        (0..100).map(|n| object(&far, &name("small", n), n * 1000, 1000)).collect();
    assert_eq!(far.raw.put(&objects), [Status::Stored; 100]);
    assert_eq!(far.raw.stat(Stat::Doorbells), doorbells + 1);
}

#[test]
fn gets_are_answered_while_a_put_is_read() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 8 << 20);
    let stored = object(&far, b"stored", 0, 900_000);
    assert_eq!(far.raw.put(std::slice::from_ref(&stored)), [Status::Stored]);
    let objects = [1, 2].map(|n| object(&far, &name("more", n), n << 20, 800_000));
    let want: [Want<'_>; 1] = [(b"stored", Some(&[(4 << 20, 900_000)]))];
    stand.hold();
    let get = far.get_frame(&Get::whole(true), &want);
    let put = far.raw.put_frame(&objects, false);
    let then = far.get_frame(&Get::whole(true), &[(b"stored", Some(&[(6 << 20, 900_000)]))]);
    far.raw.send(&[get, put, then].concat());
    stand.go();
    let reply = far.raw.reply();
    assert!(far.answers(&reply, &want).remove(0).unwrap().bytes == stored.bytes);
    // The other get may overtake what is left of the put.
    let mut replies = [far.raw.reply(), far.raw.reply()];
    replies.sort_by_key(|reply| reply.header.request_id);
    assert_eq!(replies[0].statuses(), [Status::Stored; 2]);
    assert_eq!(replies[1].header.code, Code::Ok);
    assert!(far.memory.read(6 << 20, 900_000) == stored.bytes);
}

#[test]
fn what_only_reads_is_served_while_a_put_is_read_and_nothing_else() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 8 << 20);
    let stored = Object::new("stored", vec![5; 300_000]);
    assert_eq!(far.raw.put(std::slice::from_ref(&stored)), [Status::Stored]);
    let long = object(&far, b"long", 1 << 20, 900_000);
    stand.hold();
    let put = far.raw.put_frame(&[long], false);
    let get = far.raw.get_frame(&Get::whole(true), &[b"stored"]);
    // One comes with the put, one in pieces behind it.
    far.raw.send(&[&put[..], &get].concat());
    assert_eq!(far.raw.reply().header.code, Code::Ok);
    let found = far.raw.match_frame(&[b"stored", b"long"], false);
    far.raw.send(&found[..70]);
    std::thread::sleep(Duration::from_millis(5));
    far.raw.send(&found[70..]);
    assert_eq!(far.raw.reply().header.code, Code::Ok);
    // What changes something waits, and whatever is behind that.
    let removed = far.raw.remove_frame(&[b"long"]);
    let last = far.raw.match_frame(&[b"long"], false);
    far.raw.send(&[removed, last].concat());
    far.raw.set_patience(Duration::from_millis(50));
    assert!(far.raw.socket().peek(&mut [0; 1]).is_err(), "nothing of the put is answered yet");
    far.raw.set_patience(SOON);
    stand.go();
    assert_eq!(far.raw.reply().statuses(), [Status::Stored]);
    assert_eq!(far.raw.reply().statuses(), [Status::Removed]);
    let reply = far.raw.reply();
    assert_eq!(MatchReply::decode(&reply.body).unwrap().leading, 0);
}

#[test]
fn a_long_put_that_is_read_takes_nothing_from_what_is_served_beside_it() {
    let stand = Stand::start(|config| config.reply_bytes_max = Some(4 << 20));
    let mut far = Far::connect(&stand, 8 << 20);
    let long = object(&far, b"long", 0, 3 << 20);
    stand.hold();
    let put = far.raw.put_frame(&[long], false);
    let found = far.raw.match_frame(&[b"long"], false);
    far.raw.send(&[put, found].concat());
    // It is no slot that is being sent, so it does not count as one.
    assert_eq!(MatchReply::decode(&far.raw.reply().body).unwrap().leading, 0);
    stand.go();
    assert_eq!(far.raw.reply().statuses(), [Status::Stored]);
}

#[test]
fn a_put_that_stands_still_is_given_up_however_much_else_is_asked() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 1 << 20);
    let put = object(&far, b"k", 0, 900_000);
    stand.hold();
    let frame = far.raw.put_frame(&[put], false);
    far.raw.send(&frame);
    let asked: Vec<u8> = (0..50).flat_map(|_| far.raw.match_frame(&[b"k"], false)).collect();
    let [mut asks, ends] = [far.raw.socket(), far.raw.socket()];
    std::thread::scope(|scope| {
        scope.spawn(move || while asks.write_all(&asked).is_ok() {});
        let until = Instant::now() + SOON;
        let mut replies = std::iter::repeat_with(|| far.raw.reply().header.code);
        let last = replies.find(|code| *code != Code::Ok || Instant::now() >= until);
        ends.shutdown(Shutdown::Both).unwrap();
        assert_eq!(last, Some(Code::Unreachable));
    });
}

#[test]
fn inline_put_behind_a_get_waits_for_it_and_for_its_own_bytes() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 2 << 20);
    let stored = object(&far, b"stored", 0, 900_000);
    assert_eq!(far.raw.put(std::slice::from_ref(&stored)), [Status::Stored]);
    let want: [Want<'_>; 1] = [(b"stored", Some(&[(1 << 20, 900_000)]))];
    stand.hold();
    let get = far.get_frame(&Get::whole(true), &want);
    let put = far.raw.put_frame(&[Object::new("inline", vec![3; 700_000])], false);
    let (first, rest) = put.split_at(put.len() - 400_000);
    far.raw.send(&[&get, first].concat());
    stand.go();
    // Its bytes have not come, and the get is answered all the same.
    let reply = far.raw.reply();
    assert!(far.answers(&reply, &want).remove(0).unwrap().bytes == stored.bytes);
    far.raw.send(rest);
    assert_eq!(far.raw.reply().statuses(), [Status::Stored]);
}

#[test]
fn unreachable_source_refuses_the_put_and_a_new_pair_takes_it() {
    let stand = Stand::start(|_| {});
    let mut far = Far::greeted(&stand, 4 << 20);
    let before = far.raw.levels();
    let mut objects: Vec<_> =
        (0..4).map(|n| object(&far, &name("lost", n), n << 20, 700_000)).collect();
    objects.push(Object::new("inline", vec![1; 300_000]));
    let good = objects.clone();
    assert_eq!(far.raw.try_put(&objects, false).header.code, Code::Unreachable, "no pair");
    far.raw.expect_levels(before);
    for round in 1..4 {
        assert_eq!(far.connect_pair(), Code::Ok);
        objects[2].remote.as_mut().unwrap()[0].rkey = 999_999;
        let reply = far.raw.try_put(&objects, false);
        assert_eq!(reply.header.code, Code::Unreachable);
        assert_eq!(far.raw.stat(Stat::PairsFailed), round);
        assert_eq!(far.raw.stat(Stat::FillingBytes), 0);
        assert!(!far.raw.has(name("lost", 2)));
        assert_eq!(far.raw.try_put(&good, false).header.code, Code::Unreachable, "it has ended");
    }
    assert_eq!(far.connect_pair(), Code::Ok);
    assert_eq!(far.raw.put(&good), [Status::Stored; 5]);
    for object in &good {
        assert!(far.raw.get_one(&object.key).unwrap().bytes == object.bytes);
    }
}

#[test]
fn pieces_that_are_not_the_object_end_the_connection() {
    let stand = Stand::start(|_| {});
    let mut witness = stand.plain();
    let before = witness.levels();
    let piece = |address, bytes| RemotePiece { address, rkey: 1, bytes };
    for (pieces, what) in [
        (vec![], "bytes of remote pieces"),
        (vec![piece(0, 4999)], "bytes of remote pieces"),
        (vec![piece(0, 4999), piece(0, 2)], "bytes of remote pieces"),
        (vec![piece(0, u32::MAX), piece(0, 5001)], "bytes of remote pieces"),
        (vec![piece(u64::MAX - 1, 5000)], "remote address"),
    ] {
        let mut far = Far::connect(&stand, 1 << 20);
        let object = Object { remote: Some(pieces), ..Object::new("k", vec![1; 5000]) };
        let frame = far.raw.put_frame(&[object], false);
        far.raw.send(&frame);
        let said = far.raw.farewell();
        assert!(said.contains(what), "{said}");
    }
    witness.expect_levels(before);
    // A card is only for those who asked for it.
    let object = Object { remote: Some(vec![piece(0, 5)]), ..Object::new("k", vec![1; 5]) };
    assert_eq!(witness.try_put(&[object], false).header.code, Code::Unsupported);
}

#[test]
fn put_is_given_up_at_half_of_its_time_and_leaves_nothing() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 1 << 20);
    let before = far.raw.levels();
    let objects = [0, 1].map(|n| object(&far, &name("late", n), n * 400_000, 300_000));
    stand.hold();
    far.raw.deadline_us = 100_000;
    let frame = far.raw.put_frame(&objects, false);
    far.raw.send(&frame);
    let begun = Instant::now();
    assert_eq!(far.raw.reply().header.code, Code::Unreachable);
    assert!(begun.elapsed() > Duration::from_millis(40), "{:?}", begun.elapsed());
    stand.go();
    far.raw.deadline_us = 60_000_000;
    far.raw.expect_levels(before);
    assert_eq!(far.connect_pair(), Code::Ok);
    assert_eq!(far.raw.put(&objects), [Status::Stored; 2]);
}

#[test]
fn put_whose_client_asks_for_another_pair_is_given_up_at_once() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 1 << 20);
    let before = far.raw.levels();
    let long = object(&far, b"long", 0, 900_000);
    stand.hold();
    let put = far.raw.put_frame(std::slice::from_ref(&long), false);
    far.pair = None;
    let (pair, mut own) = far.pair_frame();
    let begun = Instant::now();
    far.raw.send(&[put, pair].concat());
    assert_eq!(far.raw.reply().header.code, Code::Unreachable);
    let took = begun.elapsed();
    let reply = far.pair_reply();
    own.connect(&PairAddress::decode(&reply.body).unwrap()).unwrap();
    far.pair = Some(own);
    stand.go();
    assert_eq!(far.raw.put(&[long]), [Status::Stored]);
    assert_eq!(far.raw.stat(Stat::PairsFailed), 0, "it was not given up for being slow: {took:?}");
    assert!(far.raw.remove(&[b"long"]) == [Status::Removed]);
    far.raw.expect_levels(before);
}

#[test]
fn client_that_is_gone_in_the_middle_of_a_put_leaves_nothing() {
    let stand = Stand::start(|_| {});
    let mut witness = stand.plain();
    let before = witness.levels();
    for has_more in [false, true] {
        let mut far = Far::connect(&stand, 1 << 20);
        let object = object(&far, b"k", 0, 900_000);
        stand.hold();
        let frame = far.raw.put_frame(&[object], false);
        far.raw.send(&frame);
        if has_more {
            // Bytes that nobody reads do not hide its end.
            let frame = far.raw.match_frame(&[b"k"], false);
            far.raw.send(&frame);
        }
        within(SOON, "it is under way", || witness.stat(Stat::FillingBytes) == 900_000);
        drop(far);
        witness.expect_levels(before);
        assert_eq!(witness.stat(Stat::PairsOpen), 0);
        stand.go();
    }
    assert!(!witness.has("k"));
}

#[test]
fn stalled_put_is_given_up_and_a_node_that_stops_does_not_wait_for_it() {
    let stand = Stand::start(|_| {});
    let mut witness = stand.plain();
    let before = witness.levels();
    stand.hold();
    let mut far = Far::connect(&stand, 1 << 20);
    let put = object(&far, b"k", 0, 900_000);
    let frame = far.raw.put_frame(&[put], false);
    let begun = Instant::now();
    far.raw.send(&frame);
    // Long before half of its minute.
    assert_eq!(far.raw.reply().header.code, Code::Unreachable);
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(200) && took < Duration::from_secs(5), "{took:?}");
    witness.expect_levels(before);
    assert_eq!(witness.stat(Stat::TimedOut), 0);
    let stand = Stand::start(|_| {});
    stand.hold();
    let mut far = Far::connect(&stand, 1 << 20);
    let put = object(&far, b"k", 0, 900_000);
    let frame = far.raw.put_frame(&[put], false);
    far.raw.send(&frame);
    let mut witness = stand.plain();
    within(SOON, "it is under way", || witness.stat(Stat::FillingBytes) == 900_000);
    let begun = Instant::now();
    drop(stand);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(far.raw.is_ended());
}

const SOON: Duration = Duration::from_secs(5);
