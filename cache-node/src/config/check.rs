//! The limits of every value of a configuration, and how values relate.
//!
//! Embedded nodes are checked like others: only what a command line cannot mean (port 0) is
//! refused elsewhere, in `flags.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use larder_protocol::limits::SHARDS_MAX;
use larder_transport::region::REGION_BYTES_MAX;
use tracing_subscriber::EnvFilter;

use super::{Config, ConfigError, format_bytes, peers, units};

impl Config {
    /// Checks every value against its limits and against the others.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first one that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_addresses()?;
        self.check_names()?;
        self.check_room()?;
        self.check_cost_weighted()?;
        self.check_budgets()?;
        self.check_times()?;
        self.check_sharing()?;
        self.check_cards()?;
        self.view(0)?;
        if EnvFilter::try_new(&self.log).is_err() {
            return Err(refused(
                "log",
                &self.log,
                "a tracing filter such as info or warn,larder_node=debug",
            ));
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        within("shards", self.shards, 1, SHARDS_MAX)?;
        if !self.cores.is_empty() && self.cores.len() != usize::from(self.shards) {
            let expected = format!("{} cores or none", self.shards);
            return Err(refused("pin-cores", format!("{:?}", self.cores), expected));
        }
        let ports = self.listen.port()..=self.listen.port().saturating_add(self.shards - 1);
        if self.listen.port() > u16::MAX - (self.shards - 1) {
            let expected = format!("a port that leaves room for {} shards", self.shards);
            return Err(refused("listen", self.listen, expected));
        }
        let is_shard_port = |admin: SocketAddr| admin.port() != 0 && ports.contains(&admin.port());
        if let Some(admin) = self.admin.filter(|admin| is_shard_port(*admin)) {
            let expected = format!("a port that is not a shard's ({ports:?})");
            return Err(refused("admin", admin, expected));
        }
        for (flag, address) in [("listen", Some(self.listen)), ("admin", self.admin)] {
            let open = address.filter(|a| !a.ip().to_canonical().is_loopback());
            if let Some(address) = open.filter(|_| !self.insecure_listen_anywhere) {
                let expected = "a loopback address, because nobody is asked for credentials; \
                    --insecure-listen-anywhere allows others";
                return Err(refused(flag, address, expected));
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), ConfigError> {
        match &self.advertise {
            None if self.listen.ip().is_unspecified() => {
                let expected = "an address that others can use, or --advertise HOST beside it";
                return Err(refused("listen", self.listen, expected));
            }
            Some(host) if !peers::is_host(host) => {
                return Err(refused("advertise", host, peers::HOST_FORM));
            }
            _ => {}
        }
        let name = self.node_name();
        if !peers::is_name(&name) {
            return Err(refused("node-name", name, peers::NAME_FORM));
        }
        self.peers
            .iter()
            .map(|peer| peer.weight)
            .try_for_each(|w| within("peers", w, 1, WEIGHT_MAX))?;
        within("weight", self.weight, 1, WEIGHT_MAX)
    }

    fn check_room(&self) -> Result<(), ConfigError> {
        let (shards, shard_memory) = (u64::from(self.shards), self.shard_memory_bytes());
        let most = MEMORY_BYTES_MAX.min(REGION_BYTES_MAX * shards);
        if shard_memory < SHARD_MEMORY_BYTES_MIN || self.memory_bytes > most {
            let least = format_bytes(SHARD_MEMORY_BYTES_MIN * shards);
            let expected = format!("{least} to {} for {shards} shards", format_bytes(most));
            return Err(refused("memory", format_bytes(self.memory_bytes), expected));
        }
        within("objects-max", self.objects_max(), OBJECTS_MAX_MIN, OBJECTS_MAX_MAX)?;
        within("connections-max", self.connections_max, 1, CONNECTIONS_MAX_MAX)?;
        for (flag, bytes) in [
            ("inflight-bytes-max", self.inflight_bytes_max()),
            ("reply-bytes-max", self.reply_bytes_max()),
            ("lease-bytes-max", self.lease_bytes_max()),
        ] {
            if !(IN_WORK_BYTES_MIN..=shard_memory).contains(&bytes) {
                let (least, most) = (format_bytes(IN_WORK_BYTES_MIN), format_bytes(shard_memory));
                let expected = format!("{least} to a shard's memory, {most}");
                return Err(refused(flag, format_bytes(bytes), expected));
            }
        }
        let (pinned, most) = (self.pinned_bytes_max(), shard_memory / 4);
        if pinned > most {
            let expected = format!("at most a quarter of a shard's memory, {}", format_bytes(most));
            return Err(refused("pinned-bytes-max", format_bytes(pinned), expected));
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let times = [
            ("header-timeout", Some(self.header_timeout)),
            ("progress-timeout", Some(self.progress_timeout)),
            ("hello-timeout", Some(self.hello_timeout)),
            ("drain-timeout", Some(self.drain_timeout)),
            ("connection-idle-timeout", self.connection_idle_timeout),
        ];
        for (flag, time) in times {
            if let Some(time) = time.filter(|time| !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(time)) {
                let (least, most) = (TIMEOUT_MIN, TIMEOUT_MAX);
                let expected = format!(
                    "{} to {}",
                    units::format_duration(least),
                    units::format_duration(most)
                );
                return Err(refused(flag, units::format_duration(time), expected));
            }
        }
        Ok(())
    }
}

/// An error that names the flag, what was given and what is expected.
pub(crate) fn refused(
    flag: &'static str,
    given: impl ToString,
    expected: impl Into<String>,
) -> ConfigError {
    ConfigError::Value { flag, given: given.to_string(), expected: expected.into() }
}

fn within<T>(flag: &'static str, value: T, min: T, max: T) -> Result<(), ConfigError>
where
    T: PartialOrd + std::fmt::Display,
{
    if min <= value && value <= max {
        return Ok(());
    }
    Err(refused(flag, value, format!("{min} to {max}")))
}

/// A shard needs room for classes of several sizes; guessed.
pub(crate) const SHARD_MEMORY_BYTES_MIN: u64 = 16 << 20;
/// More than a machine has: a slip of the unit is refused before memory is asked for.
const MEMORY_BYTES_MAX: u64 = 64 << 40;
pub(crate) const OBJECTS_MAX_MIN: u64 = 1 << 10;
pub(crate) const OBJECTS_MAX_MAX: u64 = 1 << 28;
const CONNECTIONS_MAX_MAX: usize = 1 << 16;
const WEIGHT_MAX: u32 = 10_000;
/// Less would refuse objects of the most common sizes.
const IN_WORK_BYTES_MIN: u64 = 1 << 20;
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

const _: () = assert!(IN_WORK_BYTES_MIN <= SHARD_MEMORY_BYTES_MIN / 8);

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config { listen: "127.0.0.1:7400".parse().unwrap(), ..Config::default() };
        change(&mut config);
        config
    }

    /// The flag that the first refusal names.
    fn refusal(change: impl FnOnce(&mut Config)) -> &'static str {
        match config(change).check() {
            Err(ConfigError::Value { flag, .. }) => flag,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_out_of_their_limits_are_refused_by_flag() {
        let address = |text: &str| text.parse().unwrap();
        assert_eq!(refusal(|c| c.shards = 0), "shards");
        assert_eq!(refusal(|c| c.shards = 257), "shards");
        assert_eq!(refusal(|c| (c.listen, c.shards) = (address("127.0.0.1:65535"), 2)), "listen");
        assert_eq!(
            refusal(|c| (c.admin, c.shards) = (Some(address("127.0.0.1:7401")), 2)),
            "admin"
        );
        assert_eq!(refusal(|c| c.memory_bytes = (16 << 20) - 1), "memory");
        assert_eq!(refusal(|c| (c.memory_bytes, c.shards) = (65 << 40, 256)), "memory");
        assert_eq!(refusal(|c| c.memory_bytes = REGION_BYTES_MAX + 1), "memory");
        assert_eq!(refusal(|c| (c.memory_bytes, c.shards) = (31 << 20, 2)), "memory");
        assert_eq!(refusal(|c| c.cores = vec![0, 1]), "pin-cores");
        assert_eq!(refusal(|c| c.weight = 0), "weight");
        assert_eq!(refusal(|c| c.objects_max = Some(0)), "objects-max");
        assert_eq!(refusal(|c| c.connections_max = 0), "connections-max");
        assert_eq!(refusal(|c| c.inflight_bytes_max = Some(1)), "inflight-bytes-max");
        assert_eq!(refusal(|c| c.reply_bytes_max = Some((1 << 30) + 1)), "reply-bytes-max");
        assert_eq!(refusal(|c| c.hello_timeout = Duration::ZERO), "hello-timeout");
        let idle = Some(Duration::from_secs(3601));
        assert_eq!(refusal(|c| c.connection_idle_timeout = idle), "connection-idle-timeout");
        assert_eq!(refusal(|c| c.node_name = Some("two words".into())), "node-name");
        assert_eq!(refusal(|c| c.advertise = Some("host:1 ".into())), "advertise");
        assert_eq!(refusal(|c| c.log = "larder_node=loudest".into()), "log");
    }

    #[test]
    fn an_open_address_needs_the_insecure_flag_and_a_host_that_others_can_use() {
        let address = |text: &str| text.parse().unwrap();
        let error = config(|c| c.listen = address("10.0.0.1:7400")).check().unwrap_err();
        assert!(error.to_string().contains("--insecure-listen-anywhere"), "{error}");
        assert_eq!(refusal(|c| c.admin = Some(address("[::]:7480"))), "admin");
        config(|c| c.listen = address("[::1]:7400")).check().unwrap();
        let open = |c: &mut Config| {
            (c.listen, c.insecure_listen_anywhere) = (address("0.0.0.0:7400"), true);
        };
        assert_eq!(refusal(open), "listen");
        let named = config(|c| {
            open(c);
            c.advertise = Some("node-1".into());
        });
        named.check().unwrap();
        assert_eq!(named.node_name(), "node-1:7400");
    }

    #[test]
    fn peers_have_names_and_ports_of_their_own() {
        let peers = |text| peers::parse_peers(text).unwrap();
        assert_eq!(refusal(|c| c.peers = peers("a@h:1/1,a@h:2/1")), "peers");
        assert_eq!(refusal(|c| c.peers = peers("127.0.0.1:7400@h:1/1")), "peers");
        assert_eq!(refusal(|c| c.peers = peers("a@h:65535/2")), "peers");
        assert_eq!(refusal(|c| c.peers = peers("a@h:1/1*10001")), "peers");
    }
}
