//! Which network cards a node uses.
//!
//! What a reader would get wrong: whether a card is there is found out at the start, not here. Here
//! it is only refused to name one where no card could be used.

use larder_transport::rdma::AnyFabric;

use super::check::refused;
use super::{Config, ConfigError};

/// Network cards that may reach the memory of clients.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RdmaDevices {
    /// The first that has an active port, if this build knows cards and there is one.
    #[default]
    Auto,
    /// None.
    Off,
    /// These. Shards take those next to their core, else by turns.
    Named(Vec<String>),
}

/// What a list of cards looks like, for messages.
pub(super) const RDMA_FORM: &str = "names of devices with commas between, or auto, or off";

/// Reads which cards are meant.
pub(super) fn rdma_devices(text: &str) -> Option<RdmaDevices> {
    match text {
        "auto" => Some(RdmaDevices::Auto),
        "off" => Some(RdmaDevices::Off),
        _ => {
            let names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
            let is_name = |name: &String| !name.is_empty() && !name.contains(['/', '\0', ' ']);
            names.iter().all(is_name).then_some(RdmaDevices::Named(names))
        }
    }
}

impl Config {
    pub(super) fn check_cards(&self) -> Result<(), ConfigError> {
        let RdmaDevices::Named(names) = &self.rdma_devices else { return Ok(()) };
        let given = || names.join(",");
        if !AnyFabric::KNOWS_CARDS {
            let expected = "auto or off, because this build knows no cards; \
                cargo build --features rdma makes one that does";
            return Err(refused("rdma-device", given(), expected));
        }
        let mut sorted: Vec<_> = names.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.is_empty() || sorted.len() < names.len() {
            return Err(refused("rdma-device", given(), "each device once"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        let named = |names: &[&str]| {
            Some(RdmaDevices::Named(names.iter().map(|&name| name.to_owned()).collect()))
        };
        assert_eq!(rdma_devices("auto"), Some(RdmaDevices::Auto));
        assert_eq!(rdma_devices("off"), Some(RdmaDevices::Off));
        assert_eq!(rdma_devices("mlx5_0, mlx5_1"), named(&["mlx5_0", "mlx5_1"]));
        for bad in ["", "a,", "../x", "a b"] {
            assert_eq!(rdma_devices(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn cards_are_named_only_where_they_can_be_used_and_once() {
        let refusal = |names: &[&str]| {
            let names = names.iter().map(|&name| name.to_owned()).collect();
            let config = Config {
                listen: "127.0.0.1:7400".parse().unwrap(),
                rdma_devices: RdmaDevices::Named(names),
                ..Config::default()
            };
            config.check().err().map(|error| error.to_string())
        };
        if AnyFabric::KNOWS_CARDS {
            assert_eq!(refusal(&["a", "b"]), None);
            assert!(refusal(&["a", "a"]).unwrap().contains("once"));
        } else {
            let text = refusal(&["a", "b"]).unwrap();
            assert!(text.starts_with("--rdma-device \"a,b\""), "{text}");
            assert!(text.contains("--features rdma"), "{text}");
        }
    }
}
