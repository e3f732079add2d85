//! Every decoder in one table: reads a body, walks all of it, writes it anew and compares.
//!
//! Properties and fuzz targets share it. What a decoder accepts must be what an encoder writes,
//! byte for byte, else two peers may understand one message differently; the four messages that
//! may differ say why.

use larder_protocol::key::Key;
use larder_protocol::limits::{
    BATCH_OBJECTS_MAX, CLIENT_NAME_BYTES_MAX, CREDENTIAL_BYTES_MAX, KEY_BYTES_MAX, MATCH_KEYS_MAX,
    MEMBERS_MAX, NAMESPACE_BYTES_MAX, OBJECT_BYTES_MAX, PARTS_MAX, REGION_SHARED_BYTES_MAX,
    RELEASES_MAX, SHARED_REGIONS_MAX, TAGS_MAX, USER_META_BYTES_MAX,
};
use larder_protocol::message::{
    ACCOUNTS_MAX, Account, Bump, CLIENTS_MAX, ClientReport, Get, GetAnswer, Hello, HelloReply,
    Match, MatchReply, MatchReplyWriter, Open, PairAddress, Payload, Pin, Put, REMOTE_PIECES_MAX,
    Release, Remove, SharedRegion, Unshare, decode_stats, decode_statuses, encode_statuses,
};
use larder_protocol::stats::Stat;
use larder_protocol::view::View;
use larder_protocol::wire::{DecodeError, Write};
use larder_protocol::{Header, NamespaceSpec};

/// Reads a body and walks what was read.
pub(crate) type Decoder = fn(&[u8]) -> Result<(), DecodeError>;

/// All of them. Fuzzers pick by index, so new ones go to the end.
pub(crate) const DECODERS: &[(&str, Decoder)] = &[
    ("hello", hello),
    ("hello reply", hello_reply),
    ("open", open),
    ("bump", bump),
    ("match", match_keys),
    ("match reply", match_reply),
    ("get", get),
    ("get reply", get_reply),
    ("put", put),
    ("remove", remove),
    ("statuses", statuses),
    ("view", view),
    ("stats reply", stats_reply),
    ("header", header),
    ("shared region", shared_region),
    ("unshare", unshare),
    ("release", release),
    ("pair", pair),
    ("clients reply", clients_reply),
    ("accounts reply", accounts_reply),
    ("pin", pin),
];

/// A header that is accepted is written back as it was.
fn header(bytes: &[u8]) -> Result<(), DecodeError> {
    let first = bytes.first_chunk().ok_or(DecodeError::Short("header"))?;
    let header = Header::decode(first)?;
    assert_eq!(header.encode(), *first);
    Ok(())
}

/// A newer client may append fields, so only the start is compared.
fn hello(body: &[u8]) -> Result<(), DecodeError> {
    let hello = Hello::decode(body)?;
    assert!(hello.name.len() <= CLIENT_NAME_BYTES_MAX);
    assert!(hello.credential.len() <= CREDENTIAL_BYTES_MAX);
    let known = 14 + 1 + hello.name.len() + 2 + hello.credential.len();
    same(&body[..known], |out| hello.encode(out))
}

/// A newer node may append fields, so only the start is compared.
fn hello_reply(body: &[u8]) -> Result<(), DecodeError> {
    let reply = HelloReply::decode(body)?;
    let path = reply.uds.as_bytes().len();
    let known = 33 + if path > 0 { 1 + path } else { 0 };
    same(&body[..known], |out| reply.encode(out))
}

fn open(body: &[u8]) -> Result<(), DecodeError> {
    let open = Open::decode(body)?;
    let spec = NamespaceSpec::decode(open.spec)?;
    assert!(open.spec.len() <= NAMESPACE_BYTES_MAX);
    assert!(spec.object_bytes_max() <= OBJECT_BYTES_MAX);
    let encoded = spec.encode()?;
    same(body, |out| Open { spec: &encoded, ..open }.encode(out))
}

fn bump(body: &[u8]) -> Result<(), DecodeError> {
    let bump = Bump::decode(body)?;
    same(body, |out| bump.encode(out))
}

fn match_keys(body: &[u8]) -> Result<(), DecodeError> {
    let request = Match::decode(body)?;
    assert!(request.keys.len() <= MATCH_KEYS_MAX);
    let keys: Vec<Key> = request.keys.iter().collect();
    keys.iter().for_each(check_key);
    same(body, |out| {
        Match::encode(request.touch, request.with_meta, keys.iter(), out);
        Match::set_hints(request.hints.as_ref(), 0, out);
    })
}

fn match_reply(body: &[u8]) -> Result<(), DecodeError> {
    let reply = MatchReply::decode(body)?;
    assert!(reply.count <= MATCH_KEYS_MAX && reply.leading as usize <= reply.count);
    let mut hits = reply.hits();
    same(body, |out| {
        let mut writer = MatchReplyWriter::begin(reply.count, body[8] == 1, out);
        for index in 0..reply.count {
            if !reply.is_hit(index) {
                writer.miss(reply.is_wanted(index), out);
                continue;
            }
            let (at, object_bytes, meta) = hits.next().expect("as many as bits");
            assert!(at == index && object_bytes <= OBJECT_BYTES_MAX);
            assert!(meta.len() <= USER_META_BYTES_MAX);
            writer.hit(object_bytes, meta, out);
        }
        writer.finish(out);
    })
}

fn get(body: &[u8]) -> Result<(), DecodeError> {
    let get = Get::decode(body)?;
    assert!(get.items.len() <= BATCH_OBJECTS_MAX);
    assert!(usize::from(get.part_first) + usize::from(get.part_count) <= PARTS_MAX);
    same(body, |out| {
        get.encode_head(get.items.len(), out);
        for item in get.items.iter() {
            check_key(&item.key);
            check_payload(&item.landing);
            item.encode(out);
        }
    })
}

fn get_reply(body: &[u8]) -> Result<(), DecodeError> {
    let answers = match GetAnswer::decode_all(body, 0) {
        Err(DecodeError::PayloadLength { objects, .. }) => GetAnswer::decode_all(body, objects),
        result => result,
    }?;
    assert!(answers.len() <= BATCH_OBJECTS_MAX);
    same(body, |out| {
        out.u32(answers.len() as u32);
        for answer in answers.iter() {
            match answer {
                GetAnswer::Miss(status) => out.u8(status as u8),
                GetAnswer::Hit(hit) => {
                    assert!(hit.sent_bytes <= hit.object_bytes);
                    check_object(hit.object_bytes, hit.user_meta, hit.parts);
                    check_payload(&hit.payload);
                    hit.encode(out);
                }
            }
        }
    })
}

fn put(body: &[u8]) -> Result<(), DecodeError> {
    let put = match Put::decode(body, 0) {
        Err(DecodeError::PayloadLength { objects, .. }) => Put::decode(body, objects),
        result => result,
    }?;
    assert!(put.items.len() <= BATCH_OBJECTS_MAX);
    same(body, |out| {
        Put::encode_head(put.if_absent, put.sums_follow, put.items.len(), out);
        for item in put.items.iter() {
            check_key(&item.key);
            check_object(item.object_bytes, item.user_meta, item.parts);
            check_payload(&item.payload);
            assert!(item.tags.len() <= 8 * TAGS_MAX && item.tags.len().is_multiple_of(8));
            item.encode(out);
        }
        Put::set_wants(put.if_wanted, put.hints.as_ref(), 0, out);
    })
}

fn remove(body: &[u8]) -> Result<(), DecodeError> {
    match Remove::decode(body)? {
        Remove::Tag(tag) => same(body, |out| Remove::encode_tag(tag, out)),
        Remove::Keys(keys) => {
            assert!(keys.len() <= MATCH_KEYS_MAX);
            let keys: Vec<Key> = keys.iter().collect();
            keys.iter().for_each(check_key);
            same(body, |out| Remove::encode_keys(keys.iter(), out))
        }
    }
}

fn statuses(body: &[u8]) -> Result<(), DecodeError> {
    let statuses = decode_statuses(body, BATCH_OBJECTS_MAX)?;
    assert!(statuses.len() <= BATCH_OBJECTS_MAX);
    same(body, |out| encode_statuses(statuses.iter(), out))
}

/// Members may arrive in any order, so the values are compared, and the lengths.
fn view(body: &[u8]) -> Result<(), DecodeError> {
    let view = View::decode(body)?;
    assert!(view.members.len() <= MEMBERS_MAX);
    assert!(view.members.windows(2).all(|pair| pair[0].id < pair[1].id));
    let mut written = Vec::new();
    view.encode(&mut written);
    assert_eq!(written.len(), body.len());
    assert_eq!(View::decode(&written).as_ref(), Ok(&view));
    Ok(())
}

/// Unknown numbers are skipped, so nothing can be written back.
fn stats_reply(body: &[u8]) -> Result<(), DecodeError> {
    let stats = decode_stats(body)?;
    assert!(10 * stats.len() + 4 <= body.len());
    assert!(stats.iter().all(|&(stat, _)| Stat::from_number(stat as u16) == Some(stat)));
    Ok(())
}

fn shared_region(body: &[u8]) -> Result<(), DecodeError> {
    let region = SharedRegion::decode(body)?;
    assert!(region.region < SHARED_REGIONS_MAX && region.bytes <= REGION_SHARED_BYTES_MAX);
    same(body, |out| region.encode(out))
}

fn unshare(body: &[u8]) -> Result<(), DecodeError> {
    let unshare = Unshare::decode(body)?;
    same(body, |out| unshare.encode(out))
}

fn release(body: &[u8]) -> Result<(), DecodeError> {
    let leases: Vec<_> = Release::decode(body)?.leases.iter().collect();
    assert!(leases.len() <= RELEASES_MAX);
    same(body, |out| Release::encode(&leases, out))
}

fn pair(body: &[u8]) -> Result<(), DecodeError> {
    let pair = PairAddress::decode(body)?;
    assert!(pair.packet_bytes_max.is_power_of_two() && pair.number < 1 << 24);
    same(body, |out| pair.encode(out))
}

fn clients_reply(body: &[u8]) -> Result<(), DecodeError> {
    let clients: Vec<_> = ClientReport::decode_all(body)?.iter().collect();
    assert!(clients.len() <= CLIENTS_MAX);
    same(body, |out| ClientReport::encode_all(clients.into_iter(), out))
}

fn pin(body: &[u8]) -> Result<(), DecodeError> {
    let pin = Pin::decode(body)?;
    let keys: Vec<_> = pin.keys.iter().inspect(check_key).collect();
    assert!(keys.len() <= MATCH_KEYS_MAX);
    same(body, |out| Pin::encode(pin.keep_ms, keys.iter(), out))
}

/// Unknown numbers are skipped here, too, and nothing says that a value is 0.
fn accounts_reply(body: &[u8]) -> Result<(), DecodeError> {
    let accounts = Account::decode_all(body)?;
    assert!(accounts.len() <= ACCOUNTS_MAX);
    let values = accounts.iter().map(|account| account.values.len()).sum::<usize>();
    assert!(4 + 3 * accounts.len() + 10 * values <= body.len());
    let mut written = Vec::new();
    let told = accounts.iter().map(|account| (account.of, account.values.iter().copied()));
    Account::encode_all(told, &mut written);
    assert!(written.len() <= body.len());
    let is_given = |(_, value): &(Stat, u64)| *value > 0;
    let mut given = accounts.clone();
    given.iter_mut().for_each(|account| account.values.retain(is_given));
    assert_eq!(Account::decode_all(&written).as_ref(), Ok(&given));
    Ok(())
}

fn same(body: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> Result<(), DecodeError> {
    let mut written = Vec::with_capacity(body.len());
    write(&mut written);
    assert_eq!(written, body, "accepted, but not what the encoder writes");
    Ok(())
}

fn check_key(key: &Key) {
    assert!((1..=KEY_BYTES_MAX).contains(&key.as_bytes().len()));
}

fn check_object(object_bytes: u32, user_meta: &[u8], parts: &[u8]) {
    assert!(object_bytes <= OBJECT_BYTES_MAX && user_meta.len() <= USER_META_BYTES_MAX);
    assert!(parts.len().is_multiple_of(8) && (1..=PARTS_MAX).contains(&(parts.len() / 8)));
}

fn check_payload(payload: &Payload<'_>) {
    if let Payload::Remote(pieces) = payload {
        assert!(pieces.len() <= REMOTE_PIECES_MAX);
        assert_eq!(pieces.iter().count(), pieces.len());
    }
}
