//! A worker's connection to a node: Larder's own client, with every check it makes.
//!
//! A leased object is not copied: whoever looks at it reads the node's memory.

use std::time::Duration;

use larder_client::{
    Client, Config, Error, GetOptions, Key, Namespace, NamespaceSpec, Pieces, PutObject,
    PutOptions, SharedMemory,
};

use super::link::LinkError;
use super::source::Offer;
use crate::paths::{self, PathChoice};

#[derive(Debug)]
pub(super) struct LarderLink {
    client: Client,
    namespace: Namespace,
    path: PathChoice,
    is_leased: bool,
}

impl LarderLink {
    pub(super) fn connect(
        node: &str,
        path: PathChoice,
        is_leased: bool,
        object_bytes: u32,
    ) -> Result<Self, Error> {
        let config = Config {
            deadline: DEADLINE,
            name: "larder-bench compare".into(),
            ..Config::seed(node)
        };
        let client = paths::connect(config, path)?;
        let namespace = client.namespace(namespace_spec(object_bytes))?;
        Ok(Self { client, namespace, path, is_leased })
    }

    pub(super) fn get(
        &self,
        keys: &[Key],
        into: &mut [u8],
        mut look: impl FnMut(usize, &[u8]),
    ) -> Result<(), LinkError> {
        let options = GetOptions::default();
        if self.is_leased {
            let leases = self.client.lease(&self.namespace, keys, &options)?;
            for (nth, lease) in leases.into_iter().enumerate() {
                look(nth, &lease?);
            }
            return Ok(());
        }
        let object_bytes = into.len() / keys.len();
        let places = keys.iter().copied().zip(into.chunks_exact_mut(object_bytes));
        let mut places: Vec<_> = places.collect();
        let landed = self.client.get_into(&self.namespace, &mut places, &options)?;
        for (nth, (landed, (_, place))) in landed.into_iter().zip(places).enumerate() {
            let bytes = landed?.bytes as usize;
            look(nth, place.get(..bytes).unwrap_or_default());
        }
        Ok(())
    }

    pub(super) fn put(&self, offer: &Offer<'_>) -> Result<(), LinkError> {
        let object = PutObject::<Pieces<'_>>::new(offer.key, offer.bytes);
        // Nobody else refuses what is put.
        let insist = PutOptions { insist: true, ..PutOptions::default() };
        let stored = self.client.put(&self.namespace, &[object], &insist)?;
        stored.into_iter().try_for_each(|stored| stored.map_err(LinkError::Key))
    }

    /// Memory that puts of this connection are named from, where it goes through memory. Whoever
    /// leases does not put.
    pub(super) fn shared_memory(&self, bytes: usize) -> Result<Option<SharedMemory>, Error> {
        let is_shared = self.path == PathChoice::Shm && !self.is_leased;
        is_shared.then(|| self.client.shared_memory(bytes as u64)).transpose()
    }
}

/// The namespace that everybody of a comparison uses.
pub(super) fn namespace_spec(object_bytes: u32) -> NamespaceSpec {
    let layout = format!("{object_bytes} B");
    NamespaceSpec { layout, ..NamespaceSpec::new("larder-bench", "compare") }
}

/// As the rivals' sockets: far above any call that comes back.
const DEADLINE: Duration = Duration::from_secs(10);
