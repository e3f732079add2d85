//! Larder's own protocol by hand, without the client.
//!
//! Every header's checksum is checked here, but an object's checksum and seal only of a sample: the
//! client checks them of every object, and that is what this is compared with.

use std::io::{self, Read, Write};

use larder_client::Namespace;
use larder_protocol::checksum::{Sealed, crc64, decode_part, seal};
use larder_protocol::limits::{
    HEADER_BYTES, HELLO_BODY_BYTES_MAX, OBJECT_BYTES_MAX, VERSION_MAX, VERSION_MIN,
};
use larder_protocol::message::{Freshness, Get, GetAnswer, GetItem, Hello, Hit, Open, Payload};
use larder_protocol::wire::Reader;
use larder_protocol::{Code, Generation, Header, Key, Opcode};

use super::dialect::{Asked, Reply, odd_for};
use crate::endpoint::Socket;

/// A connection's view of one namespace.
#[derive(Debug)]
pub(super) struct Larder {
    handle: u64,
    generation: Generation,
    digest: u64,
}

impl Larder {
    /// Says hello to the only shard of a node, and opens a namespace of whole-part objects.
    ///
    /// # Errors
    /// If the node refuses either, or the connection fails.
    pub(super) fn greet(socket: &mut Socket, namespace: &Namespace) -> io::Result<Self> {
        assert_eq!(namespace.part_bytes(), 0, "an object is one part");
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            shard: 0,
            shard_count: 1,
            capabilities: 0,
            name: b"larder-bench small",
            credential: b"",
        };
        ask(socket, Opcode::Hello, |out| hello.encode(out))?;
        let spec = namespace.spec().encode().map_err(|error| odd_for(&error.to_string()))?;
        let open = Open { known: namespace.generation(), spec: &spec };
        let opened = ask(socket, Opcode::Open, |out| open.encode(out))?;
        let (handle, generation) = (opened.namespace, opened.generation);
        Ok(Self { handle, generation, digest: namespace.digest() })
    }

    /// The object's number is the request's id: an answer to another one is noticed.
    pub(super) fn encode_get(&self, index: u64, key: &Key, out: &mut Vec<u8>) {
        let get = Get {
            sharing: larder_protocol::message::Sharing::Never,
            touch: true,
            freshness: Freshness::Any,
            part_first: 0,
            part_count: 0,
            payload_bytes_max: OBJECT_BYTES_MAX,
            items: larder_protocol::message::Batch::read(&mut Reader::new(&[]), 0)
                .expect("no items need no bytes"),
        };
        let at = Header::begin(out);
        get.encode_head(1, out);
        GetItem { key: *key, landing: Payload::Inline }.encode(out);
        let header = Header {
            namespace: self.handle,
            generation: self.generation,
            ..Header::request(Opcode::Get, index, DEADLINE_US)
        };
        header.finish(0, at, out);
    }

    pub(super) fn read<'a>(
        &self,
        asked: Asked<'_>,
        bytes: &'a [u8],
    ) -> io::Result<Option<Reply<'a>>> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::decode(head).map_err(|error| odd_for(&error.to_string()))?;
        let is_answer = header.is_reply && header.opcode == Opcode::Get as u8;
        if !is_answer || header.request_id != asked.index || header.code != Code::Ok {
            return Err(odd_for(&format!("request {} was answered by {header:?}", asked.index)));
        }
        let payload_bytes = usize::try_from(header.payload_bytes).expect("below its limit");
        let Some((body, rest)) = rest.split_at_checked(header.body_bytes as usize) else {
            return Ok(None);
        };
        let Some(payload) = rest.get(..payload_bytes) else { return Ok(None) };
        let answers = GetAnswer::decode_all(body, header.payload_bytes);
        let answers = answers.map_err(|error| odd_for(&error.to_string()))?;
        let mut answers = answers.iter();
        let object = match (answers.next(), answers.next()) {
            (Some(GetAnswer::Hit(hit)), None) => {
                if asked.is_sample && !self.is_sealed(asked.key, &hit, payload) {
                    return Err(odd_for(&format!("object {} is not as sealed", asked.index)));
                }
                Some(payload)
            }
            (Some(GetAnswer::Miss(status)), None) if status.is_miss() => None,
            (answer, _) => return Err(odd_for(&format!("a get was answered by {answer:?}"))),
        };
        Ok(Some(Reply { reply_bytes: HEADER_BYTES + body.len() + payload_bytes, object }))
    }

    fn is_sealed(&self, key: &Key, hit: &Hit<'_>, object: &[u8]) -> bool {
        let what = Sealed {
            namespace_digest: self.digest,
            generation: self.generation,
            key: key.as_bytes(),
            version: hit.version,
            object_bytes: hit.object_bytes,
            user_meta: hit.user_meta,
        };
        decode_part(hit.parts, 0) == Some(crc64(object)) && seal(&what, hit.parts) == hit.seal
    }
}

/// Asks, and waits for the answer; the header of it.
fn ask(
    socket: &mut Socket,
    opcode: Opcode,
    encode: impl FnOnce(&mut Vec<u8>),
) -> io::Result<Header> {
    let mut frame = Vec::new();
    let at = Header::begin(&mut frame);
    encode(&mut frame);
    Header::request(opcode, 0, DEADLINE_US).finish(0, at, &mut frame);
    socket.write_all(&frame)?;
    let mut head = [0; HEADER_BYTES];
    socket.read_exact(&mut head)?;
    let header = Header::decode(&head).map_err(|error| odd_for(&error.to_string()))?;
    if header.code != Code::Ok || header.body_bytes > HELLO_BODY_BYTES_MAX {
        return Err(odd_for(&format!("{opcode:?} was answered by {header:?}")));
    }
    socket.read_exact(&mut vec![0; header.body_bytes as usize])?;
    Ok(header)
}

const DEADLINE_US: u32 = 10_000_000;

#[cfg(test)]
mod tests {
    use larder_protocol::Status;
    use larder_protocol::checksum::encode_parts;
    use larder_protocol::wire::Write as _;

    use super::*;

    const LARDER: Larder = Larder { handle: 5, generation: Generation(3), digest: 7 };

    fn key() -> Key {
        Key::try_from("0123456789abcdef").unwrap()
    }

    fn asked(key: &Key) -> Asked<'_> {
        Asked { index: 9, key, is_sample: true }
    }

    /// What a node answers to number 9.
    fn reply(object: Result<&[u8], Status>, seal_change: u32) -> Vec<u8> {
        let (key, mut out) = (key(), Vec::new());
        let at = Header::begin(&mut out);
        out.u32(1);
        let object = match object {
            Ok(object) => {
                let parts = encode_parts(&[crc64(object)]);
                let what = Sealed {
                    namespace_digest: 7,
                    generation: Generation(3),
                    key: key.as_bytes(),
                    version: 2,
                    object_bytes: object.len() as u32,
                    user_meta: b"",
                };
                let hit = Hit {
                    object_bytes: object.len() as u32,
                    sent_bytes: object.len() as u32,
                    version: 2,
                    payload: Payload::Inline,
                    user_meta: b"",
                    parts: &parts,
                    seal: seal(&what, &parts) ^ seal_change,
                };
                hit.encode(&mut out);
                object
            }
            Err(status) => {
                out.u8(status as u8);
                &[]
            }
        };
        let header = Header::request(Opcode::Get, 9, 0).reply(Code::Ok);
        header.finish(object.len() as u64, at, &mut out);
        out.extend_from_slice(object);
        out
    }

    #[test]
    fn a_reply_is_taken_only_when_it_is_whole() {
        let key = key();
        for object in [Ok(&b"object"[..]), Ok(b""), Err(Status::Miss)] {
            let bytes = reply(object, 0);
            for cut in 0..bytes.len() {
                assert_eq!(LARDER.read(asked(&key), &bytes[..cut]).unwrap(), None, "{cut}");
            }
            let expected = Reply { reply_bytes: bytes.len(), object: object.ok() };
            let followed = [&bytes[..], b"LRDR"].concat();
            assert_eq!(LARDER.read(asked(&key), &followed).unwrap(), Some(expected));
        }
    }

    #[test]
    fn an_answer_to_another_request_and_a_broken_one_are_errors() {
        let key = key();
        let mut bytes = reply(Ok(b"object"), 0);
        LARDER.read(Asked { index: 8, ..asked(&key) }, &bytes).unwrap_err();
        LARDER.read(asked(&key), &reply(Err(Status::NoRoom), 0)).unwrap_err();
        bytes[20] ^= 1;
        LARDER.read(asked(&key), &bytes).unwrap_err();
    }

    #[test]
    fn a_sample_is_held_against_its_checksum_and_seal() {
        let key = key();
        let mut flipped = reply(Ok(b"object"), 0);
        *flipped.last_mut().unwrap() ^= 1;
        for bytes in [flipped, reply(Ok(b"object"), 1)] {
            LARDER.read(asked(&key), &bytes).unwrap_err();
            let unsampled = Asked { is_sample: false, ..asked(&key) };
            LARDER.read(unsampled, &bytes).unwrap();
        }
    }

    #[test]
    fn the_node_reads_the_request_as_meant() {
        let mut out = Vec::new();
        LARDER.encode_get(9, &key(), &mut out);
        let (head, body) = out.split_first_chunk::<HEADER_BYTES>().unwrap();
        let header = Header::decode(head).unwrap();
        assert_eq!((header.request_id, header.namespace), (9, 5));
        assert_eq!((header.generation, header.body_bytes as usize), (Generation(3), body.len()));
        let get = Get::decode(body).unwrap();
        assert_eq!((get.items.len(), get.part_count, get.touch), (1, 0, true));
        assert_eq!(get.items.iter().next().unwrap().key, key());
    }
}
