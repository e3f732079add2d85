//! The raw client over a Unix socket: it takes descriptors in, leases, shares memory and lies.
//!
//! What a reader would get wrong: the stream is a Unix socket in the shape of a `TcpStream`, which
//! is any stream socket to the kernel, and its replies are received with their descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use larder_protocol::message::{
    Get, GetAnswer, LeasedPlace, Payload, Release, SharedRegion, Sharing, Unshare,
};
use larder_protocol::{Code, NamespaceSpec, Opcode, Status};
use larder_transport::{LeasedBytes, MappedRegion, SharedMemory, rights, socket};

use super::object::{Got, Meaning, Object, verified};
use super::{PATIENCE, Raw, Reply};

/// What a raw connection over a Unix socket has beside the others.
#[derive(Debug, Default)]
pub(crate) struct Local {
    arrived: Vec<OwnedFd>,
    region: Option<Arc<MappedRegion>>,
}

/// A hit: where it was leased, if it was, and its bytes, which stay where they are then.
#[derive(Debug, Clone)]
pub(crate) struct Leased {
    pub(crate) place: Option<LeasedPlace>,
    pub(crate) got: Got,
    in_place: Option<LeasedBytes>,
}

impl Leased {
    /// The bytes as they are in the node's memory now.
    pub(crate) fn now(&self) -> &[u8] {
        self.in_place.as_ref().expect("it is a lease")
    }
}

impl Local {
    pub(super) fn receive(&mut self, stream: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
        let patience = stream.read_timeout()?.unwrap_or(PATIENCE);
        if !socket::wait_readable(&[stream], patience)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        rights::recv_with(stream, &mut [IoSliceMut::new(into)], &mut self.arrived)
    }
}

impl Raw {
    /// A connection over a Unix socket that has said nothing yet.
    pub(crate) fn connect_local(path: &Path) -> Self {
        Self::try_connect_local(path).unwrap()
    }

    pub(crate) fn try_connect_local(path: &Path) -> io::Result<Self> {
        let stream = TcpStream::from(OwnedFd::from(UnixStream::connect(path)?));
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let meaning = Meaning { digest: 0, generation: 1, part_bytes: 0 };
        let local = Some(Local::default());
        let (next_id, deadline_us, namespace, capabilities) = (0, 60_000_000, 0, 0);
        Ok(Self { stream, next_id, deadline_us, namespace, meaning, capabilities, local })
    }

    /// A connection over a Unix socket that shares memory, with the namespace of `model` open.
    pub(crate) fn open_local(path: &Path, model: &str) -> Self {
        Self::open_local_spec(path, &NamespaceSpec::new("tests", model))
    }

    pub(crate) fn open_local_spec(path: &Path, spec: &NamespaceSpec) -> Self {
        let mut raw = Self::connect_local(path);
        assert_eq!(raw.hello(0, 0).header.code, Code::Ok);
        assert_eq!(raw.open_namespace(spec, 0).header.code, Code::Ok);
        raw
    }

    /// Maps the node's region, which was announced and came just now.
    pub(super) fn take_region(&mut self, body: &[u8]) {
        let announced = SharedRegion::decode(body).unwrap();
        let local = self.local.as_mut().expect("only those who share are told of regions");
        assert_eq!((announced.region, local.arrived.len()), (0, 1));
        assert!(local.region.is_none(), "it is passed once");
        let mapped = MappedRegion::of_node(local.arrived.remove(0), announced.bytes).unwrap();
        local.region = Some(Arc::new(mapped));
    }

    /// Gets whole objects, leased where the node does that, and checks every one.
    pub(crate) fn lease(
        &mut self,
        sharing: Sharing,
        keys: &[&[u8]],
    ) -> Vec<Result<Leased, Status>> {
        let reply = self.try_get(&Get { sharing, ..Get::whole(true) }, keys);
        self.leased(&reply, keys)
    }

    /// Leases one object.
    pub(crate) fn lease_one(&mut self, key: impl AsRef<[u8]>) -> Result<Leased, Status> {
        self.lease(Sharing::LeaseOrBusy, &[key.as_ref()]).remove(0)
    }

    fn leased(&self, reply: &Reply, keys: &[&[u8]]) -> Vec<Result<Leased, Status>> {
        assert_eq!(reply.header.code, Code::Ok, "{:?}", reply.header);
        let answers = GetAnswer::decode_all(&reply.body, reply.payload.len() as u64).unwrap();
        let mut rest = reply.payload.as_slice();
        let answer = |(answer, key): (GetAnswer<'_>, &&[u8])| match answer {
            GetAnswer::Miss(status) => Err(status),
            GetAnswer::Hit(hit) => Ok(match hit.payload {
                Payload::Shared { region, offset } => {
                    let in_place = self.in_place(offset, hit.sent_bytes);
                    let got = verified(&hit, &in_place, key, &self.meaning);
                    let place = Some(LeasedPlace { region, offset });
                    Leased { place, got, in_place: Some(in_place) }
                }
                _ => {
                    let (bytes, behind) = rest.split_at(hit.sent_bytes as usize);
                    rest = behind;
                    let got = verified(&hit, bytes, key, &self.meaning);
                    Leased { place: None, got, in_place: None }
                }
            }),
        };
        answers.iter().zip(keys).map(answer).collect()
    }

    /// Bytes of the node's region.
    pub(crate) fn in_place(&self, offset: u64, bytes: u32) -> LeasedBytes {
        let local = self.local.as_ref().unwrap();
        let region = local.region.as_ref().expect("the region comes before what is in it");
        LeasedBytes::new(Arc::clone(region), offset, bytes as usize).unwrap()
    }

    pub(crate) fn release_frame(&mut self, places: &[LeasedPlace]) -> Vec<u8> {
        let mut body = Vec::new();
        Release::encode(places, &mut body);
        self.frame(Opcode::Release, &body, 0)
    }

    /// Ends leases, which nobody answers.
    pub(crate) fn release(&mut self, places: &[LeasedPlace]) {
        let frame = self.release_frame(places);
        self.send(&frame);
    }

    /// Sends bytes, and a descriptor with the first of them.
    pub(crate) fn send_with(&mut self, bytes: &[u8], descriptor: BorrowedFd<'_>) {
        self.try_send_with(bytes, descriptor).unwrap();
    }

    /// As [`Raw::send_with`], where the node may have closed already.
    pub(crate) fn try_send_with(
        &mut self,
        bytes: &[u8],
        descriptor: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let sent = rights::send_with(&self.stream, &[IoSlice::new(bytes)], descriptor)?;
        self.try_send(&bytes[sent..])
    }

    pub(crate) fn share_frame(&mut self, region: u32, bytes: u64) -> Vec<u8> {
        let mut body = Vec::new();
        SharedRegion { region, bytes }.encode(&mut body);
        self.frame(Opcode::Share, &body, 0)
    }

    /// Gives the node `memory` to read.
    pub(crate) fn share(&mut self, region: u32, memory: &SharedMemory) -> Code {
        let frame = self.share_frame(region, memory.bytes());
        self.send_with(&frame, memory.descriptor());
        self.reply().header.code
    }

    pub(crate) fn unshare_frame(&mut self, region: u32) -> Vec<u8> {
        let mut body = Vec::new();
        Unshare { region }.encode(&mut body);
        self.frame(Opcode::Unshare, &body, 0)
    }

    /// The socket, for whoever shall have it too.
    pub(crate) fn descriptor(&self) -> OwnedFd {
        self.stream.as_fd().try_clone_to_owned().unwrap()
    }
}

impl Object {
    /// An object whose bytes are written to `memory`, which is shared as `region`.
    pub(crate) fn shared(
        key: impl AsRef<[u8]>,
        bytes: Vec<u8>,
        region: u32,
        memory: &mut SharedMemory,
        offset: usize,
    ) -> Self {
        memory[offset..offset + bytes.len()].copy_from_slice(&bytes);
        Self { shared: Some((region, offset as u64)), ..Self::new(key, bytes) }
    }
}
