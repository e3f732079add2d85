//! Where a server listens, TCP or a Unix socket, and a plain blocking connection to it.
//!
//! No call waits longer than a limit, so a server that falls silent is an error and not a benchmark
//! that never ends.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    /// An address of the loopback.
    Tcp(SocketAddr),
    /// A file.
    Unix(PathBuf),
}

/// A connection. A read or a write that takes longer than 10 s fails.
#[derive(Debug)]
pub enum Socket {
    /// Without Nagle's delay.
    Tcp(TcpStream),
    /// Of the stream kind.
    Unix(UnixStream),
}

impl Endpoint {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(address) => {
                let socket = TcpStream::connect_timeout(address, TIMEOUT)?;
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(TIMEOUT))?;
                socket.set_write_timeout(Some(TIMEOUT))?;
                Ok(Socket::Tcp(socket))
            }
            Self::Unix(path) => {
                let socket = UnixStream::connect(path)?;
                socket.set_read_timeout(Some(TIMEOUT))?;
                socket.set_write_timeout(Some(TIMEOUT))?;
                Ok(Socket::Unix(socket))
            }
        }
    }
}

impl Socket {
    /// Fills all of `places` in their order.
    ///
    /// # Errors
    /// If the connection ends or falls silent before.
    pub fn read_all_vectored(&mut self, mut places: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        // Drops empty places in front; else a read of nothing would look like an end.
        IoSliceMut::advance_slices(&mut places, 0);
        while !places.is_empty() {
            match self.read_vectored(places) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => IoSliceMut::advance_slices(&mut places, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `pieces` in their order.
    ///
    /// # Errors
    /// If the connection ends or takes nothing for too long.
    pub fn write_all_vectored(&mut self, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            match self.write_vectored(pieces) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut pieces, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(into),
            Self::Unix(socket) => socket.read(into),
        }
    }

    fn read_vectored(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read_vectored(into),
            Self::Unix(socket) => socket.read_vectored(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(from),
            Self::Unix(socket) => socket.write(from),
        }
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write_vectored(from),
            Self::Unix(socket) => socket.write_vectored(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_arrive_in_order_whatever_their_sizes() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut near, mut far) = (Socket::Unix(near), Socket::Unix(far));
        let sent: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || {
            let (a, b) = copy.split_at(7);
            let mut pieces = [IoSlice::new(&[]), IoSlice::new(a), IoSlice::new(b)];
            near.write_all_vectored(&mut pieces).unwrap();
            near
        });
        let mut found = vec![0; sent.len()];
        let (a, b) = found.split_at_mut(100_001);
        far.read_all_vectored(&mut [IoSliceMut::new(a), IoSliceMut::new(b)]).unwrap();
        assert!(found == sent);
        drop(writer.join().unwrap());
        let error = far.read_all_vectored(&mut [IoSliceMut::new(&mut [0])]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
