//! Free consecutive ports for an embedded node: shard *i* listens on the first one plus *i*.
//!
//! The ports are free when found, not reserved: bind them soon, and expect that it can fail.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, TcpListener};

/// The first of `count` consecutive ports that nobody listens on at `ip`.
///
/// They come from below the range that Linux gives to outgoing connections (32768 and up by
/// default), so that no client's own end can sit on one of them. The search starts at a random
/// port: processes that search at once seldom meet.
///
/// # Errors
/// `AddrInUse` if no such range was found, `InvalidInput` if `count` is 0 or more than a node may
/// have shards, or the error of a bind that failed for another reason than a taken port.
pub fn free_port_range(ip: IpAddr, count: u16) -> io::Result<u16> {
    if count == 0 || count > larder_protocol::limits::SHARDS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{count} ports")));
    }
    let seeds = RandomState::new();
    for attempt in 0..ATTEMPTS_MAX {
        let offset = seeds.hash_one(attempt) % u64::from(PORT_MAX - PORT_MIN - count);
        let first = PORT_MIN + offset as u16;
        match bind_all(ip, first, count) {
            Ok(()) => return Ok(first),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    let message = format!("no {count} consecutive free ports at {ip}");
    Err(io::Error::new(io::ErrorKind::AddrInUse, message))
}

/// Listens on all of them at once, so that the range is free at one moment.
fn bind_all(ip: IpAddr, first: u16, count: u16) -> io::Result<()> {
    let listeners: io::Result<Vec<_>> =
        (first..first + count).map(|port| TcpListener::bind((ip, port))).collect();
    listeners.map(drop)
}

const PORT_MIN: u16 = 10_000;
const PORT_MAX: u16 = 32_000;
const ATTEMPTS_MAX: u32 = 256;

const _: () = assert!(PORT_MIN + larder_protocol::limits::SHARDS_MAX < PORT_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_range_found_can_be_bound() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let first = free_port_range(ip, 8).unwrap();
        assert!((PORT_MIN..PORT_MAX).contains(&first));
        bind_all(ip, first, 8).unwrap();
    }

    #[test]
    fn a_taken_port_takes_its_range() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let taken = TcpListener::bind((ip, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = bind_all(ip, port - 1, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn impossible_counts_and_foreign_addresses_are_errors() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(free_port_range(ip, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(free_port_range(ip, 257).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let foreign = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let error = free_port_range(foreign, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
