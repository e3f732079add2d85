//! Memory that objects come from and go to: such that network cards reach it, where that is the way
//! that is tested.

use std::ops::{Deref, DerefMut};

use larder_client::{Client, SharedMemory};

use crate::process::IS_OVER_RDMA;

/// So many bytes.
pub(crate) struct Room {
    memory: Memory,
    bytes: usize,
}

enum Memory {
    Any(Vec<u8>),
    Exposed(SharedMemory),
}

impl Room {
    /// Bytes that all have this value.
    pub(crate) fn new(client: &Client, bytes: usize, value: u8) -> Self {
        let mut room = Self { memory: Memory::Any(Vec::new()), bytes };
        if IS_OVER_RDMA && bytes > 0 {
            let memory = client.shared_memory(bytes as u64).unwrap();
            assert!(memory.is_exposed(), "the card knows it");
            room.memory = Memory::Exposed(memory);
            room.fill(value);
        } else {
            room.memory = Memory::Any(vec![value; bytes]);
        }
        room
    }

    /// A copy of these.
    pub(crate) fn of(client: &Client, bytes: &[u8]) -> Self {
        let mut room = Self::new(client, bytes.len(), 0);
        room.copy_from_slice(bytes);
        room
    }
}

impl Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Any(bytes) => bytes,
            Memory::Exposed(memory) => &memory[..self.bytes],
        }
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Any(bytes) => bytes,
            Memory::Exposed(memory) => &mut memory[..self.bytes],
        }
    }
}
