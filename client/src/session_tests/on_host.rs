//! Gets over a connection that shares memory: leases, copies, and a node that lies about either.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_protocol::limits::{HEADER_BYTES, SHARED_REGIONS_MAX};
use larder_protocol::message::{Get, Payload as Form, Sharing};
use larder_protocol::wire::Write;
use larder_protocol::{Code, Header, NamespaceSpec, Opcode, Status};
use larder_transport::{Landing, SharedMemory};

use super::host::Host;
use super::talk::{Talk, answers, object_of};
use crate::call::Outcome;
use crate::error::KeyError;
use crate::namespace::Namespace;
use crate::session::Broken;

#[test]
fn leased_bytes_are_read_in_place_until_they_are_dropped() {
    let (mut host, bytes) = (Host::new(), object_of(40_000));
    host.store(4096, &bytes);
    let (call, asked) = host.lease(&[b"k"]);
    host.say_leased(&asked, b"k", &bytes, 4096);
    host.talk.receive().unwrap();
    let lease = answers(call).remove(0).unwrap();
    assert_eq!(*lease, *bytes);
    assert_eq!((lease.object_bytes(), lease.version()), (40_000, 5));
    assert_eq!(lease.user_meta(), &b"meta"[..]);
    assert!(lease.verify());
    assert!(host.talk.session.has_leases() && !host.talk.session.wants_flush());
    // It is the node's memory: what goes bad there goes bad here, and is noticed by who asks.
    host.memory[4096 + 777] ^= 1;
    assert!(!lease.verify() && *lease != *bytes);
    host.assert_released(&[]);
    std::thread::spawn(move || drop(lease)).join().unwrap();
    assert!(!host.talk.session.has_leases() && host.talk.session.wants_flush());
    host.assert_released(&[4096]);
    assert!(!host.talk.session.wants_flush() && host.talk.session.flights.is_empty());
    host.assert_released(&[]);
}

#[test]
fn releases_go_in_one_frame_ahead_of_the_next_request() {
    let (mut host, bytes) = (Host::new(), object_of(20_000));
    host.store(0, &bytes);
    let (call, asked) = host.lease(&[b"a", b"b", b"c"]);
    let mut body = Vec::new();
    body.u32(3);
    for key in [b"a", b"b", b"c"] {
        let payload = Form::Shared { region: 3, offset: 0 };
        host.talk.encode_hit(key, &bytes, 20_000, payload, &mut body);
    }
    host.talk.say(&asked.reply(Code::Ok), &body, b"");
    host.talk.receive().unwrap();
    let leases = answers(call);
    assert!(leases.iter().all(|lease| **lease.as_ref().unwrap() == *bytes));
    drop(leases);
    let _next = host.talk.get(&[b"d"]);
    let opcodes: Vec<u8> = host.talk.sent().iter().map(|header| header.opcode).collect();
    assert_eq!(opcodes, [Opcode::Release as u8, Opcode::Get as u8]);
}

#[test]
fn many_releases_wake_the_io_thread_once() {
    let (mut host, bytes) = (Host::new(), object_of(20_000));
    host.store(0, &bytes);
    for round in 1..=2 {
        let mut leases = Vec::new();
        for _ in 0..100 {
            let (call, asked) = host.lease(&[b"k"]);
            host.say_leased(&asked, b"k", &bytes, 0);
            host.talk.receive().unwrap();
            leases.extend(answers(call));
        }
        drop(leases);
        assert_eq!(host.rings.load(Ordering::Relaxed), round);
        assert_eq!(host.released().0.len(), 100);
    }
}

#[test]
fn releases_are_written_byte_by_byte_among_requests() {
    let (mut host, bytes) = (Host::new(), object_of(20_000));
    host.store(0, &bytes);
    let (call, asked) = host.lease(&[b"k"]);
    host.say_leased(&asked, b"k", &bytes, 0);
    host.talk.receive().unwrap();
    drop(answers(call));
    let _next = host.talk.get(&[b"d"]);
    let mut written = Vec::new();
    while let Some(&byte) = host.talk.write(1).first() {
        written.push(byte);
    }
    let header = Header::decode(written.first_chunk().unwrap()).unwrap();
    let next = &written[HEADER_BYTES + header.body_bytes as usize..];
    let next = Header::decode(next.first_chunk().unwrap()).unwrap();
    assert_eq!((header.opcode, next.opcode), (Opcode::Release as u8, Opcode::Get as u8));
}

#[test]
fn objects_are_copied_by_who_waits_and_then_released() {
    let (mut host, bytes) = (Host::new(), object_of(300_000));
    host.store(64, &bytes);
    let (owned, asked) = host.get(&[b"k"]);
    host.say_leased(&asked, b"k", &bytes, 64);
    host.talk.receive().unwrap();
    assert!(!host.talk.session.wants_flush());
    assert_eq!(answers(owned)[0].as_ref().unwrap().bytes, bytes);
    host.assert_released(&[64]);
    let mut memory = vec![0; 300_100];
    let landed = larder_transport::lend([memory.chunks_mut(70_000)], |mut landings| {
        let (call, asked) = host.get_into(b"k", (0, 0), landings.remove(0));
        host.say_leased(&asked, b"k", &bytes, 64);
        host.talk.receive().unwrap();
        answers(call).remove(0).unwrap()
    });
    assert_eq!((landed.bytes, landed.version), (300_000, 5));
    assert!(memory[..300_000] == bytes && memory[300_000..] == [0; 100]);
    host.assert_released(&[64]);
}

#[test]
fn a_queue_is_given_objects_that_are_copied() {
    let (mut host, bytes) = (Host::new(), object_of(50_000));
    host.store(64, &bytes);
    let queue = crate::CompletionQueue::new().unwrap();
    for is_late in [false, true] {
        let (call, asked) = host.get(&[b"k"]);
        let mut call = Some(call);
        if !is_late {
            queue.watch(7, call.take().unwrap());
        }
        host.say_leased(&asked, b"k", &bytes, 64);
        host.talk.receive().unwrap();
        call.into_iter().for_each(|call| queue.watch(7, call));
        let Ok(Outcome::Get(keys)) = queue.drain().remove(0).outcome else { panic!() };
        assert_eq!(keys[0].as_ref().unwrap().bytes, bytes);
        host.assert_released(&[64]);
    }
}

#[test]
fn parts_are_leased_and_copied_as_they_are_asked_for() {
    let (mut host, bytes) = (Host::new(), object_of(100_000));
    let spec = NamespaceSpec { part_bytes: 30_000, ..NamespaceSpec::new("t", "m") };
    host.talk.namespace = Namespace::describe(spec).unwrap();
    host.talk.open();
    host.store(64, &bytes);
    let place = Form::Shared { region: 3, offset: 64 + 30_000 };
    let (call, asked) = host.get_into(b"k", (1, 2), Landing::from_vec(vec![0; 60_000]));
    host.say_leased_as(&asked, b"k", &bytes, 60_000, place);
    host.talk.receive().unwrap();
    assert_eq!(answers(call).remove(0).unwrap().bytes, 60_000);
    host.assert_released(&[30_064]);
    // The last part is shorter, and one of another length is not what was asked for.
    for (sent_bytes, is_good) in [(10_000, true), (10_001, false)] {
        let (call, asked) = host.get_into(b"k", (3, 1), Landing::from_vec(vec![0; 60_000]));
        let place = Form::Shared { region: 3, offset: 64 + 90_000 };
        host.say_leased_as(&asked, b"k", &bytes, sent_bytes, place);
        host.talk.receive().unwrap();
        assert_eq!(answers(call).remove(0).is_ok(), is_good);
        host.assert_released(&[90_064]);
    }
}

#[test]
fn wrong_bytes_and_wrong_objects_are_misses_and_are_released() {
    let (mut host, bytes) = (Host::new(), object_of(50_000));
    host.store(0, &bytes);
    host.memory[49_999] ^= 1;
    let (owned, asked) = host.get(&[b"k"]);
    host.say_leased(&asked, b"k", &bytes, 0);
    let (landed, asked) = host.get_into(b"k", (0, 0), Landing::from_vec(vec![0; 50_000]));
    host.say_leased(&asked, b"k", &bytes, 0);
    host.talk.receive().unwrap();
    assert_eq!(answers(owned), [Err(CORRUPT)]);
    assert_eq!(answers(landed), [Err(CORRUPT)]);
    host.assert_released(&[0, 0]);
    // Right bytes, but of another key: nobody gets to see them.
    host.store(0, &bytes);
    let (lease, asked) = host.lease(&[b"k"]);
    host.say_leased(&asked, b"other", &bytes, 0);
    let (owned, asked) = host.get(&[b"k"]);
    host.say_leased(&asked, b"other", &bytes, 0);
    host.talk.receive().unwrap();
    host.assert_released(&[0, 0]);
    assert_eq!(answers(lease), [Err(CORRUPT)]);
    assert_eq!(answers(owned), [Err(CORRUPT)]);
    // Longer than the landing.
    let (landed, asked) = host.get_into(b"k", (0, 0), Landing::from_vec(vec![0; 49_999]));
    host.say_leased(&asked, b"k", &bytes, 0);
    host.talk.receive().unwrap();
    assert_eq!(answers(landed), [Err(KeyError::Status(Status::MissSize))]);
    host.assert_released(&[0]);
}

#[test]
fn short_objects_are_leased_from_memory_of_our_own() {
    let (mut host, bytes) = (Host::new(), object_of(1000));
    let (call, asked) = host.lease(&[b"k"]);
    let body = host.talk.hit(b"k", &bytes);
    host.talk.say(&asked.reply(Code::Ok), &body, &bytes);
    host.talk.receive().unwrap();
    let lease = answers(call).remove(0).unwrap();
    assert!(*lease == *bytes && lease.verify() && !host.talk.session.has_leases());
    let (call, asked) = host.lease(&[b"k"]);
    let mut body = vec![1, 0, 0, 0];
    body.push(Status::Busy as u8);
    host.talk.say(&asked.reply(Code::Ok), &body, b"");
    host.talk.receive().unwrap();
    assert_eq!(answers(call), [Err(KeyError::Status(Status::Busy))]);
}

type Lie = fn(&mut Host, &Header);

#[test]
fn memory_out_of_place_ends_the_connection() {
    let lies: [(&str, Lie); 11] = [
        ("past the end", |host, asked| {
            let offset = host.memory.bytes() - 49_999;
            host.say_leased(asked, b"k", &object_of(50_000), offset);
        }),
        ("past the end of numbers", |host, asked| {
            host.say_leased(asked, b"k", &object_of(50_000), u64::MAX);
        }),
        ("a region that was not told", |host, asked| {
            let place = Form::Shared { region: 2, offset: 0 };
            host.say_leased_as(asked, b"k", &object_of(50_000), 50_000, place);
        }),
        ("a payload that nothing claims", |host, asked| {
            let mut body = vec![1, 0, 0, 0];
            let place = Form::Shared { region: 3, offset: 0 };
            host.talk.encode_hit(b"k", &object_of(50_000), 50_000, place, &mut body);
            host.talk.say(&asked.reply(Code::Ok), &body, &object_of(50_000));
        }),
        ("a region without a descriptor", |host, _| host.announce(4, host.memory.bytes())),
        ("a region twice", |host, _| host.share(3)),
        ("a region with a number too large", |host, _| host.share(SHARED_REGIONS_MAX)),
        ("of another kind: a region shorter than told", |host, _| {
            let descriptor = host.descriptor();
            host.talk.pass(descriptor);
            host.announce(4, host.memory.bytes() + 1);
        }),
        ("of another kind: a file that is no memory", |host, _| {
            host.talk.pass(std::fs::File::open("/dev/null").unwrap().into());
            host.announce(4, host.memory.bytes());
        }),
        ("a descriptor with a reply", |host, asked| {
            let descriptor = host.descriptor();
            host.talk.pass(descriptor);
            host.talk.say(&asked.reply(Code::Ok), &super::talk::misses(1), b"");
        }),
        ("two descriptors", |host, _| {
            let descriptor = host.descriptor();
            host.talk.pass(descriptor);
            host.share(4);
        }),
    ];
    for (name, lie) in lies {
        let mut host = Host::new();
        let (call, asked) = host.get(&[b"k"]);
        lie(&mut host, &asked);
        let received = host.talk.receive();
        let is_seen = match received {
            Err(Broken::NotMapped) => name.starts_with("of another kind"),
            Err(Broken::Desync(_) | Broken::Decode(_)) => true,
            _ => false,
        };
        assert!(is_seen, "{name}: {received:?}");
        host.talk.session.take_all().0.into_iter().for_each(|leg| leg.fail(&CORRUPT));
        assert!(answers(call)[0].is_err(), "{name}");
    }
}

#[test]
fn memory_is_not_shared_where_it_was_not_agreed() {
    let mut talk = Talk::new();
    let descriptor = SharedMemory::new(4096).unwrap().descriptor().try_clone_to_owned().unwrap();
    talk.pass(descriptor);
    talk.say(&Header::request(Opcode::Region, 0, 0).reply(Code::Ok), &[0; 12], b"");
    assert!(matches!(talk.receive(), Err(Broken::Desync(_))));
    // Nor is an object leased to who asked for its bytes.
    let mut host = Host::new();
    let call = host.talk.get(&[b"k"]);
    let asked = host.asked();
    host.say_leased(&asked, b"k", &object_of(50_000), 0);
    assert!(matches!(host.talk.receive(), Err(Broken::Decode(_))));
    host.talk.session.take_all().0.into_iter().for_each(|leg| leg.fail(&CORRUPT));
    assert!(answers(call)[0].is_err());
}

#[test]
fn a_node_that_offers_no_memory_is_never_asked_for_a_lease() {
    fn asked(talk: &mut Talk) -> Sharing {
        let written = talk.write(usize::MAX);
        let header = Header::decode(written.first_chunk().unwrap()).unwrap();
        let end = HEADER_BYTES + header.body_bytes as usize;
        assert!(header.opcode == Opcode::Get as u8 && written.len() == end);
        Get::decode(&written[HEADER_BYTES..]).unwrap().sharing
    }
    let mut on_host = Host::unmet();
    on_host.talk.greet_node_with(0);
    for mut talk in [on_host.talk, Talk::new()] {
        for sharing in [Sharing::LeaseOrInline, Sharing::LeaseOrBusy] {
            let call = talk.call(Outcome::Get(vec![Err(CORRUPT)]));
            let (head, keys) = (Host::head(sharing), Host::keys(&[b"k"]));
            talk.submit(&call, |plan| plan.get(head, &keys, Vec::new()));
            assert_eq!(asked(&mut talk), Sharing::Never);
            // Wherever it goes from there, and back.
            let mut legs = talk.session.take_all().0;
            for shares in [true, false, true] {
                let mut next = if shares { Host::new().talk } else { Talk::new() };
                legs.into_iter().for_each(|leg| next.session.submit(leg, next.now));
                assert_eq!(asked(&mut next), if shares { sharing } else { Sharing::Never });
                legs = next.session.take_all().0;
            }
        }
    }
}

#[test]
fn a_region_may_arrive_byte_by_byte() {
    let mut host = Host::unmet();
    host.talk.greet();
    host.share(0);
    host.share(1);
    host.talk.node.step = 1;
    host.talk.receive().unwrap();
    assert_eq!(host.talk.session.inbound.regions.descriptors_unclaimed(), 0);
}

#[test]
fn what_nobody_wants_any_more_is_released() {
    let bytes = object_of(50_000);
    // Cancelled before the reply, before its body, between its objects, and after it.
    for received in [0, HEADER_BYTES, HEADER_BYTES + 400, usize::MAX] {
        let mut host = Host::new();
        host.store(0, &bytes);
        let (call, asked) = host.get(&[b"a", b"b", b"c", b"d"]);
        let mut body = Vec::new();
        body.u32(4);
        for (at, key) in [b"a", b"b", b"c", b"d"].into_iter().enumerate() {
            let place = Form::Shared { region: 3, offset: at as u64 };
            let (object, payload) =
                if at == 1 { (&bytes[..500], Form::Inline) } else { (&bytes[..], place) };
            host.talk.encode_hit(key, object, object.len() as u32, payload, &mut body);
        }
        host.talk.say(&asked.reply(Code::Ok), &body, &bytes[..500]);
        let late = host.talk.node.bytes.split_off(received.min(host.talk.node.bytes.len()));
        host.talk.receive().unwrap();
        host.talk.now += Duration::from_millis(250);
        let missed = host.talk.session.expire(host.talk.now).unwrap();
        assert_eq!(missed, usize::from(received < usize::MAX));
        drop(call);
        host.talk.node.bytes.extend(late);
        host.talk.receive().unwrap();
        let (mut places, _) = host.released();
        places.sort_unstable_by_key(|place| place.offset);
        let offsets: Vec<u64> = places.iter().map(|place| place.offset).collect();
        assert_eq!(offsets, [0, 2, 3], "cancelled after {received}");
        assert!(!host.talk.session.has_leases());
    }
}

#[test]
fn a_get_that_is_asked_again_elsewhere_keeps_what_it_has() {
    let bytes = object_of(50_000);
    for is_split in [false, true] {
        let (mut host, mut far) = (Host::new(), Talk::new());
        host.store(0, &bytes);
        let landings = vec![Landing::from_vec(vec![0; 50_000]), Landing::from_vec(vec![0; 50_000])];
        let (call, asked) = host.get_all_into(&[b"a", b"b"], (0, 0), landings);
        let mut body = vec![2, 0, 0, 0];
        let place = Form::Shared { region: 3, offset: 0 };
        host.talk.encode_hit(b"a", &bytes, 50_000, place, &mut body);
        host.talk.encode_hit(b"b", &bytes, 50_000, Form::Inline, &mut body);
        host.talk.say(&asked.reply(Code::Ok), &body, &bytes);
        host.talk.node.bytes.truncate(20_000);
        host.talk.receive().unwrap();
        let routes = far.remote.routes();
        for leg in host.talk.session.take_all().0 {
            let legs = if is_split { leg.split_again(&routes) } else { vec![leg] };
            legs.into_iter().for_each(|leg| far.session.submit(leg, far.now));
        }
        drop(host);
        let asked = *far.sent().last().unwrap();
        let keys: &[&[u8]] = if is_split { &[b"b"] } else { &[b"a", b"b"] };
        let mut body = vec![keys.len() as u8, 0, 0, 0];
        keys.iter().for_each(|key| {
            far.encode_hit(key, &bytes, 50_000, Form::Inline, &mut body);
        });
        far.say(&asked.reply(Code::Ok), &body, &bytes.repeat(keys.len()));
        far.receive().unwrap();
        for landed in answers(call) {
            assert_eq!(landed.unwrap().bytes, 50_000);
        }
    }
}

#[test]
fn a_lease_stays_when_the_rest_of_its_reply_is_nonsense() {
    let (mut host, bytes) = (Host::new(), object_of(50_000));
    host.store(0, &bytes);
    let (call, asked) = host.lease(&[b"a", b"b"]);
    let mut body = vec![2, 0, 0, 0];
    for (key, region) in [(b"a", 3), (b"b", 4)] {
        let place = Form::Shared { region, offset: 0 };
        host.talk.encode_hit(key, &bytes, 50_000, place, &mut body);
    }
    host.talk.say(&asked.reply(Code::Ok), &body, b"");
    assert!(matches!(host.talk.receive(), Err(Broken::Decode(_))));
    host.talk.session.take_all().0.into_iter().for_each(|leg| leg.fail(&CORRUPT));
    let keys = answers(call);
    assert!(keys[0].as_ref().unwrap().verify() && keys[1] == Err(CORRUPT));
    host.assert_released(&[]);
    drop(keys);
    host.assert_released(&[0]);
}

#[test]
fn a_landing_is_let_go_as_it_was_when_nobody_waits() {
    let (mut host, bytes) = (Host::new(), object_of(50_000));
    host.store(0, &bytes);
    let mut memory = vec![0xee; 50_000];
    larder_transport::lend([[&mut memory[..]]], |mut landings| {
        let (call, asked) = host.get_into(b"k", (0, 0), landings.remove(0));
        host.say_leased(&asked, b"k", &bytes, 0);
        host.talk.receive().unwrap();
        drop(call);
    });
    assert!(memory.iter().all(|&byte| byte == 0xee));
    host.assert_released(&[0]);
}

#[test]
fn a_lease_keeps_the_socket_open_when_its_connection_was_given_up() {
    let (mut host, bytes) = (Host::new(), object_of(50_000));
    host.store(0, &bytes);
    let (call, asked) = host.lease(&[b"k"]);
    host.say_leased(&asked, b"k", &bytes, 0);
    host.talk.receive().unwrap();
    let lease = answers(call).remove(0).unwrap();
    let Host { talk, socket, rings, .. } = host;
    drop(talk);
    assert_eq!(Arc::strong_count(&socket), 2);
    assert!(lease.verify());
    drop(lease);
    assert_eq!((Arc::strong_count(&socket), rings.load(Ordering::Relaxed)), (1, 0));
}

const CORRUPT: KeyError = KeyError::Status(Status::MissCorrupt);
