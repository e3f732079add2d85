//! A bare loopback TCP stream that moves the same messages as gets and puts: the measure of both.
//!
//! No checksums, no index, no batching of work: what is left is the kernel's part, which a cache
//! cannot avoid. Both ends use memory that is colder than the caches, as a cache's would be; with
//! warm memory the stream would be faster than anything that holds data.

mod client;
mod server;

use std::io;

pub use client::{Shape, StreamClient};
pub use server::{StreamServer, serve};

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the server, as a get's.
    Get,
    /// To the server, as a put's.
    Put,
}

/// A request: 64 bytes, as long as the header of the real protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// Send me so many bytes behind a header.
    Get(u64),
    /// Here are so many bytes; answer with a header.
    Put(u64),
    /// How much CPU time have you used?
    Cpu,
}

impl Ask {
    fn encode(self) -> [u8; HEADER_BYTES] {
        let (op, bytes) = match self {
            Self::Get(bytes) => (1u64, bytes),
            Self::Put(bytes) => (2, bytes),
            Self::Cpu => (3, 0),
        };
        header([op, bytes])
    }

    fn decode(header: &[u8; HEADER_BYTES]) -> io::Result<Self> {
        let bytes = number(header, 1);
        match number(header, 0) {
            1 | 2 if bytes > MESSAGE_BYTES_MAX => Err(odd("a message too long")),
            1 => Ok(Self::Get(bytes)),
            2 => Ok(Self::Put(bytes)),
            3 => Ok(Self::Cpu),
            _ => Err(odd("an unknown request")),
        }
    }
}

fn header(numbers: [u64; 2]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    for (place, number) in header.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
        *place = number.to_le_bytes();
    }
    header
}

fn number(header: &[u8; HEADER_BYTES], index: usize) -> u64 {
    u64::from_le_bytes(header.as_chunks::<8>().0[index])
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the stream's peer sent {what}"))
}

const HEADER_BYTES: usize = 64;
/// Most bytes of one message, headers aside: those of the largest frame.
pub const MESSAGE_BYTES_MAX: u64 = 128 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire_and_absurd_ones_are_refused() {
        for ask in [Ask::Get(0), Ask::Get(1 << 20), Ask::Put(MESSAGE_BYTES_MAX), Ask::Cpu] {
            assert_eq!(Ask::decode(&ask.encode()).unwrap(), ask);
        }
        assert!(Ask::decode(&header([1, MESSAGE_BYTES_MAX + 1])).is_err());
        assert!(Ask::decode(&header([9, 0])).is_err());
    }
}
