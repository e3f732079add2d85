//! What clients on this host need: the path of a Unix socket, who may connect, how long to spin.
//!
//! A relative path is made absolute here, once: clients are told the path, and they have working
//! directories of their own.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use larder_protocol::limits::SOCKET_PATH_BYTES_MAX;
use larder_protocol::message::SocketPath;
use larder_transport::Spin;

use super::check::refused;
use super::{Config, ConfigError};

/// What the path of a Unix socket looks like, for messages.
pub(super) const UDS_FORM: &str = "a path such as /run/larder/node.sock, or off";
/// What a list of users looks like, for messages.
pub(super) const UIDS_FORM: &str = "ids of users with commas between, such as 1000,1001";
/// What a time to spin looks like, for messages.
pub(super) const SPIN_FORM: &str = "a duration of 1us to 1000ms such as 50us, or off, or auto";

/// Reads a path, and makes it absolute.
pub(super) fn socket_path(text: &str) -> Option<PathBuf> {
    std::path::absolute(text).ok()
}

/// Reads a list of user ids.
pub(super) fn uids(text: &str) -> Option<Vec<u32>> {
    text.split(',').map(|uid| uid.trim().parse().ok()).collect()
}

/// Reads a time to spin. Timeouts have no microseconds, but this one is of that kind.
pub(super) fn parse_spin(text: &str) -> Option<Spin> {
    let us = match text {
        "off" => return Some(Spin::Off),
        "auto" => return Some(Spin::Auto),
        _ => match text.strip_suffix("us") {
            Some(us) => us.parse::<u64>().ok()?,
            None => text.strip_suffix("ms")?.parse::<u64>().ok()?.checked_mul(1000)?,
        },
    };
    (1..=SPIN_US_MAX).contains(&us).then_some(Spin::For(Duration::from_micros(us)))
}

impl Config {
    pub(super) fn check_sharing(&self) -> Result<(), ConfigError> {
        let Some(path) = &self.uds else { return Ok(()) };
        let bytes = path.as_os_str().as_bytes();
        let is_plain = path.is_absolute() && path.file_name().is_some() && !bytes.ends_with(b"/");
        if !is_plain || self.socket_path().is_none() {
            let expected =
                format!("an absolute path of a file, at most {SOCKET_PATH_BYTES_MAX} bytes long");
            return Err(refused("uds", path.display(), expected));
        }
        Ok(())
    }

    /// The path of the Unix socket as clients are told it, `None` if it is too long.
    pub(crate) fn socket_path(&self) -> Option<SocketPath> {
        let Some(path) = &self.uds else { return Some(SocketPath::NONE) };
        SocketPath::new(path.as_os_str().as_bytes())
    }

    /// Where a shard listens for clients on this host.
    pub(crate) fn shard_socket(&self, shard: u16) -> Option<PathBuf> {
        Some(SocketPath::of_shard(self.uds.clone()?, shard))
    }
}

const SPIN_US_MAX: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &str) -> Option<String> {
        let config = Config {
            listen: "127.0.0.1:7400".parse().unwrap(),
            uds: Some(path.into()),
            ..Config::default()
        };
        config.check().err().map(|error| error.to_string())
    }

    #[test]
    fn paths_are_absolute_and_short_and_each_shard_has_its_own() {
        assert_eq!(socket_path("/a/b"), Some("/a/b".into()));
        assert!(socket_path("b").unwrap().is_absolute());
        assert_eq!(socket_path(""), None);
        let long = format!("/{}", "p".repeat(100));
        for bad in ["b", "/", "/a/", "/a/..", &long] {
            assert!(refusal(bad).unwrap().starts_with("--uds "), "{bad}");
        }
        assert_eq!(refusal(&long[..100]), None);
        let config = Config { uds: Some("/a/b.c".into()), ..Config::default() };
        assert_eq!(config.shard_socket(0), Some("/a/b.c".into()));
        assert_eq!(config.shard_socket(12), Some("/a/b.c.12".into()));
        assert_eq!(Config::default().shard_socket(0), None);
    }

    #[test]
    fn users_and_spins_are_read_as_they_are_written() {
        assert_eq!(uids("0, 12"), Some(vec![0, 12]));
        for bad in ["", "a", "1,", "-1", "4294967296"] {
            assert_eq!(uids(bad), None, "{bad:?}");
        }
        assert_eq!(parse_spin("50us"), Some(Spin::For(Duration::from_micros(50))));
        assert_eq!(parse_spin("2ms"), Some(Spin::For(Duration::from_millis(2))));
        assert_eq!((parse_spin("off"), parse_spin("auto")), (Some(Spin::Off), Some(Spin::Auto)));
        for bad in ["", "us", "0us", "5", "1s", "1000001us", "on"] {
            assert_eq!(parse_spin(bad), None, "{bad:?}");
        }
    }
}
