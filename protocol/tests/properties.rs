//! What holds for every message, whatever is in it, and for bytes that are no message at all.
//!
//! Bodies are made by the encoders from random fields; the walk in `decoders` writes what it read
//! anew, so "it is accepted" below means that it came back byte for byte.

mod decoders;

use decoders::DECODERS;
use larder_protocol::checksum::crc32c;
use larder_protocol::key::Key;
use larder_protocol::limits::OBJECT_BYTES_MAX;
use larder_protocol::message::{
    Account, AccountOf, Batch, Bump, ClientPath, ClientReport, Freshness, Get, GetItem, Hello,
    HelloReply, Hints, Hit, LeasedPlace, Match, MatchReplyWriter, Open, PairAddress, Payload, Pin,
    Put, PutItem, Release, RemotePiece, Remove, SharedRegion, Sharing, Unshare, encode_stats,
    encode_statuses,
};
use larder_protocol::stats::Stat;
use larder_protocol::view::{Member, MemberState, View};
use larder_protocol::wire::{DecodeError, Reader, Write};
use larder_protocol::{Code, Generation, Header, NamespaceSpec, Opcode, Status};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A body and the index of its decoder.
type Body = (usize, Vec<u8>);

fn written(name: &str, write: impl FnOnce(&mut Vec<u8>)) -> Body {
    let which = DECODERS.iter().position(|d| d.0 == name).expect("a decoder has this name");
    let mut out = Vec::new();
    write(&mut out);
    (which, out)
}

fn decode((which, body): &Body) -> Result<(), DecodeError> {
    DECODERS[*which].1(body)
}

fn keys() -> impl Strategy<Value = Key> {
    vec(any::<u8>(), 1..=64).prop_map(|bytes| Key::new(&bytes).expect("1 to 64 bytes"))
}

/// The payload as bytes of its encoding.
fn payloads() -> impl Strategy<Value = Vec<u8>> {
    let piece = (any::<u64>(), any::<u32>(), any::<u32>());
    let piece = piece.prop_map(|(address, rkey, bytes)| {
        let address = address.min(u64::MAX - u64::from(bytes.saturating_sub(1)));
        RemotePiece { address, rkey, bytes }
    });
    let encoded = |payload: Payload<'_>| {
        let mut out = Vec::new();
        payload.encode(&mut out);
        out
    };
    prop_oneof![
        Just(encoded(Payload::Inline)),
        any::<(u32, u64)>()
            .prop_map(move |(region, offset)| { encoded(Payload::Shared { region, offset }) }),
        vec(piece, 0..4).prop_map(|pieces| {
            let mut out = Vec::new();
            Payload::encode_remote(&pieces, &mut out);
            out
        }),
    ]
}

fn payload_of(encoded: &[u8]) -> Payload<'_> {
    let mut reader = Reader::new(encoded);
    let only: Batch<'_, Payload<'_>> = Batch::read(&mut reader, 1).expect("as it was encoded");
    only.iter().next().expect("there is one")
}

/// Length, version, metadata, part checksums and seal of an object.
fn objects() -> impl Strategy<Value = (u32, u64, Vec<u8>, Vec<u8>, u32)> {
    let parts = prop_oneof![9 => 1usize..4, 1 => Just(256usize)]
        .prop_flat_map(|count| vec(any::<u8>(), 8 * count));
    (0..=OBJECT_BYTES_MAX, any::<u64>(), vec(any::<u8>(), 0..=64), parts, any::<u32>())
}

fn hellos() -> impl Strategy<Value = Body> {
    let fields =
        (any::<(u8, u8, u16, u16, u64)>(), vec(any::<u8>(), 0..=64), vec(any::<u8>(), 0..=99));
    fields.prop_map(
        |((version_min, version_max, shard, shard_count, capabilities), name, token)| {
            let (name, credential) = (&name[..], &token[..]);
            let hello = Hello {
                version_min,
                version_max,
                shard,
                shard_count,
                capabilities,
                name,
                credential,
            };
            written("hello", |out| hello.encode(out))
        },
    )
}

fn hello_replies() -> impl Strategy<Value = Body> {
    any::<(u8, u64, u64, u64, u16, u16, u32)>().prop_map(|f| {
        let (version, capabilities, node_id, incarnation, shard, shard_count, object_bytes_max) = f;
        let reply = HelloReply {
            version,
            capabilities,
            node_id,
            incarnation,
            shard,
            shard_count,
            object_bytes_max,
            uds: larder_protocol::message::SocketPath::NONE,
        };
        written("hello reply", |out| reply.encode(out))
    })
}

fn opens() -> impl Strategy<Value = Body> {
    let fields = vec(".{0,40}", 7);
    (any::<u64>(), fields, 0..=OBJECT_BYTES_MAX).prop_map(|(known, fields, part_bytes)| {
        let [tenant, model, revision, dtype, layout, rank, extra] =
            <[String; 7]>::try_from(fields).expect("seven");
        let spec =
            NamespaceSpec { tenant, model, revision, dtype, layout, rank, extra, part_bytes };
        let spec = spec.encode().expect("40 characters fit");
        written("open", |out| Open { known: Generation(known), spec: &spec }.encode(out))
    })
}

fn matches() -> impl Strategy<Value = Body> {
    (any::<(bool, bool)>(), vec(keys(), 0..20), of(hints())).prop_map(
        |((touch, with_meta), keys, hints)| {
            written("match", |out| {
                Match::encode(touch, with_meta, keys.iter(), out);
                Match::set_hints(hints.as_ref(), 0, out);
            })
        },
    )
}

fn hints() -> impl Strategy<Value = Hints> {
    (any::<(u8, bool, u32, u32)>(), 0u32..=2_097_152).prop_map(
        |((class, is_last_partial, cost_us, object_bytes), chain_objects)| Hints {
            class,
            is_last_partial,
            chain_objects,
            cost_us,
            object_bytes,
        },
    )
}

fn match_replies() -> impl Strategy<Value = Body> {
    let answer = prop_oneof![
        (0..=OBJECT_BYTES_MAX, vec(any::<u8>(), 0..=64)).prop_map(Ok),
        any::<bool>().prop_map(Err),
    ];
    (any::<bool>(), vec(answer, 0..40)).prop_map(|(with_meta, answers)| {
        written("match reply", |out| {
            let mut writer = MatchReplyWriter::begin(answers.len(), with_meta, out);
            for answer in answers {
                match answer {
                    Ok((object_bytes, meta)) => writer.hit(object_bytes, &meta, out),
                    Err(wanted) => writer.miss(wanted, out),
                }
            }
            writer.finish(out);
        })
    })
}

fn gets() -> impl Strategy<Value = Body> {
    let freshness = prop_oneof![
        Just(Freshness::Any),
        any::<u64>().prop_map(Freshness::Exact),
        any::<u64>().prop_map(Freshness::AtLeast),
        any::<u64>().prop_map(Freshness::MaxAgeMs),
    ];
    let range = prop_oneof![Just((0, 0)), (0u16..100, 1u16..=156)];
    let items = vec((keys(), payloads()), 0..6);
    let sharing = select(&[Sharing::Never, Sharing::LeaseOrInline, Sharing::LeaseOrBusy]);
    ((any::<bool>(), sharing), freshness, range, any::<u32>(), items).prop_map(
        |((touch, sharing), freshness, (part_first, part_count), payload_bytes_max, items)| {
            let head = Get {
                sharing,
                freshness,
                part_first,
                part_count,
                payload_bytes_max,
                ..Get::whole(touch)
            };
            written("get", |out| {
                head.encode_head(items.len(), out);
                for (key, landing) in &items {
                    GetItem { key: *key, landing: payload_of(landing) }.encode(out);
                }
            })
        },
    )
}

fn get_replies() -> impl Strategy<Value = Body> {
    let miss = select(Status::ALL).prop_filter("a hit has fields", |&s| s != Status::Hit);
    let answer =
        prop_oneof![miss.prop_map(Err), (objects(), payloads(), any::<Index>()).prop_map(Ok),];
    vec(answer, 0..6).prop_map(|answers| {
        written("get reply", |out| {
            out.u32(answers.len() as u32);
            for answer in &answers {
                match answer {
                    Err(status) => out.u8(*status as u8),
                    Ok(((object_bytes, version, user_meta, parts, seal), payload, sent)) => Hit {
                        object_bytes: *object_bytes,
                        sent_bytes: sent.index(*object_bytes as usize + 1) as u32,
                        version: *version,
                        payload: payload_of(payload),
                        user_meta,
                        parts,
                        seal: *seal,
                    }
                    .encode(out),
                }
            }
        })
    })
}

fn puts() -> impl Strategy<Value = Body> {
    let hints = any::<(u16, u8, u32, u32)>();
    let tags = (0usize..=4).prop_flat_map(|count| vec(any::<u8>(), 8 * count));
    let items = vec((keys(), objects(), payloads(), hints, tags), 0..6);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), of(self::hints()));
    (flags, items).prop_map(|((if_absent, follow, if_wanted, said), items)| {
        let is_shared = |payload| matches!(payload_of(payload), Payload::Shared { .. });
        let follow = follow && items.iter().all(|(_, _, payload, ..)| is_shared(payload));
        written("put", |out| {
            Put::encode_head(if_absent, follow, items.len(), out);
            for (key, object, payload, hints, tags) in &items {
                let (object_bytes, version, user_meta, parts, seal) = object;
                let (depth, class_hint, cost_hint, ttl_ms) = *hints;
                let (object_bytes, version, seal) = (*object_bytes, *version, *seal);
                let payload = payload_of(payload);
                PutItem {
                    key: *key,
                    object_bytes,
                    payload,
                    depth,
                    class_hint,
                    cost_hint,
                    ttl_ms,
                    version,
                    tags,
                    user_meta,
                    parts,
                    seal,
                }
                .encode(out);
            }
            Put::set_wants(if_wanted, said.as_ref(), 0, out);
        })
    })
}

fn views() -> impl Strategy<Value = Body> {
    let member = (
        any::<(u64, u64)>(),
        1u32..,
        select(MemberState::ALL),
        1u16..=256,
        any::<u16>(),
        "[a-z.]{0,255}",
    );
    let member =
        member.prop_map(|((incarnation, capabilities), weight, state, shard_count, port, host)| {
            let port = port.min(u16::MAX - shard_count);
            Member { id: 0, incarnation, weight, state, shard_count, port, host, capabilities }
        });
    (any::<u64>(), proptest::collection::btree_map(any::<u64>(), member, 0..8)).prop_map(
        |(epoch, members)| {
            let members = members.into_iter().map(|(id, member)| Member { id, ..member }).collect();
            let view = View::new(epoch, members).expect("within its limits");
            written("view", |out| view.encode(out))
        },
    )
}

fn other_bodies() -> impl Strategy<Value = Body> {
    prop_oneof![
        any::<u64>().prop_map(|to| written("bump", |out| Bump { to: Generation(to) }.encode(out))),
        any::<u64>().prop_map(|tag| written("remove", |out| Remove::encode_tag(tag, out))),
        vec(keys(), 0..20)
            .prop_map(|keys| written("remove", |out| Remove::encode_keys(keys.iter(), out))),
        vec(select(Status::ALL), 0..40)
            .prop_map(|all| written("statuses", |out| encode_statuses(all.into_iter(), out))),
        (0..16u32, 0..=1u64 << 40).prop_map(|(region, bytes)| {
            written("shared region", |out| SharedRegion { region, bytes }.encode(out))
        }),
        any::<u32>().prop_map(|region| written("unshare", |out| Unshare { region }.encode(out))),
        vec(any::<(u32, u64)>(), 0..20).prop_map(|places| {
            let places = places.into_iter().map(|(region, offset)| LeasedPlace { region, offset });
            written("release", |out| Release::encode(&places.collect::<Vec<_>>(), out))
        }),
        (any::<([u8; 16], u16, u8)>(), 0..1u32 << 24, 0..1u32 << 24, 8..=12u32).prop_map(
            |((gid, lid, reads_max), number, first_packet, packet)| {
                let packet_bytes_max = 1 << packet;
                let pair =
                    PairAddress { gid, lid, number, first_packet, packet_bytes_max, reads_max };
                written("pair", |out| pair.encode(out))
            }
        ),
        vec((vec(any::<u8>(), 0..=64), select(ClientPath::ALL), any::<u64>()), 0..20).prop_map(
            |clients| {
                let clients = clients.iter().map(|(name, path, connected_ms)| ClientReport {
                    name,
                    path: *path,
                    connected_ms: *connected_ms,
                });
                written("clients reply", |out| ClientReport::encode_all(clients, out))
            }
        ),
        (any::<u32>(), vec(keys(), 0..20)).prop_map(|(keep_ms, keys)| {
            written("pin", |out| Pin::encode(keep_ms, keys.iter(), out))
        }),
        vec((of(any::<u8>()), vec(any::<u8>(), 0..=64), any::<u64>()), 0..20).prop_map(
            |accounts| {
                let told = accounts.iter().map(|(class, spec, value)| {
                    let namespace = AccountOf::Namespace(spec);
                    let values = Stat::ALL.iter().map(move |&stat| (stat, value % 7 * stat as u64));
                    (class.map_or(namespace, AccountOf::Class), values)
                });
                written("accounts reply", |out| Account::encode_all(told, out))
            }
        ),
        any::<u64>()
            .prop_map(|v| written("stats reply", |out| encode_stats(|s| v ^ s as u64, out))),
    ]
}

fn bodies() -> impl Strategy<Value = Body> {
    prop_oneof![
        hellos(),
        hello_replies(),
        opens(),
        matches(),
        match_replies(),
        gets(),
        get_replies(),
        puts(),
        views(),
        other_bodies(),
    ]
}

/// Fields within their limits, in any combination.
fn headers() -> impl Strategy<Value = Header> {
    let numbers = any::<(u8, bool, u64, u64, u64, u64, u8)>();
    let limited = (0..=4u32 << 20, 0..=3_600_000_000u32, 0..=128u64 << 20, select(Code::ALL));
    (numbers, limited).prop_map(|(numbers, (body_bytes, deadline_us, payload_bytes, code))| {
        let (opcode, is_reply, request_id, namespace, view_epoch, generation, load) = numbers;
        Header {
            opcode,
            is_reply,
            namespace,
            body_bytes,
            payload_bytes,
            view_epoch,
            generation: Generation(generation),
            code,
            load,
            ..Header::request(Opcode::Get, request_id, deadline_us)
        }
    })
}

/// Where the count of a batch is in its body.
fn count_at(which: usize) -> Option<usize> {
    match DECODERS[which].0 {
        "match reply" | "get reply" | "statuses" | "stats reply" | "release" => Some(0),
        "match" | "put" | "remove" => Some(1),
        "view" => Some(8),
        "get" => Some(18),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_comes_back(body in bodies()) {
        prop_assert_eq!(decode(&body), Ok(()));
    }

    #[test]
    fn no_strict_prefix_is_a_message((which, bytes) in bodies()) {
        for cut in 0..bytes.len() {
            let result = DECODERS[which].1(&bytes[..cut]);
            prop_assert!(result.is_err(), "{} cut at {cut}", DECODERS[which].0);
        }
    }

    #[test]
    fn nothing_may_follow_the_last_field(
        (which, mut bytes) in bodies(),
        more in vec(any::<u8>(), 1..9),
    ) {
        bytes.extend(more);
        let may_grow = ["hello", "hello reply"].contains(&DECODERS[which].0);
        // What follows a hello reply may be read as a path, and be none.
        let may_fail = DECODERS[which].0 == "hello reply";
        let is_ok = decode(&(which, bytes)).is_ok();
        prop_assert!(is_ok == may_grow || may_fail);
    }

    #[test]
    fn damaged_messages_never_panic(
        (which, mut bytes) in bodies(),
        flips in vec(any::<(Index, u8)>(), 1..8),
        cut in any::<Option<Index>>(),
        other in 0..DECODERS.len(),
    ) {
        for (at, bits) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        // The walk asserts the limits of whatever is accepted.
        let _ = decode(&(which, bytes.clone()));
        let _ = decode(&(other, bytes));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
        for (_, decoder) in DECODERS {
            let _ = decoder(&bytes);
        }
    }

    #[test]
    fn lying_counts_are_refused(
        (which, mut bytes) in bodies(),
        lie in any::<u32>(),
        near in 1u32..9,
    ) {
        let Some(at) = count_at(which) else { return Ok(()) };
        if DECODERS[which].0 == "remove" && bytes[0] == 1 {
            return Ok(()); // By tag: no count.
        }
        let truth = u32::from_le_bytes(*bytes[at..].first_chunk().expect("a count is there"));
        for claim in [lie, u32::MAX, truth.wrapping_add(near), truth.wrapping_sub(near)] {
            // A reply to `Match` may name fewer or more misses in the same bytes of bitmap: only
            // the client knows how many keys it asked for.
            let same_bitmap = claim.div_ceil(8) == truth.div_ceil(8);
            if claim == truth || (DECODERS[which].0 == "match reply" && same_bitmap) {
                continue;
            }
            bytes[at..at + 4].copy_from_slice(&claim.to_le_bytes());
            let result = DECODERS[which].1(&bytes);
            prop_assert!(result.is_err(), "{} of {truth} claims {claim}", DECODERS[which].0);
        }
    }

    #[test]
    fn every_header_comes_back_and_damage_is_noticed(
        header in headers(),
        flips in vec((0..64usize, 1u8..), 1..4),
    ) {
        let good = header.encode();
        prop_assert_eq!(Header::decode(&good), Ok(header));
        let mut bad = good;
        for (at, bits) in flips {
            bad[at] ^= bits;
        }
        if bad != good {
            prop_assert!(Header::decode(&bad).is_err());
        }
    }

    #[test]
    fn headers_with_a_right_checksum_keep_their_limits(
        header in headers(),
        at in 5..60usize,
        bits in any::<[u8; 4]>(),
    ) {
        let mut bytes = header.encode();
        bytes[at..].iter_mut().zip(bits).for_each(|(byte, bits)| *byte ^= bits);
        let checksum = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
            prop_assert!(header.body_bytes <= 4 << 20 && header.payload_bytes <= 128 << 20);
        }
    }
}
