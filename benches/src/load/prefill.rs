//! Stores all objects in a node before anything is measured.
//!
//! In batches of their own: a load's batches may be so short that storing would take minutes.

use larder_client::{Client, Namespace, Pending, PutOptions};

use super::{LoadError, Objects, Shelf, failed};

/// Stores all of `objects`, from `shelf` if they are there.
///
/// # Errors
/// [`LoadError`] if one was not stored.
pub fn prefill(
    client: &Client,
    namespace: &Namespace,
    objects: &Objects,
    shelf: Option<&Shelf>,
) -> Result<(), LoadError> {
    let per_put = (PREFILL_BYTES / u64::from(objects.object_bytes())).clamp(1, 1024);
    let options =
        PutOptions { deadline: Some(PREFILL_DEADLINE), insist: true, ..PutOptions::default() };
    let mut first = 0;
    while first < objects.count() {
        let count = per_put.min(objects.count() - first);
        // Batches longer than the load's own have no slice of keys to come from.
        let each = first..first + count;
        let stored = match shelf {
            Some(shelf) => {
                let batch: Vec<_> =
                    each.flat_map(|index| shelf.to_put(objects, index, 1)).collect();
                client.put(namespace, &batch, &options)
            }
            None => {
                let batch = each.flat_map(|index| objects.to_put(index, 1)).collect();
                client.start_put(namespace, batch, &options).and_then(Pending::wait)
            }
        };
        let stored = stored.map_err(failed("store"))?;
        stored.into_iter().collect::<Result<Vec<()>, _>>().map_err(LoadError::Prefill)?;
        first += count;
    }
    Ok(())
}

const PREFILL_BYTES: u64 = 4 << 20;
const PREFILL_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);
