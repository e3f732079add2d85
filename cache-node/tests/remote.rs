//! A node that writes gets into the memory of a client, over a simulated fabric: what cards would
//! do, done by a thread of the test, packet by packet.
//!
//! What a reader would get wrong: nothing moves while the stand is held, so a test that wants to
//! meet a transfer in the middle holds it before it asks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod fabric;
mod process;
mod raw;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[cfg(feature = "rdma")]
use larder_node::{
    config::{Config, RdmaDevices},
    node::{Node, StartError},
};
use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::{ClientPath, Get, RemotePiece};
use larder_protocol::stats::Stat;
use larder_protocol::{Code, NamespaceSpec, Opcode, Status};

use content::content;
use fabric::{CANARY, Far, Stand, Want};
use process::within;
use raw::Raw;

/// Stores an object of these bytes; the key and the object.
fn stored(raw: &mut Raw, key: &str, bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let object = content(key.as_bytes(), 1, bytes);
    assert_eq!(raw.put_one(key, &object), Status::Stored);
    (key.as_bytes().to_vec(), object)
}

#[test]
fn objects_of_all_sizes_land_where_the_client_said_and_nowhere_else() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 6 << 20);
    let sizes = [0, 1, 2, 63, 4096, 4097, 100_000, (1 << 20) + 7, 5 << 20];
    let mut written = 0;
    for (number, &bytes) in sizes.iter().enumerate() {
        let (key, object) = stored(&mut far.raw, &format!("sized-{number}"), bytes);
        let at = 5000 + 17 * number;
        // More room than is needed.
        let got = far.get(&[(&key, Some(&[(at, bytes + 50)]))]).remove(0).unwrap();
        assert!(got.bytes == object, "{bytes}");
        for around in [at - 100, at + bytes] {
            assert_eq!(far.memory.read(around, 100), [CANARY; 100], "{bytes}");
        }
        far.memory.write(at, &vec![CANARY; bytes]);
        written += bytes as u64;
    }
    assert_eq!(far.raw.stat(Stat::WrittenBytes), written);
    assert_eq!(far.raw.stat(Stat::SentBytes), 0);
    assert_eq!(far.raw.stat(Stat::SendingBytes), 0);
}

#[test]
fn pieces_are_filled_in_their_order_and_may_be_empty() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 1 << 20);
    let (key, object) = stored(&mut far.raw, "scattered", 10_000);
    let places = [(50_000, 1), (0, 0), (100, 4999), (90_000, 0), (20_000, 6000)];
    let got = far.get(&[(&key, Some(&places))]).remove(0).unwrap();
    assert!(got.bytes == object);
    assert_eq!(far.memory.read(25_000, 1000), [CANARY; 1000], "more room than object");
    // As many pieces as there may be, more than a card takes at a time.
    let places: Vec<_> = (0..512).map(|n| (200_000 + 1000 * n, 20)).collect();
    let got = far.get(&[(&key, Some(&places))]).remove(0).unwrap();
    assert!(got.bytes == object);
    for room in [&[][..], &[(0, 0)], &[(0, 9999)], &[(0, 5000), (6000, 4999)]] {
        far.memory.write(0, &[CANARY; 12_000]);
        assert_eq!(far.get(&[(&key, Some(room))]), [Err(Status::MissSize)]);
        assert_eq!(far.memory.read(0, 12_000), [CANARY; 12_000], "nothing for a miss");
    }
}

#[test]
fn parts_of_an_object_land_without_the_rest() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 4 << 20);
    let part = 50_000;
    let spec = NamespaceSpec { part_bytes: part as u32, ..NamespaceSpec::new("tests", "parts") };
    assert_eq!(far.raw.open_namespace(&spec, 0).header.code, Code::Ok);
    let (key, object) = stored(&mut far.raw, "parts", 2 * part + 100);
    let get = Get { part_first: 1, part_count: 2, ..Get::whole(true) };
    let frame = far.get_frame(&get, &[(&key, Some(&[(64, part + 200)]))]);
    assert_eq!(far.raw.call(&frame).header.code, Code::Ok);
    assert!(far.memory.read(64, part + 100) == object[part..]);
    assert_eq!(far.memory.read(64 + part + 100, 100), [CANARY; 100]);
}

#[test]
fn one_get_may_mix_ways_and_misses_and_one_burst_is_one_ring() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 4 << 20);
    let objects: Vec<_> = (0..40)
        .map(|number| stored(&mut far.raw, &format!("mixed-{number}"), 100 + 5000 * number))
        .collect();
    let places: Vec<_> = (0..40).map(|n| [(n * 100_000 % (3 << 20) + n, 300_000)]).collect();
    let is_far = |n: usize| n.is_multiple_of(3);
    let mut wants: Vec<Want<'_>> = Vec::new();
    for (n, (key, _)) in objects.iter().enumerate() {
        // Far ones do not overlap, and the near ones have no place.
        wants.push((key, if is_far(n) && n < 10 { Some(&places[n][..]) } else { None }));
    }
    wants.insert(5, (b"nobody", Some(&[(0, 50)])));
    wants.insert(9, (b"nobody else", None));
    let answers = far.get(&wants);
    let mut objects_left = objects.iter();
    for ((key, _), answer) in wants.iter().zip(answers) {
        if key.starts_with(b"nobody") {
            assert_eq!(answer, Err(Status::Miss));
        } else {
            assert!(answer.unwrap().bytes == objects_left.next().unwrap().1);
        }
    }
    assert_eq!(far.memory.read(0, 1), [objects[0].1[0]]);
    // Four works of one get, and one ring.
    assert_eq!((far.raw.stat(Stat::Works), far.raw.stat(Stat::Doorbells)), (4, 1));
}

#[test]
fn gets_are_pipelined_and_others_overtake_them() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 8 << 20);
    let objects: Vec<_> =
        (0..8).map(|n| stored(&mut far.raw, &format!("piped-{n}"), 900_000 + n)).collect();
    stand.hold();
    let places: Vec<_> = (0..8).map(|n| [(n << 20, 1 << 20)]).collect();
    let wants: Vec<[Want<'_>; 1]> =
        (0..8).map(|n| [(&*objects[n].0, Some(&places[n][..]))]).collect();
    let frames: Vec<_> = wants.iter().map(|want| far.get_frame(&Get::whole(true), want)).collect();
    far.raw.send(&frames.concat());
    // What needs no card is answered meanwhile.
    assert_eq!(far.raw.stat(Stat::WrittenBytes), 0);
    assert!(far.raw.get_one(&objects[3].0).unwrap().bytes == objects[3].1);
    let sending: usize = objects.iter().map(|(_, object)| object.len()).sum();
    assert_eq!(far.raw.stat(Stat::SendingBytes), sending as u64);
    stand.go();
    for (want, (_, object)) in wants.iter().zip(&objects) {
        let reply = far.raw.reply();
        assert!(far.answers(&reply, want).remove(0).unwrap().bytes == *object);
    }
    assert_eq!(far.raw.stat(Stat::SendingBytes), 0);
}

#[test]
fn nothing_remote_is_served_to_who_has_no_pair() {
    let stand = Stand::start(|_| {});
    let mut plain = stand.plain();
    let (key, _) = stored(&mut plain, "k", 5000);
    let mut far = Far::greeted(&stand, 1 << 20);
    let frame = far.get_frame(&Get::whole(true), &[(&key, Some(&[(0, 5000)]))]);
    assert_eq!(far.raw.call(&frame).header.code, Code::Unreachable);
    let (pair, _kept) = far.pair_frame();
    for (opcode, frame) in [(Opcode::Pair, &pair), (Opcode::Get, &frame)] {
        let frame = plain.frame(opcode, &frame[HEADER_BYTES..], 0);
        assert_eq!(plain.call(&frame).header.code, Code::Unsupported, "it did not ask for it");
    }
    assert_eq!(far.memory.read(0, 5000), [CANARY; 5000]);
    assert_eq!(far.connect_pair(), Code::Ok);
    assert!(far.get(&[(&key, Some(&[(0, 5000)]))])[0].is_ok());
    assert_eq!((plain.stat(Stat::Pairs), plain.stat(Stat::PairsOpen)), (1, 1));
    drop(far);
    within(SOON, "the pair goes with its connection", || plain.stat(Stat::PairsOpen) == 0);
}

#[test]
fn wrong_key_ends_the_pair_and_a_new_one_works() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 1 << 20);
    let (key, object) = stored(&mut far.raw, "k", 300_000);
    let place = [(0, 300_000)];
    for round in 1..4 {
        let good = far.pieces(&place);
        let wrong = vec![RemotePiece { rkey: 999_999, ..good[0] }];
        let frames = [Some(good.clone()), Some(wrong), Some(good)]
            .map(|pieces| far.get_frame_of(&Get::whole(true), &[(&key, pieces)]));
        stand.hold();
        far.raw.send(&frames.concat());
        stand.go();
        let codes: Vec<_> = (0..3).map(|_| far.raw.reply().header.code).collect();
        assert_eq!(codes, [Code::Ok, Code::Unreachable, Code::Unreachable]);
        let frame = far.get_frame(&Get::whole(true), &[(&key, Some(&place))]);
        assert_eq!(far.raw.call(&frame).header.code, Code::Unreachable, "it has ended");
        assert_eq!(far.raw.stat(Stat::PairsFailed), round);
        assert_eq!((far.raw.stat(Stat::PairsOpen), far.raw.stat(Stat::SendingBytes)), (0, 0));
        assert_eq!(far.connect_pair(), Code::Ok);
        assert!(far.get(&[(&key, Some(&place))]).remove(0).unwrap().bytes == object);
    }
    assert_eq!(far.raw.stat(Stat::Pairs), 4);
}

#[test]
fn second_pair_ends_what_is_under_way_before_it_is_answered() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 1 << 20);
    let (key, object) = stored(&mut far.raw, "k", 300_000);
    let place = [(0, 300_000)];
    stand.hold();
    let want: [Want<'_>; 1] = [(&key, Some(&place))];
    let gets = [0, 1].map(|_| far.get_frame(&Get::whole(true), &want));
    far.raw.send(&gets.concat());
    far.raw.stat(Stat::Works);
    far.pair = None;
    let (frame, _kept) = far.pair_frame();
    far.raw.send(&frame);
    let codes: Vec<_> = (0..3).map(|_| far.raw.reply().header.code).collect();
    assert_eq!(codes, [Code::Unreachable, Code::Unreachable, Code::Ok]);
    assert_eq!(far.raw.stat(Stat::SendingBytes), 0);
    stand.go();
    assert_eq!(far.connect_pair(), Code::Ok);
    assert!(far.get(&want).remove(0).unwrap().bytes == object);
    assert_eq!(far.raw.stat(Stat::PairsOpen), 1);
    assert_eq!(far.raw.stat(Stat::PairsFailed), 0);
}

/// Asks for something, and hears that and what became of a pair that took long.
fn hear(far: &mut Far) -> [Code; 2] {
    let frame = far.raw.match_frame(&[b"k"], false);
    far.raw.send(&frame);
    [far.raw.reply().header.code, far.raw.reply().header.code]
}

#[test]
fn pairs_that_nobody_waits_for_any_more_are_not_connected() {
    let stand = Stand::start(|_| {});
    stand.fabric.connect_slowly(Duration::from_millis(500));
    for _ in 0..20 {
        let mut gone = Far::greeted(&stand, 1 << 20);
        let (frame, _) = gone.pair_frame();
        gone.raw.send(&frame);
    }
    let mut far = Far::greeted(&stand, 1 << 20);
    let (frame, _pair) = far.pair_frame();
    far.raw.send(&frame);
    // The pair under way and this one take a second, all twenty would take ten.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(hear(&mut far), [Code::Ok; 2]);
    assert_eq!(far.raw.stat(Stat::Pairs), 1);
}

#[test]
fn so_many_pairs_wait_to_be_connected_and_no_more() {
    let stand = Stand::start(|_| {});
    stand.fabric.connect_slowly(Duration::from_secs(1));
    let ask = || {
        let mut far = Far::greeted(&stand, 1 << 20);
        let (frame, pair) = far.pair_frame();
        far.raw.send(&frame);
        (far, pair)
    };
    // They are told when they ask for something else, which they never do.
    let _silent: Vec<_> = (0..64).map(|_| ask()).collect();
    let (mut far, _pair) = ask();
    assert_eq!(far.raw.reply().header.code, Code::Unreachable);
    // The one under way, and then all the others.
    stand.fabric.connect_slowly(Duration::ZERO);
    std::thread::sleep(Duration::from_secs(3));
    let (mut far, _pair) = ask();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(hear(&mut far), [Code::Ok; 2]);
}

#[test]
fn one_connection_has_one_pair_connected_at_a_time() {
    let stand = Stand::start(|_| {});
    stand.fabric.connect_slowly(Duration::from_millis(200));
    let mut far = Far::greeted(&stand, 1 << 20);
    let [(first, _own), (second, _other)] = [far.pair_frame(), far.pair_frame()];
    far.raw.send(&[first, second].concat());
    let refused = far.raw.reply().header;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(refused.code, Code::Unreachable);
    assert_eq!(hear(&mut far), [Code::Ok; 2]);
    assert_eq!(far.raw.stat(Stat::Pairs), 1);
}

#[test]
fn cut_link_is_told_and_slots_come_back() {
    use larder_transport::rdma::QueuePair;
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 1 << 20);
    let (key, _) = stored(&mut far.raw, "k", 300_000);
    stand.fabric.cut(&far.pair.as_ref().unwrap().address());
    let frame = far.get_frame(&Get::whole(true), &[(&key, Some(&[(0, 300_000)]))]);
    assert_eq!(far.raw.call(&frame).header.code, Code::Unreachable);
    assert_eq!(far.raw.stat(Stat::SendingBytes), 0);
    assert_eq!(far.connect_pair(), Code::Ok);
    assert!(far.get(&[(&key, Some(&[(0, 300_000)]))])[0].is_ok());
}

#[test]
fn client_that_is_gone_frees_slots_that_were_evicted() {
    let stand = Stand::start(|_| {});
    let mut witness = stand.plain();
    let before = witness.levels();
    let mut far = Far::connect(&stand, 1 << 20);
    let (key, _) = stored(&mut far.raw, "k", 300_000);
    stand.hold();
    let frame = far.get_frame(&Get::whole(true), &[(&key, Some(&[(0, 300_000)]))]);
    far.raw.send(&frame);
    within(SOON, "it is under way", || witness.stat(Stat::SendingBytes) == 300_000);
    assert_eq!(witness.remove(&[&key]), [Status::Removed]);
    assert!(witness.stat(Stat::SlotBytes) > 300_000, "the card may still read it");
    drop(far);
    witness.expect_levels(before);
    assert_eq!(witness.stat(Stat::PairsOpen), 0);
}

#[test]
fn stalled_card_stalls_nobody_else_and_is_cut_off() {
    let stand = Stand::start(|config| config.progress_timeout = Duration::from_millis(1500));
    let mut witness = stand.plain();
    let mut far = Far::connect(&stand, 1 << 20);
    let (key, object) = stored(&mut far.raw, "k", 300_000);
    stand.hold();
    let frame = far.get_frame(&Get::whole(true), &[(&key, Some(&[(0, 300_000)]))]);
    let begun = Instant::now();
    far.raw.send(&frame);
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_millis(500) {
        let asked = Instant::now();
        assert!(witness.get_one(&key).unwrap().bytes == object);
        slowest = slowest.max(asked.elapsed());
        // Nor does it win time by what else it asks.
        far.raw.stat(Stat::Hits);
    }
    assert!(slowest < Duration::from_millis(400), "{slowest:?}");
    assert_eq!(witness.stat(Stat::SendingBytes), 300_000);
    assert!(far.raw.is_ended(), "cut off");
    assert!(begun.elapsed() > Duration::from_millis(1450), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    within(SOON, "slots are let go", || witness.stat(Stat::SendingBytes) == 0);
    assert_eq!(witness.stat(Stat::TimedOut), 1);
    assert_eq!(far.memory.read(0, 1), [CANARY]);
}

#[test]
fn what_is_under_way_is_bounded_as_for_a_reader_of_a_socket() {
    let stand = Stand::start(|config| config.reply_bytes_max = Some(4 << 20));
    let mut witness = stand.plain();
    let mut far = Far::connect(&stand, 8 << 20);
    let keys: Vec<_> =
        (0..8).map(|n| stored(&mut far.raw, &format!("bounded-{n}"), 1 << 20).0).collect();
    let places: Vec<_> = (0..8).map(|n| [(n << 20, 1 << 20)]).collect();
    let wants: Vec<Want<'_>> = (0..8).map(|n| (&*keys[n], Some(&places[n][..]))).collect();
    // One get is given a quarter of what all may hold.
    let statuses: Vec<_> = far.get(&wants).into_iter().map(Result::err).collect();
    assert_eq!(statuses[0], None);
    assert_eq!(statuses[1..], [Some(Status::MissReplyFull); 7]);
    stand.hold();
    let frames: Vec<_> =
        wants.iter().map(|want| far.get_frame(&Get::whole(true), &[*want])).collect();
    far.raw.send(&frames.concat());
    // Who has that much under way is served no further, and is refused nothing.
    within(SOON, "two are begun", || witness.stat(Stat::SendingBytes) == 2 << 20);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(witness.stat(Stat::SendingBytes), 2 << 20);
    stand.go();
    let codes: Vec<_> = (0..8).map(|_| far.raw.reply().header.code).collect();
    assert_eq!(codes, [Code::Ok; 8]);
    // Of small objects there are many, and none is refused either.
    let small = stored(&mut far.raw, "small", 64).0;
    stand.hold();
    let room = [(0, 64)];
    let many: Vec<Want<'_>> = (0..700).map(|_| (&*small, Some(&room[..]))).collect();
    let frames = [0, 1].map(|_| far.get_frame(&Get::whole(true), &many));
    far.raw.send(&frames.concat());
    within(SOON, "both are begun", || witness.stat(Stat::SendingBytes) == 1400 * 64);
    stand.go();
    let replies = [far.raw.reply(), far.raw.reply()];
    let busy = replies.map(|reply| {
        let answers = far.answers(&reply, &many);
        answers.iter().filter(|answer| **answer == Err(Status::Busy)).count()
    });
    assert_eq!(busy, [0; 2]);
}

#[test]
fn node_that_drains_finishes_what_is_under_way() {
    let stand = Stand::start(|_| {});
    let mut far = Far::connect(&stand, 1 << 20);
    let (key, object) = stored(&mut far.raw, "k", 300_000);
    stand.hold();
    let want: [Want<'_>; 1] = [(&key, Some(&[(0, 300_000)]))];
    let frame = far.get_frame(&Get::whole(true), &want);
    far.raw.send(&frame);
    far.raw.stat(Stat::Works);
    stand.node.drain();
    std::thread::sleep(Duration::from_millis(300));
    stand.go();
    let reply = far.raw.reply();
    assert!(far.answers(&reply, &want).remove(0).unwrap().bytes == object);
    assert!(far.raw.is_ended());
}

#[test]
fn clients_are_listed_with_their_paths() {
    use ClientPath::{Rdma, Tcp};
    let stand = Stand::start(|_| {});
    let mut witness = stand.plain();
    let _stranger = Raw::connect(stand.node.address());
    assert_eq!(witness.paths(), [Tcp]);
    let mut far = Far::greeted(&stand, 1 << 20);
    assert_eq!(witness.paths(), [Tcp, Tcp], "it may, but does not yet");
    assert_eq!(far.connect_pair(), Code::Ok);
    assert_eq!(witness.paths(), [Tcp, Rdma]);
    let (key, _) = stored(&mut witness, "k", 5000);
    let frame = far.get_frame_of(&Get::whole(true), &[(&key, Some(vec![NOWHERE]))]);
    assert_eq!(far.raw.call(&frame).header.code, Code::Unreachable);
    assert_eq!(witness.paths(), [Tcp, Tcp], "its pair has failed");
    assert_eq!(far.connect_pair(), Code::Ok);
    assert_eq!(far.raw.hello(0, 0).header.code, Code::Ok);
    assert_eq!(witness.paths(), [Tcp, Rdma], "who says its name again is the same");
    drop(far);
    within(SOON, "it leaves", || witness.paths() == [Tcp]);
}

#[test]
fn what_a_card_did_is_among_the_metrics() {
    let stand = Stand::start(|config| config.admin = Some(([127, 0, 0, 1], 0).into()));
    assert!(stand.node.ready_line().ends_with(" rdma=simulated"), "{}", stand.node.ready_line());
    let mut far = Far::connect(&stand, 1 << 20);
    let (key, _) = stored(&mut far.raw, "k", 5000);
    assert!(far.get(&[(&key, Some(&[(0, 5000)]))])[0].is_ok());
    let admin = *stand.node.state().admin.get().unwrap();
    within(SOON, "they are published", || {
        let mut page = String::new();
        let mut stream = TcpStream::connect(admin).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        stream.read_to_string(&mut page).unwrap();
        page.contains("larder_written_bytes_total{shard=\"0\"} 5000")
            && page.contains("larder_pairs{shard=\"0\"} 1")
            && page.contains("larder_doorbells_total{shard=\"0\"} 1")
    });
}

#[test]
#[cfg(feature = "rdma")]
fn card_that_is_not_there_is_named() {
    let rdma_devices = RdmaDevices::Named(vec!["nowhere_0".to_owned()]);
    let config = Config { memory_bytes: 64 << 20, rdma_devices, ..Config::default() };
    let error = Node::start(config).unwrap_err();
    assert!(matches!(&error, StartError::Card { device, .. } if device == "nowhere_0"));
    assert!(error.to_string().starts_with("cannot use the network card nowhere_0: "), "{error}");
}

#[test]
fn impossible_pieces_end_the_connection_and_odd_ones_harm_nobody() {
    let stand = Stand::start(|_| {});
    let mut witness = stand.plain();
    let (key, object) = stored(&mut witness, "k", 5000);
    let piece = |address, bytes| RemotePiece { address, rkey: 1, bytes };
    for pieces in [
        vec![piece(u64::MAX, 5000)],
        vec![piece(u64::MAX - 4998, 5000)],
        vec![piece(0, 5000), piece(u64::MAX, 2)],
    ] {
        let mut far = Far::connect(&stand, 1 << 20);
        let frame = far.get_frame_of(&Get::whole(true), &[(&key, Some(pieces))]);
        far.raw.send(&frame);
        assert!(far.raw.farewell().contains("remote address"));
    }
    for pieces in [
        vec![piece(0, 5000)],
        vec![piece(u64::MAX - 5000, 5000)],
        vec![piece(u64::MAX - 4999, 5000)],
        vec![piece(0, 1); 512],
    ] {
        let mut far = Far::connect(&stand, 1 << 20);
        let frame = far.get_frame_of(&Get::whole(true), &[(&key, Some(pieces))]);
        let reply = far.raw.call(&frame);
        let is_too_small = reply.header.code == Code::Ok;
        assert!(is_too_small || reply.header.code == Code::Unreachable);
    }
    // Neither did the node's own memory have a key that anybody could name.
    for rkey in 0..20 {
        let mut far = Far::connect(&stand, 1 << 20);
        let mine = far.memory.key();
        let own = vec![RemotePiece { rkey, ..far.pieces(&[(0, 5000)])[0] }];
        let frame = far.get_frame_of(&Get::whole(true), &[(&key, Some(own))]);
        let expected = if rkey == mine { Code::Ok } else { Code::Unreachable };
        assert_eq!(far.raw.call(&frame).header.code, expected);
    }
    assert!(witness.get_one(&key).unwrap().bytes == object);
    assert_eq!(witness.stat(Stat::Panics), 0);
}

const NOWHERE: RemotePiece = RemotePiece { address: 4096, rkey: 999_999, bytes: 5000 };
const SOON: Duration = Duration::from_secs(5);
