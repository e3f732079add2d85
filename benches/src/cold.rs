//! Memory that is colder than the caches by the time it is used again.
//!
//! Gone through from start to end and again. A benchmark that reads into the same few megabytes
//! measures the processor's cache, which no caller with data of its own would see.

use larder_client::{Client, Error, SharedMemory};

/// A ring of memory, handed out piece by piece.
#[derive(Debug)]
pub struct ColdMemory {
    bytes: Bytes,
    at: usize,
}

#[derive(Debug)]
enum Bytes {
    Own(Vec<u8>),
    Registered(SharedMemory),
}

impl ColdMemory {
    /// `bytes` of memory, at least enough for one piece of `piece_bytes_max`; all of it is touched.
    pub fn new(bytes: u64, piece_bytes_max: u64) -> Self {
        let bytes = usize::try_from(bytes.max(piece_bytes_max)).expect("memory fits addresses");
        // Not with zeros, or the kernel would back all of it by one page.
        Self { bytes: Bytes::Own(vec![0x5a; bytes]), at: 0 }
    }

    /// The same, of memory that is registered with `client`.
    ///
    /// # Errors
    /// Those of [`Client::shared_memory`].
    pub fn registered(client: &Client, bytes: u64, piece_bytes_max: u64) -> Result<Self, Error> {
        let memory = client.shared_memory(bytes.max(piece_bytes_max))?;
        Ok(Self { bytes: Bytes::Registered(memory), at: 0 })
    }

    /// The next `bytes`.
    ///
    /// # Panics
    /// If that is more than there are at all.
    pub fn next(&mut self, bytes: u64) -> &mut [u8] {
        let bytes = usize::try_from(bytes).expect("memory fits addresses");
        let all = match &mut self.bytes {
            Bytes::Own(all) => &mut all[..],
            Bytes::Registered(all) => &mut all[..],
        };
        if self.at + bytes > all.len() {
            self.at = 0;
        }
        let from = self.at;
        // Objects of a cache begin at cache lines.
        self.at = (from + bytes).next_multiple_of(64);
        &mut all[from..from + bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_gone_through_in_order_and_again() {
        let mut memory = ColdMemory::new(256, 0);
        memory.next(100)[0] = 1;
        memory.next(100)[0] = 2;
        memory.next(100)[0] = 3;
        let Bytes::Own(bytes) = &memory.bytes else { unreachable!("it is its own") };
        assert_eq!((bytes[0], bytes[128]), (3, 2));
        assert_eq!(ColdMemory::new(1, 300).next(300).len(), 300);
    }
}
