//! The fabric of a real card, by verbs: reliable connections, in the form that all drivers have.
//!
//! Every pair has a queue of completions to itself, and memory is registered for the whole device.
//! What a reader would get wrong: a card copies behind the back of the program. What keeps memory
//! from being written is that its pair was destroyed, or its registration ended, and both end when
//! their owners are dropped: in this order, if a pair has works under way.

mod bindings;
mod device;
mod devices;
mod pair;

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use larder_protocol::message::PairAddress;

use crate::rdma::device_memory::{DeviceMemory, Home};
use crate::rdma::fabric::{Completion, Fabric, FabricError, Memory, QueuePair, Work};
use crate::region::Region;
use crate::registered::Registered;

use self::device::{Device, Domain, Limits, Port, Reach, Registration};
pub use self::devices::{DeviceReport, PortReport, devices};
use self::pair::{Pair, Route};

/// A card, opened, by one of its ports. Clones are the same.
#[derive(Debug, Clone)]
pub struct Verbs {
    domain: Arc<Domain>,
    limits: Limits,
    port: Port,
    gid_index: u8,
    gid: [u8; 16],
    config: VerbsConfig,
}

/// How long a peer may be silent. Fill in what differs from the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerbsConfig {
    /// How long an answer may take, as 4.096 µs doubled so often: 1 to 31. Cards wait up to four
    /// times as long. Default 18, which is 1.07 s: a peer that is not scheduled for a while is not
    /// gone, and a dead one shows on its control connection.
    pub answer_timeout: u8,
    /// How often to ask again, 0 to [`RETRIES_MAX`]. Default 6.
    pub retries: u8,
}

/// Memory that a card knows. The card stays open as long as there is some.
#[derive(Debug, Clone)]
pub struct VerbsMemory {
    _registration: Arc<Registration>,
    address: u64,
    bytes: u64,
    local_key: u32,
    remote_key: Option<u32>,
}

/// A queue pair of a card, which stays open as long as there is one.
///
/// It has one owner, so what was dropped cannot be used:
///
/// ```compile_fail
/// use larder_transport::rdma::QueuePair;
/// use larder_transport::rdma::verbs::VerbsPair;
///
/// fn after(pair: VerbsPair) {
///     drop(pair);
///     pair.address();
/// }
/// ```
///
/// It may move to another thread, but two cannot use it at once:
///
/// ```compile_fail
/// fn is_for_several_threads<T: Sync>() {}
/// is_for_several_threads::<larder_transport::rdma::verbs::VerbsPair>();
/// ```
#[derive(Debug)]
pub struct VerbsPair {
    pair: Pair,
    fabric: Verbs,
    first_packet: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Connected,
    Ended,
}

impl Default for VerbsConfig {
    fn default() -> Self {
        Self { answer_timeout: 18, retries: RETRIES_MAX }
    }
}

impl Verbs {
    /// Opens the device of this name, or the first that has an active port.
    ///
    /// # Errors
    /// [`FabricError`] if there is none, with those that there are.
    pub fn open(device: Option<&str>) -> Result<Self, FabricError> {
        Self::open_with(device, VerbsConfig::default())
    }

    /// As [`Verbs::open`], with another configuration.
    ///
    /// # Errors
    /// As [`Verbs::open`].
    ///
    /// # Panics
    /// If the configuration is outside its bounds.
    pub fn open_with(device: Option<&str>, config: VerbsConfig) -> Result<Self, FabricError> {
        assert!((1..=31).contains(&config.answer_timeout), "an answer is waited for, and not ever");
        assert!(config.retries <= RETRIES_MAX, "some drivers take more for no end");
        let names = match device {
            Some(name) => vec![name.to_owned()],
            None => Device::names()?,
        };
        for name in names {
            let opened = match Device::open(&name) {
                // Another may do.
                Err(_) if device.is_none() => None,
                opened => opened?,
            };
            let Some(device) = opened else { continue };
            let limits = device.limits()?;
            for number in 1..=limits.ports {
                let port = device.port(number)?;
                if port.is_active {
                    return Self::new(device, limits, port, config);
                }
            }
        }
        let there: Vec<_> = devices()?.iter().map(ToString::to_string).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join("; ") };
        let wanted = device.unwrap_or("any");
        let why = format!("no active port of {wanted} device; there are: {there}");
        Err(FabricError::new("ibv_open_device", Error::new(ErrorKind::NotFound, why)))
    }

    fn new(
        device: Device,
        limits: Limits,
        port: Port,
        config: VerbsConfig,
    ) -> Result<Self, FabricError> {
        let (gid_index, gid) = devices::best_gid(&device, &port)?;
        let domain = Arc::new(Domain::new(device)?);
        Ok(Self { domain, limits, port, gid_index, gid, config })
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        self.domain.device.name()
    }

    /// The memory that the card is next to, where there are several.
    pub fn numa_node(&self) -> Option<u32> {
        devices::numa_node_of(self.device())
    }

    /// # Safety
    ///
    /// As for [`Registration::new`].
    unsafe fn enter(
        &self,
        address: usize,
        bytes: usize,
        reach: Reach,
        home: Home,
    ) -> Result<VerbsMemory, FabricError> {
        // SAFETY: the caller keeps this promise.
        let made = unsafe { Registration::new(&self.domain, address, bytes, reach, home) };
        Ok(VerbsMemory::new(made?, address as u64, bytes as u64, reach))
    }
}

impl VerbsMemory {
    fn new(registration: Registration, address: u64, bytes: u64, reach: Reach) -> Self {
        let (local_key, remote_key) = registration.keys();
        let remote_key = (reach == Reach::Peers).then_some(remote_key);
        Self { _registration: Arc::new(registration), address, bytes, local_key, remote_key }
    }
}

impl Fabric for Verbs {
    type Memory = VerbsMemory;
    type Pair = VerbsPair;

    fn register(&self, region: &Arc<Region>) -> Result<VerbsMemory, FabricError> {
        let address = region.base().as_ptr().expose_provenance();
        let bytes = region.bytes() as usize;
        // SAFETY: the region is there as long as its handle is, and only works of this side reach
        // it, each with a promise of its own.
        unsafe { self.enter(address, bytes, Reach::Own, Box::new(Arc::clone(region))) }
    }

    unsafe fn expose(&self, memory: &Registered) -> Result<VerbsMemory, FabricError> {
        let (address, bytes) = (memory.address(), memory.len());
        // SAFETY: it stays memory while it is registered, and the caller answers for the peers.
        unsafe { self.enter(address, bytes, Reach::Peers, Box::new(memory.clone())) }
    }

    unsafe fn expose_device(
        &self,
        memory: &DeviceMemory<'_>,
        home: Home,
    ) -> Result<VerbsMemory, FabricError> {
        // SAFETY: the caller keeps this promise.
        let made = unsafe { Registration::of_device(&self.domain, memory, home) };
        Ok(VerbsMemory::new(made?, memory.address, memory.bytes, Reach::Peers))
    }

    fn pair(&self, works_max: u32) -> Result<VerbsPair, FabricError> {
        if works_max > self.limits.works_max {
            let why = format!("{works_max} works, the device has {}", self.limits.works_max);
            let why = Error::new(ErrorKind::InvalidInput, why);
            return Err(FabricError::new("ibv_create_qp", why));
        }
        let mut pair = Pair::new(&self.domain, works_max)?;
        pair.initialise(self.port.number)?;
        // By chance, so that packets of an earlier pair of this number are not taken for its own.
        let first_packet = ahash::RandomState::new().hash_one(pair.number()) as u32 & NUMBER_MAX;
        Ok(VerbsPair { pair, fabric: self.clone(), first_packet, state: State::New })
    }
}

impl Memory for VerbsMemory {
    fn local_key(&self) -> u32 {
        self.local_key
    }

    fn remote_key(&self) -> Option<u32> {
        self.remote_key
    }

    fn contains(&self, address: u64, bytes: u64) -> bool {
        let inside = address.checked_sub(self.address);
        inside.and_then(|inside| inside.checked_add(bytes)).is_some_and(|end| end <= self.bytes)
    }
}

impl QueuePair for VerbsPair {
    fn address(&self) -> PairAddress {
        let Verbs { port, gid, limits, .. } = self.fabric;
        PairAddress {
            gid,
            lid: port.lid,
            number: self.pair.number(),
            first_packet: self.first_packet,
            packet_bytes_max: port.packet_bytes_max,
            reads_max: limits.reads_answered_max,
        }
    }

    fn connect(&mut self, peer: &PairAddress) -> Result<(), FabricError> {
        if self.state != State::New {
            return Err(FabricError::new("ibv_modify_qp to RTR", ErrorKind::InvalidInput.into()));
        }
        let Verbs { port, gid_index, limits, config, .. } = self.fabric;
        self.pair.connect(&Route {
            port: port.number,
            gid_index,
            gid: peer.gid,
            lid: peer.lid,
            number: peer.number & NUMBER_MAX,
            packet_bytes_max: port.packet_bytes_max.min(peer.packet_bytes_max),
            first_packet_in: peer.first_packet & NUMBER_MAX,
            first_packet_out: self.first_packet,
            reads_in_max: limits.reads_answered_max,
            reads_out_max: limits.reads_asked_max.min(peer.reads_max),
            timeout: config.answer_timeout,
            retries: config.retries,
        })?;
        self.state = State::Connected;
        Ok(())
    }

    unsafe fn post(&mut self, works: &[Work]) -> Result<(), FabricError> {
        if self.state != State::Connected {
            // Not every driver looks.
            return Err(FabricError::new("ibv_post_send", ErrorKind::NotConnected.into()));
        }
        // SAFETY: the caller keeps the same promise.
        unsafe { self.pair.post(works) }
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<(), FabricError> {
        self.pair.poll(|number, outcome| into.push(Completion { number, outcome }))
    }

    fn end(&mut self) {
        if self.state == State::Ended {
            return;
        }
        self.state = State::Ended;
        if let Err(error) = self.pair.end() {
            tracing::error!(%error, "a queue pair does not end; it does when it is dropped");
        }
    }
}

/// Most times to ask again: Soft-RoCE takes 7 for no end, where the specification has seven.
pub const RETRIES_MAX: u8 = 6;
/// Numbers of pairs and of packets have 24 bits.
const NUMBER_MAX: u32 = (1 << 24) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma::fabric::Direction;
    use crate::region::HugePages;
    use larder_protocol::message::RemotePiece;

    #[test]
    #[ignore = "needs an RDMA device"]
    fn a_forked_child_takes_nothing_of_its_parent_down() {
        let verbs = Verbs::open(std::env::var("RDMA_DEV").ok().as_deref()).unwrap();
        let region = Arc::new(Region::memfd("fork-test", 4096, HugePages::No).unwrap());
        let memory = verbs.register(&region).unwrap();
        let landing: &'static mut [u8] = Box::leak(Box::new([7; 4096]));
        // SAFETY: it is never freed, and only used through the registration.
        let registered = unsafe { Registered::new(landing.as_mut_ptr(), 4096, None) }.unwrap();
        // SAFETY: the peer is this test.
        let shown = unsafe { verbs.expose(&registered) }.unwrap();
        let (mut one, mut two) = (verbs.pair(4).unwrap(), verbs.pair(4).unwrap());
        one.connect(&two.address()).unwrap();
        two.connect(&one.address()).unwrap();

        // SAFETY: the child only lets go of what it has, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop((one, two, shown, memory, verbs));
            // SAFETY: ends the child, and runs nothing of the parent's on the way.
            unsafe { libc::_exit(0) };
        }
        let mut status = -1;
        // SAFETY: the status is ours to write.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);

        let address = registered.address() as u64;
        let remote = RemotePiece { address, rkey: shown.remote_key().unwrap(), bytes: 4096 };
        let work = Work {
            number: 5,
            direction: Direction::Write,
            local_address: region.base().as_ptr().expose_provenance() as u64,
            local_key: memory.local_key(),
            remote,
            is_signalled: true,
        };
        // SAFETY: nobody else uses the region, and it is there until the end.
        unsafe { one.post(&[work]) }.unwrap();
        let mut completions = Vec::new();
        while completions.is_empty() {
            one.poll(&mut completions).unwrap();
        }
        assert_eq!(completions, [Completion { number: 5, outcome: Ok(()) }]);
    }
}
