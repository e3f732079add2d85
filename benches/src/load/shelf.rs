//! Objects that are ready to be put, in memory that is registered with the client.
//!
//! What a reader would get wrong: all of them are there from the start, so that nothing but the put
//! is measured; there must be room for that.

use larder_client::{Client, Pieces, PutObject, SharedMemory};

use super::{LoadError, Objects, failed};

/// All objects of a load, for the puts of one client.
#[derive(Debug)]
pub struct Shelf {
    memory: SharedMemory,
    object_bytes: usize,
}

impl Shelf {
    /// Makes all of `objects`.
    ///
    /// # Errors
    /// [`LoadError`] if there is no room for them.
    pub(super) fn new(client: &Client, objects: &Objects) -> Result<Self, LoadError> {
        let object_bytes = objects.object_bytes() as usize;
        let bytes = objects.count() * u64::from(objects.object_bytes());
        if bytes > SHELF_BYTES_MAX {
            return Err(LoadError::Shelf { bytes });
        }
        let memory = client.shared_memory(bytes).map_err(failed("register memory"))?;
        let mut shelf = Self { memory, object_bytes };
        let places = shelf.memory.chunks_exact_mut(object_bytes);
        (0..objects.count()).zip(places).for_each(|(n, place)| objects.content(n, 0).fill(place));
        Ok(shelf)
    }

    /// A batch to put, beginning at object `first`.
    pub(super) fn to_put(
        &self,
        objects: &Objects,
        first: u64,
        batch: usize,
    ) -> Vec<PutObject<Pieces<'_>>> {
        let numbered = (first..).zip(objects.keys(first, batch));
        let put = |(index, key): (u64, &_)| {
            let at = (index % objects.count()) as usize * self.object_bytes;
            PutObject::new(*key, &self.memory[at..at + self.object_bytes])
        };
        numbered.map(put).collect()
    }
}

pub(super) const SHELF_BYTES_MAX: u64 = 1 << 30;
