//! Which namespaces a shard knows, and which of them a connection has open.
//!
//! Descriptions are compared in full, byte by byte: the digest only goes into seals. A namespace's
//! number is reused for another description only when nothing of the former one is left, neither
//! an object (old generations included) nor a handle; otherwise one tenant's bytes could answer
//! for another's.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use larder_protocol::checksum::crc64;
use larder_protocol::limits::HANDLES_MAX;
use larder_protocol::{DecodeError, Generation, NamespaceSpec};

use crate::account::Account;

/// Most namespaces of one shard.
pub const NAMESPACES_MAX: usize = 4096;

/// The number of a namespace in its shard, dense from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId(pub(crate) u32);

impl NamespaceId {
    /// The number, as records carry it.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Why a namespace was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The description is not one.
    #[error("namespace description: {0}")]
    Spec(#[from] DecodeError),
    /// Every number is taken by a namespace that has objects or handles.
    #[error("this shard has {NAMESPACES_MAX} namespaces in use")]
    Full,
}

/// What a shard knows about one namespace.
#[derive(Debug)]
pub struct Namespace {
    spec: Arc<[u8]>,
    tenant: Arc<str>,
    digest: u64,
    part_bytes: u32,
    object_bytes_max: u32,
    generation: Generation,
    /// Counts bumps and replacements of this number; entries of another era are stale. It wraps:
    /// an entry would have to stay unreclaimed for 2^32 bumps, and even then its record's
    /// generation keeps it from being served.
    era: u32,
    handles: u32,
    /// Objects of the present generation.
    pub(crate) objects: u64,
    /// Objects of older generations that are not reclaimed yet.
    pub(crate) stale_objects: u64,
    /// Whether it ever had an object behind another.
    has_chains: bool,
    /// Length of the last object that was stored.
    object_bytes: u32,
    /// What was counted of it.
    pub(crate) account: Account,
}

impl Namespace {
    fn new(bytes: &[u8], era: u32) -> Result<Self, DecodeError> {
        let spec = NamespaceSpec::decode(bytes)?;
        Ok(Self {
            spec: bytes.into(),
            tenant: spec.tenant.as_str().into(),
            digest: crc64(bytes),
            part_bytes: spec.part_bytes,
            object_bytes_max: spec.object_bytes_max(),
            generation: Generation::FIRST,
            era,
            handles: 0,
            objects: 0,
            stale_objects: 0,
            has_chains: false,
            object_bytes: 0,
            account: Account::default(),
        })
    }

    /// The number that seals bind: [`NamespaceSpec::digest`].
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The description, as it was registered.
    pub fn spec(&self) -> &Arc<[u8]> {
        &self.spec
    }

    /// Who owns the bytes.
    pub fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    /// Bytes of one part of an object; 0 makes the whole object one part.
    pub fn part_bytes(&self) -> u32 {
        self.part_bytes
    }

    /// Largest object that the description allows, in bytes.
    pub fn object_bytes_max(&self) -> u32 {
        self.object_bytes_max
    }

    /// The present generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Objects of the present generation.
    pub fn objects(&self) -> u64 {
        self.objects
    }

    /// An object was stored.
    pub(crate) fn took(&mut self, depth: u16, object_bytes: u32) {
        self.has_chains |= depth > 0;
        self.object_bytes = object_bytes;
    }

    /// How long its last object was, if it ever had one, and each of them stood alone.
    pub(crate) fn alone_bytes(&self) -> Option<u32> {
        (!self.has_chains && self.object_bytes > 0).then_some(self.object_bytes)
    }

    /// How long its last object was; 0 if it never had one.
    pub(crate) fn last_object_bytes(&self) -> u32 {
        self.object_bytes
    }

    pub(crate) fn era(&self) -> u32 {
        self.era
    }

    fn is_replaceable(&self) -> bool {
        self.handles == 0 && self.objects == 0 && self.stale_objects == 0
    }
}

/// The namespaces of a shard.
#[derive(Debug, Default)]
pub struct Namespaces {
    by_spec: HashMap<Arc<[u8]>, NamespaceId, ahash::RandomState>,
    table: Vec<Namespace>,
}

impl Namespaces {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The namespace with this description, registered now if it is new here.
    ///
    /// # Errors
    /// [`OpenError`]; nothing has changed then.
    pub fn open(&mut self, spec: &[u8]) -> Result<NamespaceId, OpenError> {
        if let Some(&id) = self.by_spec.get(spec) {
            return Ok(id);
        }
        let mut namespace = Namespace::new(spec, 0)?;
        let id = if self.table.len() < NAMESPACES_MAX {
            let id = NamespaceId(self.table.len() as u32);
            self.table.push(namespace);
            id
        } else {
            let id = self.replaceable().ok_or(OpenError::Full)?;
            namespace.era = self[id].era.wrapping_add(1);
            let former = std::mem::replace(&mut self[id], namespace);
            self.by_spec.remove(&former.spec);
            id
        };
        self.by_spec.insert(Arc::clone(&self[id].spec), id);
        Ok(id)
    }

    /// Begins generation `to` if it is newer, and says how many objects became stale by it.
    ///
    /// `None` if `to` is not newer: nothing has changed.
    pub(crate) fn bump(&mut self, id: NamespaceId, to: Generation) -> Option<u64> {
        let namespace = &mut self[id];
        if to <= namespace.generation {
            return None;
        }
        namespace.generation = to;
        namespace.era = namespace.era.wrapping_add(1);
        let stale = std::mem::take(&mut namespace.objects);
        namespace.stale_objects += stale;
        Some(stale)
    }

    /// All that are registered, by number.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Namespace> {
        self.table.iter()
    }

    /// How many are registered.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is registered.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// One that may be forgotten, rather one that never was bumped: the node forgets the
    /// generation with it, and only a client that knows it can bring it back.
    fn replaceable(&self) -> Option<NamespaceId> {
        let mut unused = self.table.iter().enumerate().filter(|(_, n)| n.is_replaceable());
        let first = unused.next()?;
        let (number, _) = std::iter::once(first)
            .chain(unused)
            .find(|(_, n)| n.generation == Generation::FIRST)
            .unwrap_or(first);
        Some(NamespaceId(number as u32))
    }
}

impl Index<NamespaceId> for Namespaces {
    type Output = Namespace;

    fn index(&self, id: NamespaceId) -> &Namespace {
        &self.table[id.0 as usize]
    }
}

impl IndexMut<NamespaceId> for Namespaces {
    fn index_mut(&mut self, id: NamespaceId) -> &mut Namespace {
        &mut self.table[id.0 as usize]
    }
}

/// This connection has as many namespaces open as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a connection may have {HANDLES_MAX} namespaces open")]
pub struct TooManyHandles;

/// The namespaces that one connection has open.
///
/// A handle is random but for its low bits, which are its place in the table, so a handle of
/// another connection or of a former one finds nothing. The owner calls [`Handles::close_all`]
/// before it drops the table; until then the namespaces cannot be replaced.
#[derive(Debug, Default)]
pub struct Handles {
    open: Vec<(u64, NamespaceId)>,
}

impl Handles {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle for `id`: the former one if it is open already. `random` is 64 random bits.
    ///
    /// # Errors
    /// [`TooManyHandles`] if [`HANDLES_MAX`] are open.
    pub fn open(
        &mut self,
        namespaces: &mut Namespaces,
        id: NamespaceId,
        random: u64,
    ) -> Result<u64, TooManyHandles> {
        if let Some((handle, _)) = self.open.iter().find(|(_, open)| *open == id) {
            return Ok(*handle);
        }
        if self.open.len() == HANDLES_MAX {
            return Err(TooManyHandles);
        }
        // The highest bit is set so that no handle is 0, which in a header means none.
        let handle = (random | 1 << 63) & !PLACE_MASK | self.open.len() as u64;
        self.open.push((handle, id));
        namespaces[id].handles += 1;
        Ok(handle)
    }

    /// The namespace behind a handle of this connection.
    pub fn find(&self, handle: u64) -> Option<NamespaceId> {
        let &(whole, id) = self.open.get((handle & PLACE_MASK) as usize)?;
        (whole == handle).then_some(id)
    }

    /// Closes all, when the connection ends.
    pub fn close_all(&mut self, namespaces: &mut Namespaces) {
        for (_, id) in self.open.drain(..) {
            namespaces[id].handles -= 1;
        }
    }
}

const PLACE_MASK: u64 = HANDLES_MAX as u64 - 1;
const _: () = assert!(HANDLES_MAX.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(model: usize) -> Vec<u8> {
        NamespaceSpec::new("tenant", &model.to_string()).encode().unwrap()
    }

    fn full() -> Namespaces {
        let mut namespaces = Namespaces::new();
        for model in 0..NAMESPACES_MAX {
            assert_eq!(namespaces.open(&spec(model)).unwrap().number(), model as u32);
        }
        namespaces
    }

    #[test]
    fn one_description_is_one_namespace() {
        let mut namespaces = Namespaces::new();
        let a = namespaces.open(&spec(1)).unwrap();
        assert_ne!(namespaces.open(&spec(2)).unwrap(), a);
        assert_eq!(namespaces.open(&spec(1)).unwrap(), a);
        assert_eq!(namespaces[a].digest(), NamespaceSpec::new("tenant", "1").digest().unwrap());
        assert!(matches!(namespaces.open(b"rubbish"), Err(OpenError::Spec(_))));
        assert_eq!(namespaces.len(), 2);
    }

    #[test]
    fn generation_only_goes_forward() {
        let mut namespaces = Namespaces::new();
        let id = namespaces.open(&spec(1)).unwrap();
        namespaces[id].objects = 3;
        let era = namespaces[id].era();
        assert_eq!(namespaces.bump(id, Generation::FIRST), None);
        assert_eq!(namespaces[id].era(), era);
        assert_eq!(namespaces.bump(id, Generation(9)), Some(3));
        assert_eq!(namespaces.bump(id, Generation(8)), None);
        assert_eq!(namespaces[id].generation(), Generation(9));
        assert_ne!(namespaces[id].era(), era);
    }

    #[test]
    fn number_is_replaced_only_when_nothing_is_left_of_it() {
        let mut namespaces = full();
        let mut handles = Handles::new();
        for number in 0..NAMESPACES_MAX as u32 {
            namespaces[NamespaceId(number)].objects = 1;
        }
        assert_eq!(namespaces.open(&spec(9999)), Err(OpenError::Full));

        let (a, b) = (NamespaceId(7), NamespaceId(8));
        namespaces.bump(a, Generation(2)).unwrap();
        namespaces[b].objects = 0;
        let handle = handles.open(&mut namespaces, b, 42).unwrap();
        assert_eq!(namespaces.open(&spec(9999)), Err(OpenError::Full), "stale, or open");

        handles.close_all(&mut namespaces);
        assert_eq!(handles.find(handle), None);
        let era = namespaces[b].era();
        assert_eq!(namespaces.open(&spec(9999)), Ok(b));
        assert_ne!(namespaces[b].era(), era);
        namespaces[b].objects = 1;
        namespaces[a].stale_objects = 0;
        assert_eq!(namespaces.open(&spec(8)), Ok(a), "the former number is another's now");
    }

    #[test]
    fn namespace_that_was_bumped_is_forgotten_last() {
        let mut namespaces = full();
        for number in 0..NAMESPACES_MAX as u32 - 1 {
            namespaces.bump(NamespaceId(number), Generation(2)).unwrap();
        }
        assert_eq!(namespaces.open(&spec(9999)).unwrap().number(), NAMESPACES_MAX as u32 - 1);
    }

    #[test]
    fn handle_means_nothing_on_another_connection() {
        let mut namespaces = Namespaces::new();
        let (mut mine, mut other) = (Handles::new(), Handles::new());
        let id = namespaces.open(&spec(1)).unwrap();
        let handle = mine.open(&mut namespaces, id, 0).unwrap();
        other.open(&mut namespaces, id, 0x1234_5678_9abc).unwrap();
        assert_ne!(handle, 0);
        assert_eq!(mine.find(handle), Some(id));
        assert_eq!(other.find(handle), None);
        assert_eq!(mine.find(handle + 1), None);
        assert_eq!(mine.open(&mut namespaces, id, 77), Ok(handle), "open twice is open once");
        assert_eq!(namespaces[id].handles, 2);
    }

    #[test]
    fn connection_has_a_bounded_number_of_handles() {
        let mut namespaces = full();
        let mut handles = Handles::new();
        for number in 0..HANDLES_MAX as u32 {
            let handle = handles.open(&mut namespaces, NamespaceId(number), u64::MAX).unwrap();
            assert_eq!(handles.find(handle), Some(NamespaceId(number)));
        }
        let next = NamespaceId(HANDLES_MAX as u32);
        assert_eq!(handles.open(&mut namespaces, next, 1), Err(TooManyHandles));
    }
}
