//! A claim on an address, so that two nodes never share a port.
//!
//! The runtime sets SO_REUSEPORT on every listener: a second process of the same user would bind
//! happily and get half of the connections. Two checks close that: an abstract Unix socket named
//! after the port, gone with its process, and a knock at the port, to meet whoever listens already.
//! A plain bind would not do: for a minute after a node's death it also meets what is left of that
//! node's connections, and a node must be able to come back at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::time::{Duration, Instant};

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
        // An address that is not this machine's is told by its own error.
        drop(TcpListener::bind((address.ip(), 0))?);
        let started = Instant::now();
        while is_listened_to(address) {
            if started.elapsed() > LINGER {
                let message = "the port is taken by another process";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
            }
            std::thread::sleep(KNOCK_PAUSE);
        }
        Ok(Self { _name: name })
    }
}

fn is_listened_to(mut address: SocketAddr) -> bool {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    match TcpStream::connect_timeout(&address, KNOCK_MAX) {
        Ok(_) => true,
        // Its queue is full.
        Err(error) => error.kind() == io::ErrorKind::TimedOut,
    }
}

/// The kernel lets go of a killed node's listener in the background, when it is done with the
/// node's io_uring. Measured: 5 to 17 ms after the process was gone.
const LINGER: Duration = Duration::from_secs(1);
const KNOCK_PAUSE: Duration = Duration::from_millis(10);
const KNOCK_MAX: Duration = Duration::from_millis(200);

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
