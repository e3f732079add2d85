//! What peers say that reach each other's memory, against bytes that were written down apart from
//! our encoder.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic too")]

mod files;

use files::{assert_golden, encoded, golden, key};
use larder_protocol::message::{
    Account, AccountOf, CAPABILITY_REMOTE, CAPABILITY_SHARED, ClientPath, ClientReport, Get,
    GetItem, HelloReply, LeasedPlace, PairAddress, Payload, Pin, Put, PutItem, Release,
    SharedRegion, Sharing, SocketPath, Unshare,
};
use larder_protocol::stats::Stat;
use larder_protocol::{DecodeError, Opcode, Status};

#[test]
fn numbers_of_opcodes_are_golden() {
    let opcodes = [Opcode::Region, Opcode::Share, Opcode::Unshare, Opcode::Release];
    assert_eq!(opcodes.map(|o| o as u8), [10, 11, 12, 13]);
}

#[test]
fn what_peers_on_one_host_say_is_golden() {
    let golden = golden!("hello_reply_uds");
    let reply = HelloReply {
        version: 1,
        capabilities: CAPABILITY_SHARED,
        node_id: 0x1111_1111_1111_1111,
        incarnation: 0x2222_2222_2222_2222,
        shard: 0,
        shard_count: 2,
        object_bytes_max: 64 << 20,
        uds: SocketPath::new(b"/run/larder.sock").unwrap(),
    };
    assert_golden(&encoded(|out| reply.encode(out)), &golden);
    assert_eq!(HelloReply::decode(&golden), Ok(reply));

    let golden = golden!("shared_region");
    let region = SharedRegion { region: 3, bytes: 4 << 30 };
    assert_golden(&encoded(|out| region.encode(out)), &golden);
    assert_eq!(SharedRegion::decode(&golden), Ok(region));

    let golden = golden!("unshare");
    assert_golden(&encoded(|out| Unshare { region: 3 }.encode(out)), &golden);
    assert_eq!(Unshare::decode(&golden), Ok(Unshare { region: 3 }));

    let golden = golden!("release");
    let leases =
        [LeasedPlace { region: 0, offset: 0x12_3456_78c0 }, LeasedPlace { region: 1, offset: 64 }];
    assert_golden(&encoded(|out| Release::encode(&leases, out)), &golden);
    assert_eq!(Release::decode(&golden).unwrap().leases.iter().collect::<Vec<_>>(), leases);

    let golden = golden!("get_lease");
    let get = Get { sharing: Sharing::LeaseOrBusy, payload_bytes_max: 1 << 20, ..Get::whole(true) };
    let written = encoded(|out| {
        get.encode_head(1, out);
        GetItem { key: key(b"k"), landing: Payload::Inline }.encode(out);
    });
    assert_golden(&written, &golden);
    let read = Get::decode(&golden).unwrap();
    assert_eq!((read.touch, read.sharing), (true, Sharing::LeaseOrBusy));
}

/// An object of 12 bytes with room for the checksum of one part.
fn unsealed<'a>(name: &'static [u8], payload: Payload<'a>) -> PutItem<'a> {
    PutItem {
        key: key(name),
        object_bytes: 12,
        payload,
        depth: 0,
        class_hint: 0,
        cost_hint: 0,
        ttl_ms: 0,
        version: 0,
        tags: b"",
        user_meta: b"",
        parts: &[0; 8],
        seal: 0,
    }
}

#[test]
fn put_whose_checksums_follow_is_golden() {
    let golden = golden!("put_unsealed");
    let shared = Payload::Shared { region: 0, offset: 64 };
    let plain = PutItem { object_bytes: 1, ..unsealed(b"k2", shared) };
    let first = PutItem {
        object_bytes: 10,
        depth: 0x0102,
        version: 9,
        parts: &[0; 24],
        ..unsealed(b"k1", Payload::Shared { region: 6, offset: 0x12_3456_789a })
    };
    let written = encoded(|out| {
        Put::encode_head(false, true, 2, out);
        [first, plain].iter().for_each(|item| item.encode(out));
    });
    assert_golden(&written, &golden);
    for payload_bytes in [0, 10, 39, 41, 40 + 11] {
        let error = DecodeError::PayloadLength { objects: 40, payload: payload_bytes };
        assert_eq!(Put::decode(&golden, payload_bytes).err(), Some(error));
    }
    let put = Put::decode(&golden, 40).unwrap();
    assert!(put.sums_follow && !put.if_absent);
    // As payload: the checksum of each part of each object, and behind them its seal.
    let payload: Vec<u8> = (0..40).collect();
    let (one, two) = payload.split_at(28);
    let sealed = [(one, 0x1b1a_1918), (two, 0x2726_2524)];
    for (item, (sums, seal)) in put.items.iter().zip(sealed) {
        assert_eq!(item.sums_bytes(), sums.len());
        let item = item.with_sums(sums);
        assert_eq!((item.parts, item.seal), (&sums[..sums.len() - 4], seal));
    }
}

#[test]
fn clients_are_golden() {
    let golden = golden!("clients_reply");
    let clients = [
        ClientReport { name: b"vllm", path: ClientPath::Rdma, connected_ms: 123_456 },
        ClientReport { name: b"", path: ClientPath::Tcp, connected_ms: 0 },
    ];
    assert_golden(&encoded(|out| ClientReport::encode_all(clients.into_iter(), out)), &golden);
    let read = ClientReport::decode_all(&golden).unwrap();
    assert_eq!(read.iter().collect::<Vec<_>>(), clients);
    assert_eq!(Opcode::Clients as u8, 15);
    let mut unknown = golden;
    unknown[9] = 3;
    let error = DecodeError::Value { what: "client path", found: 3 };
    assert_eq!(ClientReport::decode_all(&unknown).unwrap_err(), error);
}

#[test]
fn accounts_are_golden() {
    let golden = golden!("accounts_reply");
    let accounts = [
        (AccountOf::Namespace(b"what it is"), vec![(Stat::Hits, 7), (Stat::SlotBytes, 1 << 33)]),
        (AccountOf::Class(200), vec![(Stat::Evicted, 258)]),
    ];
    let mut told = accounts.clone();
    // A value of 0 is left out.
    told[1].1.push((Stat::NotWanted, 0));
    assert_golden(&encoded(|out| Account::encode_all(told.into_iter(), out)), &golden);
    let read = Account::decode_all(&golden).unwrap();
    assert_eq!(read, accounts.map(|(of, values)| Account { of, values }));
    assert_eq!(Opcode::Accounts as u8, 16);
    for cut in 0..golden.len() {
        assert!(Account::decode_all(&golden[..cut]).is_err(), "cut at {cut}");
    }
    let mut unknown = golden;
    unknown[4] = 2;
    let error = DecodeError::Value { what: "account", found: 2 };
    assert_eq!(Account::decode_all(&unknown).unwrap_err(), error);
}

#[test]
fn pin_is_golden() {
    let golden = golden!("pin");
    let keys = [key(b"k1"), key(b"k2")];
    assert_golden(&encoded(|out| Pin::encode(60_000, keys.iter(), out)), &golden);
    let pin = Pin::decode(&golden).unwrap();
    assert_eq!((pin.keep_ms, pin.keys.iter().collect::<Vec<_>>()), (60_000, keys.to_vec()));
    assert_eq!((Opcode::Pin as u8, Status::Pinned as u8), (17, 3));
    for cut in 0..golden.len() {
        assert!(Pin::decode(&golden[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn only_shared_objects_may_have_checksums_that_follow() {
    let with = |payload: Payload<'_>| {
        encoded(|out| {
            Put::encode_head(true, true, 1, out);
            unsealed(b"k", payload).encode(out);
        })
    };
    let shared = with(Payload::Shared { region: 0, offset: 0 });
    assert!(Put::decode(&shared, 12).is_ok_and(|put| put.if_absent && put.sums_follow));
    let error = Put::decode(&with(Payload::Inline), 12).unwrap_err();
    assert_eq!(error, DecodeError::Value { what: "form of an unsealed object", found: 0 });
}

const PAIR: PairAddress = PairAddress {
    gid: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 0, 1],
    lid: 0,
    number: 17,
    first_packet: 0x12_3456,
    packet_bytes_max: 4096,
    reads_max: 16,
};

#[test]
fn pair_is_golden() {
    let golden = golden!("pair");
    assert_golden(&encoded(|out| PAIR.encode(out)), &golden);
    assert_eq!(PairAddress::decode(&golden), Ok(PAIR));
    assert_eq!((Opcode::Pair as u8, CAPABILITY_REMOTE), (14, 2));
}

#[test]
fn numbers_that_no_card_has_are_refused() {
    let wrong = |pair: PairAddress| PairAddress::decode(&encoded(|out| pair.encode(out)));
    for packet_bytes_max in [0, 128, 1000, 4097, 8192] {
        let found = u64::from(packet_bytes_max);
        let refused = Err(DecodeError::Value { what: "packet bytes", found });
        assert_eq!(wrong(PairAddress { packet_bytes_max, ..PAIR }), refused);
    }
    let too_long = |what| {
        let (found, limit) = (1 << 24, (1 << 24) - 1);
        Err(DecodeError::TooLong { what, found, limit })
    };
    assert_eq!(wrong(PairAddress { number: 1 << 24, ..PAIR }), too_long("queue pair"));
    assert_eq!(wrong(PairAddress { first_packet: 1 << 24, ..PAIR }), too_long("first packet"));
    let mut long = encoded(|out| PAIR.encode(out));
    assert!(PairAddress::decode(&long[..28]).is_err());
    long.push(0);
    assert!(PairAddress::decode(&long).is_err());
}
