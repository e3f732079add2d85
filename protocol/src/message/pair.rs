//! `Pair`: two ends of a connection of network cards find each other.
//!
//! The client tells where its end is, the node makes one of its own, connects it and answers where
//! that is. From then on the node reads and writes what later requests name as `Remote`. Another
//! `Pair` on the same connection replaces the one before, which has ended by then at the client's.

use crate::wire::{DecodeError, Reader, Write, within};

/// Bit of `capabilities`: both reach the other's memory through a network card.
pub const CAPABILITY_REMOTE: u64 = 2;

/// Where one end is: the body of the request and of its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairAddress {
    /// Address of its port.
    pub gid: [u8; 16],
    /// Address of its port where a subnet manager gives them out, else 0.
    pub lid: u16,
    /// Number of its queue pair, 24 bits.
    pub number: u32,
    /// Number of the first packet that it sends, 24 bits, drawn at random.
    pub first_packet: u32,
    /// Most bytes of one packet: a power of two from 256 to 4,096.
    pub packet_bytes_max: u16,
    /// Most reads that its device answers at a time. The peer's device fails the pair if there are
    /// more.
    pub reads_max: u8,
}

impl PairAddress {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.bytes(&self.gid);
        out.u16(self.lid);
        out.u32(self.number);
        out.u32(self.first_packet);
        out.u16(self.packet_bytes_max);
        out.u8(self.reads_max);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short or too long, or a number is none that a card has.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (high, low) = (reader.u64("gid")?, reader.u64("gid")?);
        let mut gid = [0; 16];
        gid[..8].copy_from_slice(&high.to_le_bytes());
        gid[8..].copy_from_slice(&low.to_le_bytes());
        let pair = Self {
            gid,
            lid: reader.u16("lid")?,
            number: reader.u32("queue pair")?,
            first_packet: reader.u32("first packet")?,
            packet_bytes_max: reader.u16("packet bytes")?,
            reads_max: reader.u8("reads")?,
        };
        reader.end()?;
        within(u64::from(pair.number), NUMBER_MAX, "queue pair")?;
        within(u64::from(pair.first_packet), NUMBER_MAX, "first packet")?;
        let bytes = pair.packet_bytes_max;
        if !bytes.is_power_of_two() || !(PACKET_BYTES_LEAST..=PACKET_BYTES_MOST).contains(&bytes) {
            return Err(DecodeError::Value { what: "packet bytes", found: u64::from(bytes) });
        }
        Ok(pair)
    }
}

const NUMBER_MAX: u64 = (1 << 24) - 1;
const PACKET_BYTES_LEAST: u16 = 256;
const PACKET_BYTES_MOST: u16 = 4096;
