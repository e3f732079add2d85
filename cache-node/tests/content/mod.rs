//! Bytes that say which object they are of, and seeded random numbers.
//!
//! A value is made from its name and version alone: whoever reads it back can tell a right value in
//! the wrong place from the value that was asked for.
#![allow(dead_code, reason = "each test file uses its own part of this")]

/// The bytes of an object: another name, version or length gives other bytes everywhere.
pub(crate) fn content(key: &[u8], version: u64, bytes: usize) -> Vec<u8> {
    let mut seed = version ^ (bytes as u64).rotate_left(32);
    for &byte in key {
        seed = Random::new(seed ^ u64::from(byte)).next();
    }
    Random::new(seed).bytes(bytes)
}

/// Random numbers from a seed (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}
