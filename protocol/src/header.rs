//! The 64-byte header of every frame, request and reply alike.
//!
//! ```text
//!  0 magic "LRDR"    4 version  5 opcode  6 flags (u16)
//!  8 request id (u64)
//! 16 namespace handle (u64)
//! 24 body bytes (u32)           28 deadline µs (u32, relative; replies: 0)
//! 32 payload bytes (u64)
//! 40 view epoch (u64)
//! 48 generation (u32, low)      52 code (u8)  53 load (u8)  54 zero (u16)
//! 56 generation (u32, high)     60 CRC-32C of bytes 0..60
//! ```
//!
//! The checksum covers the header alone: bodies of puts and gets are bound by the objects' seals.

use crate::checksum::crc32c;
use crate::limits::{
    BODY_BYTES_MAX, DEADLINE_US_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX, VERSION_MAX, VERSION_MIN,
};
use crate::namespace::Generation;
use crate::status::{Code, from_byte};
use crate::wire::{DecodeError, Reader, within};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Opcode {
    /// First frame of a connection: who, which version, which shard.
    Hello = 1,
    /// Registers a namespace and answers its handle.
    Open = 2,
    /// Moves a namespace to a newer generation.
    Bump = 3,
    /// Asks which keys of a chain are there.
    Match = 4,
    /// Reads objects.
    Get = 5,
    /// Stores objects.
    Put = 6,
    /// Removes keys, or all objects of a tag.
    Remove = 7,
    /// Asks for the membership.
    View = 8,
    /// Asks for the shard's counters.
    Stats = 9,
    /// From the node, unasked: memory of its own that a later reply names.
    Region = 10,
    /// Gives the node memory of the client's to read puts from.
    Share = 11,
    /// Takes that memory back.
    Unshare = 12,
    /// Ends leases. It has no reply.
    Release = 13,
    /// Connects queue pairs, so that the node reads and writes the client's memory.
    Pair = 14,
    /// Asks who is connected to the shard, and which way.
    Clients = 15,
    /// Asks what the shard counts of each namespace, and of each class of objects.
    Accounts = 16,
    /// Has objects evicted last for a while.
    Pin = 17,
}

from_byte!(
    Opcode, "opcode", Hello, Open, Bump, Match, Get, Put, Remove, View, Stats, Region, Share,
    Unshare, Release, Pair, Clients, Accounts, Pin,
);

impl Opcode {
    /// Whether a request of it changes nothing. While a node reads a put by its card it serves what
    /// only reads of the connection, and nothing behind what does not.
    pub const fn only_reads(self) -> bool {
        matches!(
            self,
            Self::Match | Self::Get | Self::View | Self::Stats | Self::Clients | Self::Accounts
        )
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Protocol version of the sender.
    pub version: u8,
    /// The operation, as a number: an unknown one is answered, not fatal.
    pub opcode: u8,
    /// Whether this is an answer.
    pub is_reply: bool,
    /// Chosen by the client, given back by the node.
    pub request_id: u64,
    /// Namespace handle of this connection, 0 where none is needed.
    pub namespace: u64,
    /// Bytes of the body that follows.
    pub body_bytes: u32,
    /// Time the request may take, in microseconds from its arrival. 0 in replies; a request with 0
    /// is late when it arrives.
    pub deadline_us: u32,
    /// Bytes of payload behind the body.
    pub payload_bytes: u64,
    /// View epoch that the sender knows.
    pub view_epoch: u64,
    /// Generation that the request is for; in replies the one that the node has.
    pub generation: Generation,
    /// Answer to the request as a whole; `Ok` in requests.
    pub code: Code,
    /// How loaded the node is, 0 to 255; 0 in requests.
    pub load: u8,
}

impl Header {
    /// A request header; lengths are filled in when its body is encoded.
    pub const fn request(opcode: Opcode, request_id: u64, deadline_us: u32) -> Self {
        Self {
            // The first frame must be readable by a peer of any version both may agree on.
            version: if matches!(opcode, Opcode::Hello) { VERSION_MIN } else { VERSION_MAX },
            opcode: opcode as u8,
            is_reply: false,
            request_id,
            namespace: 0,
            body_bytes: 0,
            deadline_us,
            payload_bytes: 0,
            view_epoch: 0,
            generation: Generation(0),
            code: Code::Ok,
            load: 0,
        }
    }

    /// The header that answers this one with `code` and nothing behind it.
    #[must_use]
    pub const fn reply(&self, code: Code) -> Self {
        Self {
            is_reply: true,
            body_bytes: 0,
            payload_bytes: 0,
            deadline_us: 0,
            code,
            load: 0,
            ..*self
        }
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = self.version;
        out[5] = self.opcode;
        out[6..8].copy_from_slice(&(if self.is_reply { FLAG_REPLY } else { 0 }).to_le_bytes());
        out[8..16].copy_from_slice(&self.request_id.to_le_bytes());
        out[16..24].copy_from_slice(&self.namespace.to_le_bytes());
        out[24..28].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[28..32].copy_from_slice(&self.deadline_us.to_le_bytes());
        out[32..40].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[40..48].copy_from_slice(&self.view_epoch.to_le_bytes());
        let generation = self.generation.0.to_le_bytes();
        out[48..52].copy_from_slice(&generation[..4]);
        out[52] = self.code as u8;
        out[53] = self.load;
        out[56..60].copy_from_slice(&generation[4..]);
        let checksum = crc32c(&out[..60]);
        out[60..64].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Appends room for a header to `out` and answers where it is; the body goes behind it.
    pub fn begin(out: &mut Vec<u8>) -> usize {
        let at = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        at
    }

    /// Writes this header into the room at `at`; its body is all that was appended since.
    ///
    /// # Panics
    /// If the body is longer than [`BODY_BYTES_MAX`]: counts are limited before encoding.
    pub fn finish(mut self, payload_bytes: u64, at: usize, out: &mut [u8]) {
        let body = out.len() - at - HEADER_BYTES;
        assert!(body <= BODY_BYTES_MAX as usize, "batches are cut to fit a body");
        self.body_bytes = body as u32;
        self.payload_bytes = payload_bytes;
        out[at..at + HEADER_BYTES].copy_from_slice(&self.encode());
    }

    /// Reads a header and checks everything that can be known from it alone.
    ///
    /// # Errors
    /// [`DecodeError`]; the connection it came from cannot be trusted any further.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let magic = reader.u32("magic")?;
        if magic != MAGIC {
            return Err(DecodeError::Magic(magic));
        }
        let version = reader.u8("version")?;
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
            return Err(DecodeError::Version(version));
        }
        let found = u32::from_le_bytes([bytes[60], bytes[61], bytes[62], bytes[63]]);
        let computed = crc32c(&bytes[..60]);
        if found != computed {
            return Err(DecodeError::HeaderChecksum { found, computed });
        }
        let opcode = reader.u8("opcode")?;
        let flags = reader.u16("flags")?;
        if flags & !FLAG_REPLY != 0 {
            return Err(DecodeError::Reserved(u64::from(flags & !FLAG_REPLY)));
        }
        let (request_id, namespace) = (reader.u64("request id")?, reader.u64("namespace")?);
        let (body_bytes, deadline_us) = (reader.u32("body bytes")?, reader.u32("deadline")?);
        let (payload_bytes, view_epoch) = (reader.u64("payload bytes")?, reader.u64("epoch")?);
        let low = reader.u32("generation")?;
        let code = Code::try_from(reader.u8("code")?)?;
        let load = reader.u8("load")?;
        let reserved = reader.u16("reserved")?;
        if reserved != 0 {
            return Err(DecodeError::Reserved(u64::from(reserved)));
        }
        let high = reader.u32("generation")?;
        within(u64::from(body_bytes), u64::from(BODY_BYTES_MAX), "body")?;
        within(payload_bytes, PAYLOAD_BYTES_MAX, "payload")?;
        within(u64::from(deadline_us), u64::from(DEADLINE_US_MAX), "deadline")?;
        Ok(Self {
            version,
            opcode,
            is_reply: flags & FLAG_REPLY != 0,
            request_id,
            namespace,
            body_bytes,
            deadline_us,
            payload_bytes,
            view_epoch,
            generation: Generation(u64::from(high) << 32 | u64::from(low)),
            code,
            load,
        })
    }
}

const MAGIC: u32 = u32::from_le_bytes(*b"LRDR");
const FLAG_REPLY: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            namespace: 0x1122_3344_5566_7788,
            body_bytes: 100,
            payload_bytes: 1 << 20,
            view_epoch: 7,
            generation: Generation(0x0102_0304_0506_0708),
            ..Header::request(Opcode::Get, 42, 5_000)
        }
    }

    #[test]
    fn header_survives_the_wire() {
        let reply = Header { code: Code::Busy, load: 9, ..sample().reply(Code::Busy) };
        for header in [sample(), reply] {
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = sample().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    fn with_checksum(change: impl FnOnce(&mut [u8; HEADER_BYTES])) -> [u8; HEADER_BYTES] {
        let mut bytes = sample().encode();
        change(&mut bytes);
        let checksum = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn absurd_fields_are_refused_by_name() {
        let decode = |change: fn(&mut [u8; HEADER_BYTES])| Header::decode(&with_checksum(change));
        assert!(matches!(decode(|b| b[0] = b'X'), Err(DecodeError::Magic(_))));
        assert_eq!(decode(|b| b[4] = 0), Err(DecodeError::Version(0)));
        assert_eq!(decode(|b| b[4] = 255), Err(DecodeError::Version(255)));
        assert_eq!(decode(|b| b[6] = 2), Err(DecodeError::Reserved(2)));
        assert_eq!(decode(|b| b[54] = 1), Err(DecodeError::Reserved(1)));
        assert!(matches!(
            decode(|b| b[24..28].fill(0xff)),
            Err(DecodeError::TooLong { what: "body", .. })
        ));
        assert!(matches!(
            decode(|b| b[32..40].fill(0xff)),
            Err(DecodeError::TooLong { what: "payload", .. })
        ));
        assert!(matches!(
            decode(|b| b[52] = 200),
            Err(DecodeError::Value { what: "reply code", .. })
        ));
        assert_eq!(decode(|b| b[5] = 77).map(|h| h.opcode), Ok(77), "left to the node to answer");
    }
}
