//! What the texts of flags and file mean, and what holds where nothing was given.
//!
//! Each value is understood alone here, and must only be of its type; whether values fit each other
//! and their limits is asked in `check.rs`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::thread::available_parallelism;

use larder_protocol::limits::SHARDS_MAX;
use larder_transport::HugePages;

use super::budgets::{BUDGETS_FORM, budgets};
use super::cards::{RDMA_FORM, rdma_devices};
use super::check::{SHARD_MEMORY_BYTES_MIN, refused};
use super::cores::{cores_for, spare_cores_for};
use super::flags::Flags;
use super::given::Given;
use super::peers::{HOST_FORM, NAME_FORM, PEERS_FORM, is_host, is_name, parse_peers};
use super::sharing::{SPIN_FORM, UDS_FORM, UIDS_FORM, parse_spin, socket_path, uids};
use super::units::{DURATION_FORM, SIZE_FORM, parse_bytes, parse_duration};
use super::whose::{self, WHOSE_FORM};
use super::{Config, ConfigError};
use crate::store::Policy;

impl Flags {
    /// The values that these mean, not yet checked.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first one that means nothing.
    pub(super) fn config(self) -> Result<Config, ConfigError> {
        let mut c = Config {
            listen: LISTEN_DEFAULT,
            admin: Some(ADMIN_DEFAULT),
            signals: true,
            ..Config::default()
        };
        let some_bytes = |text: &str| parse_bytes(text).map(Some);
        set(&mut c.listen, "listen", self.listen, "an address such as 127.0.0.1:7400", number)?;
        set(&mut c.advertise, "advertise", self.advertise, HOST_FORM, host)?;
        set(&mut c.memory_bytes, "memory", self.memory, SIZE_FORM, parse_bytes)?;
        c.shards = shards_default(c.memory_bytes);
        set(&mut c.shards, "shards", self.shards, "1 to 256", number)?;
        set(
            &mut c.admin,
            "admin",
            self.admin,
            "an address such as 127.0.0.1:7480, or off",
            |text| unless_off(text, number),
        )?;
        set(&mut c.node_name, "node-name", self.node_name, NAME_FORM, name)?;
        set(&mut c.weight, "weight", self.weight, COUNT_FORM, number)?;
        set(&mut c.peers, "peers", self.peers, PEERS_FORM, parse_peers)?;
        c.cores = spare_cores_for(c.shards);
        set(&mut c.cores, "pin-cores", self.pin_cores, PINNING_FORM, |text| match text {
            "auto" => Some(spare_cores_for(c.shards)),
            "on" => cores_for(c.shards.into()),
            "off" => Some(Vec::new()),
            _ => None,
        })?;
        set(&mut c.huge_pages, "huge-pages", self.huge_pages, "try or off", huge_pages)?;
        set(&mut c.policy, "policy", self.policy, POLICY_FORM, policy)?;
        let (given, whose) = (self.cost_weighted, &mut c.cost_weighted);
        set(whose, "cost-weighted", given, WHOSE_FORM, whose::list)?;
        set(&mut c.budgets, "budgets", self.budgets, BUDGETS_FORM, budgets)?;
        let (given, max) = (self.objects_max, &mut c.objects_max);
        set(max, "objects-max", given, COUNT_FORM, |text| number(text).map(Some))?;
        let (given, max) = (self.connections_max, &mut c.connections_max);
        set(max, "connections-max", given, COUNT_FORM, number)?;
        let (given, max) = (self.inflight_bytes_max, &mut c.inflight_bytes_max);
        set(max, "inflight-bytes-max", given, SIZE_FORM, some_bytes)?;
        let (given, max) = (self.reply_bytes_max, &mut c.reply_bytes_max);
        set(max, "reply-bytes-max", given, SIZE_FORM, some_bytes)?;
        set(&mut c.uds, "uds", self.uds, UDS_FORM, |text| unless_off(text, socket_path))?;
        set(&mut c.uds_allow, "uds-allow", self.uds_allow, UIDS_FORM, uids)?;
        let (given, max) = (self.lease_bytes_max, &mut c.lease_bytes_max);
        set(max, "lease-bytes-max", given, SIZE_FORM, some_bytes)?;
        let (given, max) = (self.pinned_bytes_max, &mut c.pinned_bytes_max);
        set(max, "pinned-bytes-max", given, SIZE_FORM, some_bytes)?;
        let (given, devices) = (self.rdma_device, &mut c.rdma_devices);
        set(devices, "rdma-device", given, RDMA_FORM, rdma_devices)?;
        set(&mut c.spin, "spin", self.spin, SPIN_FORM, parse_spin)?;
        for (time, flag, given) in [
            (&mut c.header_timeout, "header-timeout", self.header_timeout),
            (&mut c.progress_timeout, "progress-timeout", self.progress_timeout),
            (&mut c.hello_timeout, "hello-timeout", self.hello_timeout),
            (&mut c.drain_timeout, "drain-timeout", self.drain_timeout),
        ] {
            set(time, flag, given, DURATION_FORM, parse_duration)?;
        }
        let (given, idle) = (self.connection_idle_timeout, &mut c.connection_idle_timeout);
        set(idle, "connection-idle-timeout", given, "a duration such as 90s, or off", |text| {
            unless_off(text, parse_duration)
        })?;
        set(&mut c.log, "log", self.log, "a filter", |text| Some(text.to_owned()))?;
        let (given, open) = (self.insecure_listen_anywhere, &mut c.insecure_listen_anywhere);
        set(open, "insecure-listen-anywhere", given, "true or false", number)?;
        Ok(c)
    }
}

fn set<T>(
    value: &mut T,
    flag: &'static str,
    given: Option<Given>,
    form: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<(), ConfigError> {
    if let Some(given) = given {
        *value = parse(&given.0).ok_or_else(|| refused(flag, &given.0, form))?;
    }
    Ok(())
}

/// Anything whose grammar is the standard library's.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn unless_off<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "off" { Some(None) } else { parse(text).map(Some) }
}

fn host(text: &str) -> Option<Option<String>> {
    is_host(text).then(|| Some(text.to_owned()))
}

fn name(text: &str) -> Option<Option<String>> {
    is_name(text).then(|| Some(text.to_owned()))
}

fn huge_pages(text: &str) -> Option<HugePages> {
    match text {
        "try" => Some(HugePages::Try),
        "off" => Some(HugePages::No),
        _ => None,
    }
}

fn policy(text: &str) -> Option<Policy> {
    match text {
        "hazard" => Some(Policy::HAZARD),
        "hazard-cost" => Some(Policy::HAZARD_BY_COST),
        "lru" => Some(Policy::Lru),
        "s3fifo" => Some(Policy::S3Fifo),
        _ => None,
    }
}

/// A shard for each core that this process may use, as far as memory suffices.
fn shards_default(memory_bytes: u64) -> u16 {
    let cores = available_parallelism().map_or(1, NonZero::get) as u64;
    let most = cores.min(memory_bytes / SHARD_MEMORY_BYTES_MIN);
    u16::try_from(most).unwrap_or(SHARDS_MAX).clamp(1, SHARDS_MAX)
}

const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7400);
const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7480);
const COUNT_FORM: &str = "a whole number";
const POLICY_FORM: &str = "hazard, hazard-cost, lru or s3fifo";
const PINNING_FORM: &str = "auto, on (with a core for each shard), or off";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_refused_with_flag_value_and_expectation() {
        for (flag, value, expected) in [
            ("listen", "localhost:7400", "127.0.0.1:7400"),
            ("listen", "127.0.0.1", "127.0.0.1:7400"),
            ("listen", "127.0.0.1:0", "not 0"),
            ("listen", "127.0.0.1:99999", "127.0.0.1:7400"),
            ("listen", "0.0.0.0:7400", "--insecure-listen-anywhere"),
            ("advertise", "host:7400", "without a port"),
            ("shards", "0", "1 to 256"),
            ("shards", "two", "1 to 256"),
            ("shards", "-1", "1 to 256"),
            ("memory", "4GB", "KiB, MiB, GiB, TiB"),
            ("memory", "4", "KiB, MiB, GiB, TiB"),
            ("memory", "1MiB", "16MiB"),
            ("admin", "7480", "127.0.0.1:7480, or off"),
            ("admin", "127.0.0.1:7400", "not a shard's"),
            ("node-name", "a b", "letters"),
            ("weight", "many", "whole number"),
            ("peers", "a@h:1", "name@host:port/shards"),
            ("pin-cores", "yes", "auto, on"),
            ("huge-pages", "always", "try or off"),
            ("policy", "lfu", "hazard-cost"),
            ("cost-weighted", "acme,,b", "tenant[/model]"),
            ("budgets", "acme=4GiB", "floor..ceiling"),
            ("objects-max", "1M", "whole number"),
            ("connections-max", "0", "1 to 65536"),
            ("reply-bytes-max", "1TiB", "a shard's memory"),
            ("uds", "", "a path"),
            ("uds-allow", "root", "1000,1001"),
            ("lease-bytes-max", "2TiB", "a shard's memory"),
            ("pinned-bytes-max", "2TiB", "a quarter of a shard's memory"),
            ("rdma-device", "mlx5_0,", "auto, or off"),
            ("spin", "1h", "50us"),
            ("spin", "1001ms", "50us"),
            ("hello-timeout", "5", "ms, s, m"),
            ("hello-timeout", "2ms", "10ms to 60m"),
            ("connection-idle-timeout", "never", "or off"),
            ("log", "larder_node=loudest", "tracing filter"),
            ("insecure-listen-anywhere", "yes", "true or false"),
        ] {
            let args = ["larder-node".to_owned(), format!("--{flag}={value}")];
            let message = Config::from_args(args).unwrap_err().to_string();
            assert!(message.starts_with(&format!("--{flag} ")), "{message}");
            assert!(message.contains(value) && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn shards_follow_cores_as_far_as_memory_suffices() {
        assert_eq!(shards_default(0), 1);
        assert_eq!(shards_default(SHARD_MEMORY_BYTES_MIN), 1);
        let cores = available_parallelism().map_or(1, NonZero::get);
        assert_eq!(usize::from(shards_default(u64::MAX)), cores.min(SHARDS_MAX.into()));
    }
}
