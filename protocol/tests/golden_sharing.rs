//! What only peers on one host say, against bytes that were written down apart from our encoder.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic too")]

mod files;

use files::{assert_golden, encoded, golden, key};
use larder_protocol::Opcode;
use larder_protocol::message::{
    CAPABILITY_SHARED, Get, GetItem, HelloReply, LeasedPlace, Payload, Release, SharedRegion,
    Sharing, SocketPath, Unshare,
};

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
