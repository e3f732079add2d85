//! Moves bytes between sockets and memory without waiting, and sets what a connection needs.
//!
//! Sockets come as `AsRawFd` because glommio's streams are no `AsFd`. What a reader would get
//! wrong: nothing here blocks, whatever mode the socket is in (`recv_vectored` and `wait_readable`
//! apart). `WouldBlock` means wait for readiness, in whatever way the driver does that.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::BorrowedFd;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, sockopt};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Parts that one call of the kernel takes (`IOV_MAX` on Linux); more are left for the next one.
pub const PARTS_MAX: usize = 1024;

/// Sends what the socket takes now of `parts`, in one call; the number of bytes it took.
///
/// # Errors
///
/// `WouldBlock` if it takes nothing now; anything else ends the connection. A peer that went away
/// is `BrokenPipe`, never a signal.
pub fn send_vectored(socket: &impl AsRawFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    let parts = &parts[..parts.len().min(PARTS_MAX)];
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(borrow(socket), parts, &mut SendAncillaryBuffer::default(), flags)
    });
    Ok(sent?)
}

/// Receives what has arrived, up to the length of `into`; 0 if the peer sends no more.
///
/// # Errors
///
/// `WouldBlock` if nothing has arrived; anything else ends the connection.
pub fn recv(socket: &impl AsRawFd, into: &mut [u8]) -> io::Result<usize> {
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recv(borrow(socket), &mut *into, RecvFlags::DONTWAIT)
    });
    Ok(received?.0)
}

/// As [`recv`], into the first of `into` and what does not fit there into the next.
///
/// # Errors
/// As [`recv`]; the socket must not block.
pub fn recv_vectored(socket: &impl AsRawFd, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::readv(borrow(socket), into))?)
}

/// As [`recv`], behind what `into` holds: at most `bytes_max`, and no more than it has room for.
///
/// What was never written is not zeroed first.
///
/// # Errors
/// As [`recv`].
pub fn recv_more(socket: &impl AsRawFd, into: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
    let len = into.len();
    let room = into.spare_capacity_mut();
    let room_bytes = room.len().min(bytes_max);
    let room = &mut room[..room_bytes];
    let received = rustix::io::retry_on_intr(|| {
        let flags = RecvFlags::DONTWAIT;
        let ((received, _), _) = rustix::net::recv(borrow(socket), &mut *room, flags)?;
        Ok(received.len())
    })?;
    // SAFETY: the kernel wrote `received` bytes behind the first `len`, within the capacity.
    unsafe { into.set_len(len + received) };
    Ok(received)
}

/// Lets a connection count as readable only once `bytes` are there, or it has ended.
///
/// Waking a reader costs more than copying what woke it. Never ask for more than the peer is bound
/// to send before it waits for us: nobody would move again.
///
/// # Errors
///
/// Of `setsockopt`.
pub fn set_readable_bytes(socket: &impl AsRawFd, bytes: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option takes an int, which lives over the call, and its size is the one given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends one or both directions of a connection; whoever waits on it is woken.
///
/// # Errors
/// Of `shutdown`: mostly that the connection had ended already.
pub fn shutdown(socket: &impl AsRawFd, how: std::net::Shutdown) -> io::Result<()> {
    let how = match how {
        std::net::Shutdown::Read => rustix::net::Shutdown::Read,
        std::net::Shutdown::Write => rustix::net::Shutdown::Write,
        std::net::Shutdown::Both => rustix::net::Shutdown::Both,
    };
    Ok(rustix::net::shutdown(borrow(socket), how)?)
}

/// Waits until one of `sockets` is readable, or `timeout` has passed; whether one is.
///
/// This is the one call here that waits, for threads that do nothing else.
///
/// # Errors
/// Of `poll`.
pub fn wait_readable(sockets: &[impl AsFd], timeout: Duration) -> io::Result<bool> {
    let mut polled: Vec<_> = sockets.iter().map(|s| PollFd::new(s, PollFlags::IN)).collect();
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match rustix::event::poll(&mut polled, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the peer will send no more, or the socket was shut down here, however many bytes are
/// still to be read.
///
/// # Errors
/// Of `poll`.
pub fn has_hung_up(socket: &impl AsRawFd) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(borrow(socket), PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&now)))? > 0)
}

/// Sends small frames at once instead of waiting for more (`TCP_NODELAY`).
///
/// # Errors
///
/// If this is no TCP socket.
pub fn set_nodelay(socket: &impl AsRawFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(borrow(socket), true)?)
}

/// Asks an idle peer whether it lives: after `idle_s` seconds, then every `interval_s`, and gives
/// up after `count` questions.
///
/// # Errors
///
/// If this is no TCP socket, or a number is 0 or out of the kernel's range.
pub fn set_keepalive(
    socket: &impl AsRawFd,
    idle_s: u32,
    interval_s: u32,
    count: u32,
) -> io::Result<()> {
    let socket = borrow(socket);
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(idle_s.into()))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(interval_s.into()))?;
    sockopt::set_tcp_keepcnt(socket, count)?;
    Ok(sockopt::set_socket_keepalive(socket, true)?)
}

pub(crate) fn borrow(socket: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: the owner of the descriptor is borrowed, so it stays open for this call.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

#[cfg(not(miri))]
#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// Receives until `n` bytes came; the test sockets are in blocking mode and `recv` still never
    /// blocks.
    fn recv_exactly(socket: &TcpStream, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        let mut filled = 0;
        while filled < n {
            match recv(socket, &mut bytes[filled..]) {
                Ok(0) => panic!("the peer went away after {filled} bytes"),
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        bytes
    }

    #[test]
    fn parts_arrive_as_one_stream() {
        let (near, far) = pair();
        let parts = [IoSlice::new(b"hello"), IoSlice::new(b""), IoSlice::new(b" there")];
        assert_eq!(send_vectored(&near, &parts).unwrap(), 11);
        assert_eq!(recv_exactly(&far, 11), b"hello there");
    }

    #[test]
    fn more_parts_than_the_kernel_takes_are_left_for_the_next_call() {
        let (near, far) = pair();
        let parts = vec![IoSlice::new(b"x"); PARTS_MAX + 5];
        assert_eq!(send_vectored(&near, &parts).unwrap(), PARTS_MAX);
        assert_eq!(recv_exactly(&far, PARTS_MAX).len(), PARTS_MAX);
    }

    #[test]
    fn neither_way_ever_blocks() {
        let (near, far) = pair();
        let mut byte = [0];
        assert_eq!(recv(&far, &mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let much = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = send_vectored(&near, &[IoSlice::new(&much)]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_peer_that_went_away_is_an_end_and_then_an_error() {
        let (near, far) = pair();
        drop(far);
        let mut byte = [0];
        let received = loop {
            match recv(&near, &mut byte) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break other.unwrap(),
            }
        };
        assert_eq!(received, 0);
        let error = loop {
            if let Err(error) = send_vectored(&near, &[IoSlice::new(b"x")]) {
                break error.kind();
            }
        };
        assert!(matches!(error, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset));
    }

    #[test]
    fn bytes_go_where_there_is_room_and_no_further() {
        let (near, mut far) = pair();
        far.write_all(b"0123456789").unwrap();
        let mut into = Vec::with_capacity(32);
        into.push(b'>');
        let mut more = |bytes_max| loop {
            match recv_more(&near, &mut into, bytes_max) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break (other.unwrap(), into.clone()),
            }
        };
        assert_eq!(more(4), (4, b">0123".to_vec()));
        assert_eq!(more(1000), (6, b">0123456789".to_vec()));

        near.set_nonblocking(true).unwrap();
        far.write_all(b"abcdef").unwrap();
        let (mut first, mut then) = ([0; 4], [0; 4]);
        let mut both = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut then)];
        while recv_vectored(&near, &mut both).is_err() {}
        assert_eq!((&first, &then), (b"abcd", b"ef\0\0"));
    }

    #[test]
    fn connection_is_readable_only_with_enough() {
        let (near, mut far) = pair();
        near.set_nonblocking(true).unwrap();
        set_readable_bytes(&near, 1000).unwrap();
        let readable = || wait_readable(&[&near], Duration::from_millis(100)).unwrap();
        far.write_all(&[1; 999]).unwrap();
        assert!(!readable());
        far.write_all(&[1]).unwrap();
        assert!(readable());
        recv(&near, &mut [0; 1000]).unwrap();
        far.write_all(&[1]).unwrap();
        drop(far);
        assert!(readable(), "an end is told at once");
    }

    #[test]
    fn hang_up_is_seen_behind_bytes_that_nobody_read() {
        let (near, mut far) = pair();
        far.write_all(b"x").unwrap();
        assert!(!has_hung_up(&near).unwrap());
        drop(far);
        wait_readable(&[&near], Duration::from_secs(60)).unwrap();
        while !has_hung_up(&near).unwrap() {}
        let (cut, _far) = pair();
        shutdown(&cut, std::net::Shutdown::Both).unwrap();
        assert!(has_hung_up(&cut).unwrap());
    }

    #[test]
    fn whoever_waits_is_told_which_came_first() {
        let (one, _far) = pair();
        let (two, mut far) = pair();
        let soon = Duration::from_millis(50);
        assert!(!wait_readable(&[&one, &two], soon).unwrap());
        far.write_all(b"x").unwrap();
        assert!(wait_readable(&[&one, &two], Duration::from_secs(60)).unwrap());
        assert!(!wait_readable(&[&one], Duration::ZERO).unwrap());
    }

    #[test]
    fn options_reach_the_kernel() {
        let (near, _far) = pair();
        set_nodelay(&near).unwrap();
        set_keepalive(&near, 7, 3, 2).unwrap();
        assert!(near.nodelay().unwrap());
        assert_eq!(sockopt::tcp_keepidle(&near).unwrap(), Duration::from_secs(7));
        assert_eq!(sockopt::tcp_keepintvl(&near).unwrap(), Duration::from_secs(3));
        assert_eq!(sockopt::tcp_keepcnt(&near).unwrap(), 2);
        assert!(sockopt::socket_keepalive(&near).unwrap());
        assert!(set_keepalive(&near, 0, 3, 2).is_err());
    }
}
