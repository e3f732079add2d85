//! Which network card each shard uses.
//!
//! Cards are opened once for all shards. What a reader would get wrong: one that was named has to
//! work, or the node does not start. One that merely is there may fail, and is left out with a word
//! in the log.

use std::path::Path;

use larder_transport::rdma::AnyFabric;

use crate::config::{Config, RdmaDevices};
use crate::node::StartError;

/// The cards of a node.
#[derive(Debug, Default)]
pub(crate) struct Cards {
    fabrics: Vec<AnyFabric>,
    /// Whether they were asked for.
    are_wanted: bool,
}

/// A card that a shard may use.
#[derive(Debug, Clone)]
pub(crate) struct OpenCard {
    pub(crate) fabric: AnyFabric,
    /// Whether it has to work.
    pub(crate) is_wanted: bool,
}

impl Cards {
    /// Opens the cards that `config` asks for.
    ///
    /// # Errors
    /// [`StartError::Card`] for one that was named and cannot be opened.
    pub(crate) fn open(config: &Config) -> Result<Self, StartError> {
        match &config.rdma_devices {
            RdmaDevices::Off => Ok(Self::default()),
            RdmaDevices::Auto => {
                Ok(Self { fabrics: first().into_iter().collect(), are_wanted: false })
            }
            RdmaDevices::Named(names) => {
                let fabrics = names.iter().map(|name| {
                    let refused = |source| StartError::Card { device: name.clone(), source };
                    AnyFabric::open(Some(name)).map_err(refused)
                });
                Ok(Self { fabrics: fabrics.collect::<Result<_, _>>()?, are_wanted: true })
            }
        }
    }

    /// One fabric for all shards, if any.
    pub(crate) fn of(fabric: Option<AnyFabric>) -> Self {
        Self { fabrics: fabric.into_iter().collect(), are_wanted: true }
    }

    /// The card of each shard: one of those next to its core, else of all, by turns.
    pub(crate) fn of_shards(&self, config: &Config) -> Vec<Option<OpenCard>> {
        let cards: Vec<_> = self.fabrics.iter().map(AnyFabric::numa_node).collect();
        let numa_node = |shard| {
            let core = config.cores.get(usize::from(shard))?;
            numa_node_of(Path::new("/sys/devices/system/cpu"), *core)
        };
        let shards: Vec<_> = (0..config.shards).map(numa_node).collect();
        let chosen = (1..=shards.len()).map(|count| choose(&cards, &shards[..count]));
        let card =
            |at: usize| OpenCard { fabric: self.fabrics[at].clone(), is_wanted: self.are_wanted };
        chosen.map(|at| at.map(card)).collect()
    }
}

/// The first card that has an active port.
fn first() -> Option<AnyFabric> {
    if !AnyFabric::KNOWS_CARDS {
        return None;
    }
    match AnyFabric::open(None) {
        Ok(fabric) => {
            tracing::info!(device = fabric.device(), "a network card reaches clients' memory");
            Some(fabric)
        }
        Err(error) => {
            tracing::info!(%error, "no network card is used");
            None
        }
    }
}

/// The place of the card of the last of these shards, which are those up to it, by their nodes.
fn choose(cards: &[Option<u32>], shards: &[Option<u32>]) -> Option<usize> {
    let (own, before) = shards.split_last()?;
    let near: Vec<_> = (0..cards.len()).filter(|&at| own.is_some() && cards[at] == *own).collect();
    let near = if near.is_empty() { (0..cards.len()).collect() } else { near };
    // By turns among those who have the same choice.
    let turn = before.iter().filter(|node| *node == own).count();
    near.get(turn % near.len().max(1)).copied()
}

/// The memory that a core is next to, by its folder, which has a link `nodeM`.
fn numa_node_of(cores: &Path, core: usize) -> Option<u32> {
    let entries = std::fs::read_dir(cores.join(format!("cpu{core}"))).ok()?;
    let mut names = entries.flatten().map(|entry| entry.file_name());
    names.find_map(|name| name.to_str()?.strip_prefix("node")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_take_cards_next_to_them_and_else_by_turns() {
        let chosen = |cards: &[Option<u32>], shards: &[Option<u32>]| {
            (1..=shards.len()).map(|count| choose(cards, &shards[..count])).collect::<Vec<_>>()
        };
        let two = [Some(0), Some(1)];
        assert_eq!(chosen(&two, &[Some(0), Some(1), Some(1)]), [Some(0), Some(1), Some(1)]);
        assert_eq!(chosen(&two, &[None, None, None]), [Some(0), Some(1), Some(0)]);
        assert_eq!(chosen(&two, &[Some(7), Some(0), Some(7)]), [Some(0), Some(0), Some(1)]);
        let three = [Some(1), Some(0), Some(1)];
        assert_eq!(chosen(&three, &[Some(1), Some(0), Some(1)]), [Some(0), Some(1), Some(2)]);
        assert_eq!(chosen(&[None], &[Some(3)]), [Some(0)]);
        assert_eq!(chosen(&[], &[Some(3), None]), [None, None]);
    }

    #[test]
    fn core_says_which_memory_it_is_next_to() {
        let cores = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(cores.path().join("cpu3/node1")).unwrap();
        std::fs::create_dir_all(cores.path().join("cpu4/cache")).unwrap();
        let node = |core| numa_node_of(cores.path(), core);
        assert_eq!((node(3), node(4), node(5)), (Some(1), None, None));
    }
}
