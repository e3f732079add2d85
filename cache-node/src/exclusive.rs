//! A claim on an address, so that two nodes never share a port.
//!
//! The runtime sets SO_REUSEPORT on every listener: a second process of the same user would bind
//! happily and get half of the connections. Two checks close that: an abstract Unix socket named
//! after the port, gone with its process, and a plain bind that meets whoever listens already.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

/// Holds an address for this process while it lives.
#[derive(Debug)]
pub(crate) struct Claim {
    _name: UnixListener,
}

impl Claim {
    /// Claims `address` or says who is in the way.
    pub(crate) fn take(address: SocketAddr) -> io::Result<Self> {
        let name = UnixAddr::from_abstract_name(format!("larder-node-{address}"))?;
        let name = UnixListener::bind_addr(&name).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                io::Error::new(error.kind(), "another larder-node serves there")
            }
            _ => error,
        })?;
        let probe = TcpListener::bind(address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                io::Error::new(error.kind(), "the port is taken by another process")
            }
            _ => error,
        })?;
        drop(probe);
        Ok(Self { _name: name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_claimed_once_and_free_again_afterwards() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let first = Claim::take(port).unwrap();
        assert_eq!(Claim::take(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let listener = TcpListener::bind(port).unwrap();
        let error = Claim::take(port).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        drop(listener);
    }
}
