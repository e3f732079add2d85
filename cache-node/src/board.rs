//! What shards count by namespace and class, where the control thread finds it.
//!
//! What a reader would get wrong: a shard never waits for the control thread. If that is reading
//! its page, the page stays as it is for another second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::account::Account;
use crate::store::Store;

/// A page for each shard of a node.
#[derive(Debug)]
pub struct Board {
    pages: Vec<Mutex<Page>>,
}

/// What one shard published last.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// By description.
    pub(crate) namespaces: Vec<(Arc<[u8]>, Account)>,
    /// By class hint.
    pub(crate) classes: Vec<(u8, Account)>,
}

impl Board {
    /// Of so many shards that have published nothing yet.
    pub fn new(shards: u16) -> Self {
        Self { pages: (0..shards).map(|_| Mutex::default()).collect() }
    }

    /// Shows what a shard's store has counted, unless somebody reads its page.
    pub(crate) fn publish(&self, shard: u16, store: &Store) {
        let mut page = match self.pages[usize::from(shard)].try_lock() {
            Ok(page) => page,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        page.namespaces.clear();
        let namespaces = store.namespaces().iter();
        page.namespaces.extend(namespaces.map(|n| (Arc::clone(n.spec()), n.account)));
        page.classes.clear();
        page.classes.extend(store.classes().map(|(class, account)| (class, *account)));
    }

    /// The pages, one after the other.
    pub(crate) fn pages(&self) -> impl Iterator<Item = MutexGuard<'_, Page>> {
        self.pages.iter().map(|page| page.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
