//! Which cards there are, as the kernel lists them, and by which address a port is reached.
//!
//! What a reader would get wrong: a port has several addresses (GIDs), one for each of its
//! interface's and each version of the protocol, and only peers that use the same version hear each
//! other.

use std::fmt;
use std::fs;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use crate::rdma::fabric::FabricError;
use crate::rdma::verbs::device::{Device, Port};

/// A card that has a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceReport {
    /// What it is opened by.
    pub name: String,
    /// The memory it is next to, where there are several.
    pub numa_node: Option<u32>,
    /// In the order of their numbers.
    pub ports: Vec<PortReport>,
}

/// A port of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortReport {
    /// From 1.
    pub number: u8,
    /// As the kernel calls it: `ACTIVE`, `DOWN`, `INIT`, …
    pub state: String,
    /// `Ethernet` or `InfiniBand`.
    pub link: String,
}

/// All cards that have a driver, opened or not.
///
/// # Errors
/// [`FabricError`] if this host has no verbs.
pub fn devices() -> Result<Vec<DeviceReport>, FabricError> {
    Ok(Device::names()?.into_iter().map(DeviceReport::new).collect())
}

/// The number and the GID of the address that a port is best reached by.
pub(super) fn best_gid(device: &Device, port: &Port) -> Result<(u8, [u8; 16]), FabricError> {
    let kinds = folder(device.name()).join(format!("ports/{}/gid_attrs/types", port.number));
    let mut best = (0, 0, [0; 16]);
    // Routes name an address by 8 bits.
    for index in 0..port.gid_count.min(256) {
        // Some drivers refuse those that are not set.
        let Ok(gid) = device.gid(port.number, index) else { continue };
        let kind = text(&kinds.join(index.to_string()));
        let worth = worth(&gid, kind.as_deref());
        // The first of equals.
        if worth > best.0 {
            best = (worth, index as u8, gid);
        }
    }
    let (worth, index, gid) = best;
    if worth == 0 && port.lid == 0 {
        let why = format!("port {} of {} has no address", port.number, device.name());
        return Err(FabricError::new("ibv_query_gid", Error::new(ErrorKind::NotFound, why)));
    }
    Ok((index, gid))
}

/// The memory that a card is next to, where there are several: the kernel says -1 where not.
pub(super) fn numa_node_of(device: &str) -> Option<u32> {
    text(&folder(device).join("device/numa_node"))?.parse().ok()
}

impl DeviceReport {
    fn new(name: String) -> Self {
        let folder = folder(&name);
        let numa_node = numa_node_of(&name);
        let numbers = fs::read_dir(folder.join("ports")).into_iter().flatten().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut ports: Vec<_> = numbers.map(|number| PortReport::new(&folder, number)).collect();
        ports.sort_by_key(|port| port.number);
        Self { name, numa_node, ports }
    }
}

impl PortReport {
    fn new(device: &Path, number: u8) -> Self {
        let folder = device.join("ports").join(number.to_string());
        let read = |file| text(&folder.join(file)).unwrap_or_else(|| "unknown".to_owned());
        let state = read("state");
        // `4: ACTIVE`
        let state = state.split_once(": ").map_or(&*state, |(_, name)| name).to_owned();
        Self { number, state, link: read("link_layer") }
    }
}

impl fmt::Display for DeviceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for PortReport { number, state, link } in &self.ports {
            write!(f, ", port {number} ({link}) {state}")?;
        }
        if let Some(node) = self.numa_node {
            write!(f, ", NUMA node {node}")?;
        }
        Ok(())
    }
}

/// How good an address is: 0 for none.
fn worth(gid: &[u8; 16], kind: Option<&str>) -> u8 {
    let worth = match gid {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => return 0,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..] => 3,
        [0xfe, 0x80, ..] => 1,
        _ => 2,
    };
    // The first version cannot be routed, and is not what networks are set up for.
    let is_second = kind.is_none_or(|kind| kind == "RoCE v2");
    worth + if is_second { 3 } else { 0 }
}

fn folder(device: &str) -> PathBuf {
    Path::new("/sys/class/infiniband").join(device)
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn an_address_that_can_be_routed_is_worth_more() {
        let v4 = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        let v6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let local: Ipv6Addr = "fe80::1".parse().unwrap();
        let (first, second) = (Some("IB/RoCE v1"), Some("RoCE v2"));
        let ranked = [
            (Ipv6Addr::UNSPECIFIED, second),
            (local, first),
            (v6, first),
            (v4, first),
            (local, second),
            (v6, second),
            (v4, second),
        ];
        let worths = ranked.map(|(address, kind)| worth(&address.octets(), kind));
        assert!(worths.is_sorted_by(|a, b| a < b), "{worths:?}");
        assert_eq!(worth(&v4.octets(), None), worth(&v4.octets(), second));
    }
}
