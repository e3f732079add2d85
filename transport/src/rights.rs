//! Descriptors that travel over a Unix socket, and the process at its other end.
//!
//! What a reader would get wrong: a descriptor travels with a byte, and comes out of the one call
//! that takes this byte, together with bytes that stood before it. Nobody asked for it either: a
//! peer sends as many as it likes with whatever it likes, and each is open here until it is closed.

use crate::socket::{PARTS_MAX, borrow};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The most descriptors that wait in a list for whoever the bytes are for.
pub const DESCRIPTORS_MAX: usize = 4;

/// As [`send_vectored`](crate::socket::send_vectored); `descriptor` travels with the first byte.
///
/// Once a byte was sent the descriptor was, and what is left of `parts` goes without it. With no
/// byte in `parts` nothing is sent at all.
///
/// # Errors
///
/// As `send_vectored`; also if this is no Unix socket, or this user has too many descriptors on
/// their way.
pub fn send_with(
    socket: &impl AsRawFd,
    parts: &[IoSlice<'_>],
    descriptor: BorrowedFd<'_>,
) -> io::Result<usize> {
    let parts = &parts[..parts.len().min(PARTS_MAX)];
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let descriptors = [descriptor];
    let sent = rustix::io::retry_on_intr(|| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let has_room = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        assert!(has_room, "the space is for one descriptor");
        rustix::net::sendmsg(borrow(socket), parts, &mut control, flags)
    });
    Ok(sent?)
}

/// As [`recv`](crate::socket::recv), into the first of `parts` and what does not fit there into the
/// next; descriptors that came with these bytes are put behind those in `arrived`.
///
/// Never blocks, whatever mode the socket is in.
///
/// # Errors
///
/// As `recv`. `InvalidData` if `arrived` would hold more than [`DESCRIPTORS_MAX`], or this process
/// may not open so many: all that came with this call are closed then.
pub fn recv_with(
    socket: &impl AsRawFd,
    parts: &mut [IoSliceMut<'_>],
    arrived: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let count = parts.len().min(PARTS_MAX);
    // SAFETY: an `IoSliceMut` is laid out as an `iovec`, and these are borrowed mutably.
    unsafe { recv_into(socket.as_raw_fd(), parts.as_mut_ptr().cast(), count, arrived) }
}

/// As [`recv_more`](crate::socket::recv_more), with descriptors as [`recv_with`].
///
/// # Errors
///
/// As [`recv_with`].
pub fn recv_more_with(
    socket: &impl AsRawFd,
    into: &mut Vec<u8>,
    bytes_max: usize,
    arrived: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let len = into.len();
    let room = into.spare_capacity_mut();
    let room_bytes = room.len().min(bytes_max);
    let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room_bytes };
    // SAFETY: the one part is memory behind what the vector holds, within its capacity.
    let received = unsafe { recv_into(socket.as_raw_fd(), &raw mut part, 1, arrived)? };
    // SAFETY: the kernel wrote `received` bytes behind the first `len`, within the capacity.
    unsafe { into.set_len(len + received) };
    Ok(received)
}

/// Room for exactly [`DESCRIPTORS_MAX`] descriptors: the kernel closes what does not fit.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

// SAFETY: this one only computes.
const CONTROL_BYTES: usize =
    unsafe { libc::CMSG_SPACE((DESCRIPTORS_MAX * size_of::<RawFd>()) as u32) } as usize;
const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

/// # Safety
///
/// `parts` are `count` parts of memory that is the caller's alone, and valid for writes.
unsafe fn recv_into(
    socket: RawFd,
    parts: *mut libc::iovec,
    count: usize,
    arrived: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut control = Control([0; CONTROL_BYTES]);
    // SAFETY: a header of zeroes is one without address, parts and room for descriptors.
    let mut header = unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() };
    header.msg_iov = parts;
    header.msg_iovlen = count as _;
    header.msg_control = (&raw mut control).cast();
    let received = loop {
        header.msg_controllen = CONTROL_BYTES as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the header names memory that may be written (the caller promised it of the
        // parts), and its lengths are theirs.
        let received = unsafe { libc::recvmsg(socket, &raw mut header, flags) };
        if let Ok(received) = usize::try_from(received) {
            break received;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    if header.msg_controllen == 0 && header.msg_flags & libc::MSG_CTRUNC == 0 {
        return Ok(received);
    }
    let before = arrived.len();
    take_descriptors(&header, arrived);
    if arrived.len() > DESCRIPTORS_MAX || header.msg_flags & libc::MSG_CTRUNC != 0 {
        arrived.truncate(before);
        return Err(too_many());
    }
    Ok(received)
}

/// Out of line, for nearly every message comes without.
#[cold]
fn take_descriptors(header: &libc::msghdr, arrived: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel filled the header's control memory, as far as its length says.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: the pointer is into the control memory, at a message the kernel wrote there.
        let what = unsafe { message.read() };
        if what.cmsg_level == libc::SOL_SOCKET && what.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: as above.
            let first = unsafe { libc::CMSG_DATA(message) }.cast::<RawFd>();
            // SAFETY: this one only computes.
            let head_bytes = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (what.cmsg_len as usize).saturating_sub(head_bytes) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: within what the message says it holds.
                let at = unsafe { first.add(index) };
                // SAFETY: the kernel wrote a descriptor there.
                let raw = unsafe { at.read_unaligned() };
                // SAFETY: the kernel opened it for us in this call, and nobody else knows of it.
                arrived.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        // SAFETY: both are of the same control memory.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
}

#[cold]
fn too_many() -> io::Error {
    let message = format!(
        "more descriptors than {DESCRIPTORS_MAX} arrived, or more than this process may have open"
    );
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Who made the connection at the other end of a Unix socket.
///
/// It stays the same whoever holds that end later: a forked child is not asked for.
#[derive(Debug)]
pub struct PeerProcess {
    uid: u32,
    pid: u32,
    /// None if it had died before it was asked for.
    pidfd: Option<OwnedFd>,
}

impl PeerProcess {
    /// Of a connected Unix socket.
    ///
    /// Kernels before 6.5 know only a number, which another process may have taken in between: ask
    /// as soon as the connection is there.
    ///
    /// # Errors
    ///
    /// If this is no Unix socket, or the process is in a PID namespace that cannot be seen from
    /// here and the kernel is that old.
    pub fn of(socket: &impl AsRawFd) -> io::Result<Self> {
        let credentials: libc::ucred = option(socket, libc::SO_PEERCRED)?;
        if credentials.uid == libc::uid_t::MAX {
            // What the kernel says of a socket without a peer, or of another kind.
            return Err(io::ErrorKind::NotConnected.into());
        }
        let pidfd = match option::<RawFd>(socket, libc::SO_PEERPIDFD) {
            // SAFETY: the kernel opened it for us just now.
            Ok(raw) => Some(unsafe { OwnedFd::from_raw_fd(raw) }),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOPROTOOPT) => open_pidfd(credentials.pid)?,
                // What is left of a process that was waited for; the kernels differ.
                Some(libc::ESRCH | libc::EINVAL) => None,
                _ => return Err(error),
            },
        };
        let pid = u32::try_from(credentials.pid).unwrap_or(0);
        Ok(Self { uid: credentials.uid, pid, pidfd })
    }

    /// Its user when it connected.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Its number as it is seen from here, 0 if it is not; for messages.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended: none of its threads will ever read memory again. One system call.
    pub fn is_dead(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&at_once)));
        ready.is_ok_and(|ready| ready > 0)
    }
}

fn open_pidfd(pid: libc::pid_t) -> io::Result<Option<OwnedFd>> {
    use rustix::process::{Pid, PidfdFlags};
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An option of a socket that the kernel fills whole.
fn option<T: Copy>(socket: &impl AsRawFd, name: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the memory is of the size given, and writable.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            value.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: integers, or structures of them: any bytes are a value.
    Ok(unsafe { value.assume_init() })
}

#[cfg(not(miri))]
#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Descriptors are counted, so the tests of this file take turns.
    static ALONE: Mutex<()> = Mutex::new(());

    fn alone() -> MutexGuard<'static, ()> {
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Descriptors of this process that are this file. Other tests open others meanwhile.
    fn open_count(file: &impl AsFd) -> usize {
        let key = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|s| (s.st_dev, s.st_ino)).ok();
        let wanted = key(file.as_fd());
        let is_it = |entry: io::Result<std::fs::DirEntry>| {
            let name = entry.unwrap().file_name();
            let raw: RawFd = name.to_str().unwrap().parse().unwrap();
            // SAFETY: only asked about, and one that is closed meanwhile is an error.
            key(unsafe { BorrowedFd::borrow_raw(raw) }) == wanted
        };
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| is_it(entry).then_some(()))
            .count()
    }

    fn file() -> OwnedFd {
        rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
    }

    /// Sends one byte with that many descriptors, as a peer that does as it likes.
    fn send_many(socket: &UnixStream, file: &OwnedFd, count: usize) {
        let descriptors = vec![file.as_fd(); count];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let parts = [IoSlice::new(b"x")];
        rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn descriptor_travels_with_the_first_byte() {
        let _alone = alone();
        let (near, far) = UnixStream::pair().unwrap();
        let file = file();
        rustix::io::write(&file, b"inside").unwrap();
        let parts = [IoSlice::new(b"head"), IoSlice::new(b"body")];
        (&near).write_all(b"before").unwrap();
        assert_eq!(send_with(&near, &parts, file.as_fd()).unwrap(), 8);
        (&near).write_all(b"after").unwrap();

        let mut arrived = Vec::new();
        let (mut first, mut then) = ([0; 3], [0; 3]);
        let mut both = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut then)];
        assert_eq!(recv_with(&far, &mut both, &mut arrived).unwrap(), 6);
        assert_eq!((&first, &then), (b"bef", b"ore"));
        assert!(arrived.is_empty());
        let mut into = Vec::with_capacity(100);
        assert_eq!(recv_more_with(&far, &mut into, 1, &mut arrived).unwrap(), 1);
        assert_eq!(arrived.len(), 1);
        while recv_more_with(&far, &mut into, 100, &mut arrived).is_ok() {}
        assert_eq!(into, b"headbodyafter");
        assert_eq!(arrived.len(), 1);
        assert!(
            rustix::io::fcntl_getfd(&arrived[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC)
        );
        let mut inside = [0; 6];
        rustix::io::pread(&arrived[0], &mut inside, 0).unwrap();
        assert_eq!(&inside, b"inside");
        assert_eq!(open_count(&file), 2);
        drop(arrived);
        assert_eq!(open_count(&file), 1);
    }

    #[test]
    fn nothing_blocks_and_an_end_is_0() {
        let _alone = alone();
        let (near, far) = UnixStream::pair().unwrap();
        let mut byte = [0];
        let mut arrived = Vec::new();
        let mut recv = || recv_with(&far, &mut [IoSliceMut::new(&mut byte)], &mut arrived);
        assert_eq!(recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let much = vec![0; 1 << 20];
        let file = file();
        let error = loop {
            if let Err(error) = send_with(&near, &[IoSlice::new(&much)], file.as_fd()) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(near);
        while recv().is_err() {}
        let mut rest = Vec::new();
        (&far).read_to_end(&mut rest).unwrap();
        assert_eq!(recv().unwrap(), 0);
        assert_eq!(
            send_with(&far, &[IoSlice::new(b"x")], file.as_fd()).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn descriptors_are_counted_and_none_leaks() {
        let _alone = alone();
        for count in [0, 1, 4, 5, 253] {
            let (near, far) = UnixStream::pair().unwrap();
            let file = file();
            if count == 0 {
                (&near).write_all(b"x").unwrap();
            } else {
                send_many(&near, &file, count);
            }
            let mut arrived = Vec::new();
            let mut into = [0; 10];
            let got = recv_with(&far, &mut [IoSliceMut::new(&mut into)], &mut arrived);
            if count <= DESCRIPTORS_MAX {
                assert_eq!(got.unwrap(), 1);
                assert_eq!(arrived.len(), count);
                assert_eq!(open_count(&file), 1 + count);
            } else {
                let error = got.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert!(error.to_string().contains("more descriptors than 4"));
                assert!(arrived.is_empty());
                assert_eq!(open_count(&file), 1);
            }
            drop(arrived);
            assert_eq!(open_count(&file), 1);
        }
    }

    #[test]
    fn descriptors_that_nobody_takes_do_not_pile_up() {
        let _alone = alone();
        let (near, far) = UnixStream::pair().unwrap();
        let file = file();
        let (mut arrived, mut into) = (Vec::new(), Vec::with_capacity(10));
        send_many(&near, &file, 3);
        assert_eq!(recv_more_with(&far, &mut into, 10, &mut arrived).unwrap(), 1);
        send_many(&near, &file, 2);
        let error = recv_more_with(&far, &mut into, 10, &mut arrived).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!((arrived.len(), open_count(&file)), (3, 4));
    }

    #[test]
    fn peer_is_the_process_that_connected() {
        let (near, _far) = UnixStream::pair().unwrap();
        let peer = PeerProcess::of(&near).unwrap();
        assert_eq!(peer.pid(), std::process::id());
        assert_eq!(peer.uid(), rustix::process::getuid().as_raw());
        assert!(!peer.is_dead());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(PeerProcess::of(&listener).is_err());
    }

    const CONNECT_TO: &str = "LARDER_TEST_CONNECTS_TO";

    /// Not a test, but what another process does for the next one: it connects, leaves the
    /// connection to a child, and dies when its input ends.
    #[test]
    fn process_that_connects() {
        let Some(path) = std::env::var_os(CONNECT_TO) else { return };
        let mut socket = UnixStream::connect(path).unwrap();
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        socket.write_all(&child.id().to_le_bytes()).unwrap();
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
        std::process::exit(0);
    }

    #[test]
    fn process_is_dead_though_its_child_keeps_the_socket() {
        let directory = std::env::temp_dir().join(format!("larder-rights-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut other = Command::new(std::env::current_exe().unwrap());
        other.args(["--exact", "rights::tests::process_that_connects"]).env(CONNECT_TO, &path);
        other.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut other = other.spawn().unwrap();
        let (mut near, _) = listener.accept().unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let mut child = [0; 4];
        near.read_exact(&mut child).unwrap();
        let peer = PeerProcess::of(&near).unwrap();
        assert_eq!(peer.pid(), other.id());
        assert!(!peer.is_dead());

        drop(other.stdin.take());
        other.wait().unwrap();
        assert!(peer.is_dead());
        let mut byte = [0];
        let error = crate::socket::recv(&near, &mut byte).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "the child has the other end open");
        assert!(PeerProcess::of(&near).unwrap().is_dead(), "also if it is asked for only now");
        let child = rustix::process::Pid::from_raw(i32::from_le_bytes(child)).unwrap();
        rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    }
}
