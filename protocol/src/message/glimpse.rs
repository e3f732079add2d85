//! A look at a request that waits its turn, so that what it will need can be made ready.
//!
//! What a reader would get wrong: nothing is checked here, not even a checksum. A glimpse may start
//! a load from memory and must decide nothing; the request is decoded when its turn comes.

use crate::header::Opcode;
use crate::limits::HEADER_BYTES;
use crate::wire::Reader;

/// What the frame at the front of some bytes claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glimpse<'a> {
    /// Bytes from its start to the next frame's.
    pub frame_bytes: u64,
    /// Its namespace handle.
    pub namespace: u64,
    /// The key, if it is a `Get` of one object.
    pub key: Option<&'a [u8]>,
}

impl<'a> Glimpse<'a> {
    /// Of the first frame of `bytes`; `None` if its header or body is not all there.
    pub fn first_of(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let mut reader = Reader::new(&head[5..]);
        let opcode = reader.u8("opcode").ok()?;
        reader.take(10, "flags and request id").ok()?;
        let namespace = reader.u64("namespace").ok()?;
        let body_bytes = reader.u32("body bytes").ok()?;
        reader.u32("deadline").ok()?;
        let payload_bytes = reader.u64("payload bytes").ok()?;
        let body = rest.get(..body_bytes as usize)?;
        let behind = u64::from(body_bytes).saturating_add(payload_bytes);
        let frame_bytes = behind.saturating_add(HEADER_BYTES as u64);
        let key = if opcode == Opcode::Get as u8 { only_key(body) } else { None };
        Some(Self { frame_bytes, namespace, key })
    }
}

/// The key of a `Get`'s body that has one.
fn only_key(body: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(body);
    reader.take(KEY_COUNT_AT, "head of a get").ok()?;
    let count = reader.u32("objects").ok()?;
    let key_len = reader.u8("key length").ok()?;
    let key = reader.take(usize::from(key_len), "key").ok()?;
    (count == 1).then_some(key)
}

/// Where the number of objects stands in the body of a `Get`.
const KEY_COUNT_AT: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Get, GetItem, Payload};
    use crate::{Header, Key};

    fn get(keys: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        let at = Header::begin(&mut out);
        Get::whole(true).encode_head(keys.len(), &mut out);
        for &key in keys {
            GetItem { key: Key::try_from(key).unwrap(), landing: Payload::Inline }.encode(&mut out);
        }
        let header = Header { namespace: 77, ..Header::request(Opcode::Get, 1, 1000) };
        header.finish(0, at, &mut out);
        out
    }

    #[test]
    fn key_of_a_small_get_is_seen_once_the_get_is_here() {
        let frame = get(&["a key"]);
        let key = Some(&b"a key"[..]);
        let seen = Glimpse { frame_bytes: frame.len() as u64, namespace: 77, key };
        assert_eq!(Glimpse::first_of(&[&frame[..], b"LRDR"].concat()), Some(seen));
        for cut in 0..frame.len() {
            assert_eq!(Glimpse::first_of(&frame[..cut]), None);
        }
    }

    #[test]
    fn other_frames_are_passed_over_and_nonsense_is_no_key() {
        let two = get(&["a", "b"]);
        let seen = Glimpse { frame_bytes: two.len() as u64, namespace: 77, key: None };
        assert_eq!(Glimpse::first_of(&two), Some(seen));
        let mut put = Vec::new();
        Header::request(Opcode::Put, 1, 1000).finish(u64::MAX, Header::begin(&mut put), &mut put);
        assert_eq!(Glimpse::first_of(&put).unwrap().frame_bytes, u64::MAX);
        let mut longer = get(&["a key"]);
        longer[HEADER_BYTES + 22] = 255;
        assert_eq!(Glimpse::first_of(&longer).unwrap().key, None);
    }
}
