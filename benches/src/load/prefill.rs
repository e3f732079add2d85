//! Stores all objects in a node before anything is measured.
//!
//! In batches of their own: a load's batches may be so short that storing would take minutes.

use larder_client::{Client, Namespace, Pending, PutOptions};

use super::{LoadError, Objects, failed};

/// Stores all of `objects`.
///
/// # Errors
/// [`LoadError`] if one was not stored.
pub fn prefill(client: &Client, namespace: &Namespace, objects: &Objects) -> Result<(), LoadError> {
    let per_put = (PREFILL_BYTES / u64::from(objects.object_bytes())).clamp(1, 1024);
    let mut first = 0;
    while first < objects.count() {
        let count = per_put.min(objects.count() - first);
        // Batches longer than the load's own have no slice of keys to come from.
        let mut batch = Vec::new();
        for index in first..first + count {
            batch.append(&mut objects.to_put(index, 1));
        }
        let options = PutOptions { deadline: Some(PREFILL_DEADLINE), ..PutOptions::default() };
        let call = client.start_put(namespace, batch, &options);
        let stored = call.and_then(Pending::wait).map_err(failed("store"))?;
        stored.into_iter().collect::<Result<Vec<()>, _>>().map_err(LoadError::Prefill)?;
        first += count;
    }
    Ok(())
}

const PREFILL_BYTES: u64 = 4 << 20;
const PREFILL_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);
