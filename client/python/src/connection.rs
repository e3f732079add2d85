//! What a client and its stores share: the connection, while it is open, and the memory it knows.
//!
//! Every way in asks first whether this is still the process that connected: in a forked child any
//! lock may be held for ever, so nothing else is touched there.

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use larder_client::Client;
use larder_transport::process_id;
use pyo3::prelude::*;

use crate::desk::Desk;
use crate::devices::Devices;
use crate::errors::{Closed, forked, raise};
use crate::memory::Memories;

/// A client's connection to a cluster.
pub(crate) struct Connection {
    client: RwLock<Option<Client>>,
    memories: Memories,
    devices: Devices,
    desks: Mutex<Vec<Weak<Desk>>>,
    pid: u32,
}

impl Connection {
    pub(crate) fn new(client: Client) -> Self {
        let (memories, desks) = (Memories::default(), Mutex::default());
        let (client, devices) = (RwLock::new(Some(client)), Devices::default());
        Self { client, memories, devices, desks, pid: process_id() }
    }

    /// # Errors
    /// `Forked`.
    pub(crate) fn check_process(&self) -> PyResult<()> {
        if self.pid != process_id() {
            return Err(forked());
        }
        Ok(())
    }

    /// The client, for one call.
    ///
    /// # Errors
    /// `Forked`, `Closed`.
    pub(crate) fn client(&self) -> PyResult<Client> {
        self.check_process()?;
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        client.ok_or_else(|| Closed::new_err("the client is closed"))
    }

    /// # Errors
    /// `Forked`, `Closed`.
    pub(crate) fn memories(&self) -> PyResult<&Memories> {
        if self.is_closed()? {
            return Err(Closed::new_err("the client is closed"));
        }
        Ok(&self.memories)
    }

    /// For who has checked that this is the process.
    pub(crate) const fn devices(&self) -> &Devices {
        &self.devices
    }

    /// For who has checked that this is the process.
    pub(crate) const fn memories_even_if_closed(&self) -> &Memories {
        &self.memories
    }

    /// # Errors
    /// `Forked`.
    pub(crate) fn is_closed(&self) -> PyResult<bool> {
        self.check_process()?;
        Ok(self.client.read().unwrap_or_else(PoisonError::into_inner).is_none())
    }

    /// Has `desk` closed with the client.
    pub(crate) fn add_desk(&self, desk: &Arc<Desk>) {
        let mut desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        desks.retain(|desk| desk.strong_count() > 0);
        desks.push(Arc::downgrade(desk));
    }

    /// Closes every store, ends the client and gives memory back. Jobs are waited for; calls of
    /// other threads are answered and end soon. Who closes at the same time waits as long.
    ///
    /// # Errors
    /// `Forked`.
    pub(crate) fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process()?;
        let client = self.client.write().unwrap_or_else(PoisonError::into_inner).take();
        let desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for desk in desks.iter().filter_map(Weak::upgrade) {
            desk.close(py)?;
        }
        if let Some(client) = client {
            // Calls under way have clones of it.
            py.detach(|| client.close()).map_err(raise)?;
            py.detach(|| drop(client));
        }
        self.memories.clear(py);
        self.devices.clear(py);
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.pid != process_id() {
            // No lock of the parent's is taken on the way out.
            std::mem::forget(std::mem::take(&mut self.memories));
            self.devices.abandon();
        }
    }
}
