//! The network card of a client: which one it is, and which memory it knows.
//!
//! Nodes write gets into memory that the card knows, and read puts from it, without a copy by any
//! processor. What a reader would get wrong: to expose memory gives nobody a key to it. A node is
//! told where a landing or a source lies when it is asked, and reaches it until it has answered.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use larder_transport::Registered;
use larder_transport::process_id;
use larder_transport::rdma::{AnyFabric, Exposed, FabricError};

use crate::client::Client;
use crate::config::{Config, PathChoice};
use crate::error::Error;
use crate::shared::Memories;

/// What the card of a client knows.
#[derive(Debug, Default)]
pub(crate) struct Card {
    fabric: Option<AnyFabric>,
    /// Whether objects may go no other way, so that memory which it refuses is of no use.
    is_needed: bool,
    exposed: RwLock<Vec<Exposed>>,
}

/// Memory that the client's card knows, if it has one. Dropping it has the card forget it, once
/// nothing in it is under way.
#[derive(Debug)]
#[must_use = "what is dropped is exposed no more"]
pub struct ExposedMemory {
    exposed: Option<Exposed>,
    memories: Arc<Memories>,
}

impl Card {
    pub(crate) fn new(fabric: Option<AnyFabric>, path: PathChoice) -> Self {
        Self { fabric, is_needed: path == PathChoice::Rdma, exposed: RwLock::default() }
    }

    /// The card that `config` asks for; `None` if it wants none, or any and there is none.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if this build knows no cards, [`Error::Card`] if there is no such
    /// card.
    pub(crate) fn open(config: &Config) -> Result<Option<AnyFabric>, Error> {
        if matches!(config.path, PathChoice::Tcp | PathChoice::Shm) {
            return Ok(None);
        }
        let device = config.rdma_device.as_deref();
        match open(device) {
            Ok(fabric) => Ok(Some(fabric)),
            Err(error) if device.is_some() || config.path == PathChoice::Rdma => Err(error),
            Err(error) => {
                tracing::debug!(%error, "no network card is used");
                Ok(None)
            }
        }
    }

    pub(crate) const fn fabric(&self) -> Option<&AnyFabric> {
        self.fabric.as_ref()
    }

    /// All that the card knows.
    pub(crate) fn exposed(&self) -> RwLockReadGuard<'_, Vec<Exposed>> {
        self.exposed.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, exposed: &Exposed) {
        let mut list = self.exposed.write().unwrap_or_else(PoisonError::into_inner);
        list.push(exposed.clone());
    }

    fn remove(&self, exposed: &Exposed) {
        let mut list = self.exposed.write().unwrap_or_else(PoisonError::into_inner);
        list.retain(|known| !known.is_same(exposed));
    }
}

fn open(device: Option<&str>) -> Result<AnyFabric, Error> {
    if !AnyFabric::KNOWS_CARDS {
        let what = "network card, in a build without the feature rdma";
        return Err(Error::InvalidArgument { what });
    }
    AnyFabric::open(device).map_err(|error| {
        tracing::info!(%error, ?device, "a network card was not opened");
        refused(&error)
    })
}

fn refused(error: &FabricError) -> Error {
    Error::Card(error.to_string())
}

impl ExposedMemory {
    /// Has the card of these memories know what `expose` registers with it, if there is one. Where
    /// objects may go another way, a card that refuses is as none.
    ///
    /// # Errors
    /// [`Error::Card`] if the card refuses, mostly for want of memory that may be locked.
    pub(crate) fn new(
        memories: &Arc<Memories>,
        expose: impl FnOnce(&AnyFabric) -> Result<Exposed, FabricError>,
    ) -> Result<Self, Error> {
        let exposed = match memories.card.fabric().map(expose).transpose() {
            Ok(exposed) => exposed,
            Err(error) if memories.card.is_needed => return Err(refused(&error)),
            Err(error) => {
                tracing::warn!(%error, "memory is not known to the network card: it goes by TCP");
                None
            }
        };
        exposed.iter().for_each(|exposed| memories.card.add(exposed));
        Ok(Self { exposed, memories: Arc::clone(memories) })
    }

    /// Whether there is a card that knows it.
    pub const fn is_exposed(&self) -> bool {
        self.exposed.is_some()
    }
}

impl Drop for ExposedMemory {
    fn drop(&mut self) {
        // In a forked child the lock may be held for ever, and the card is the parent's.
        if let Some(exposed) = self.exposed.take()
            && self.memories.is_own_process(process_id())
        {
            self.memories.card.remove(&exposed);
        }
    }
}

impl Client {
    /// Lets nodes on other hosts write gets into `memory`, and read puts from it, through network
    /// cards, for as long as the answer is kept. Nothing happens if this client has no card, or if
    /// it refuses (mostly for want of memory that may be locked, `ulimit -l`) and
    /// [`Config::path`](crate::Config::path) lets objects go another way.
    ///
    /// # Errors
    /// [`Error::Card`] if the card refuses and they may not; [`Error::Forked`].
    pub fn expose(&self, memory: &Registered) -> Result<ExposedMemory, Error> {
        self.check_process()?;
        ExposedMemory::new(&self.shared.memories, |fabric| Exposed::new(fabric, memory))
    }

    /// The name of the network card that is used, if one is.
    pub fn rdma_device(&self) -> Option<&str> {
        self.shared.memories.card.fabric().map(AnyFabric::device)
    }
}
