//! What a peer may write and read of ours: landings and sources in exposed memory, through one
//! queue pair, for as long as they live.
//!
//! What a reader would get wrong: nobody has to remember to end the pair. A landing that a peer may
//! still write ends it when it is dropped, or looked at; only [`Landing::settle`] says that the
//! peer has done what it was asked for. So memory that came home is never written again, whatever
//! became of the peer, the connection or the thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_protocol::message::{PairAddress, RemotePiece};

use crate::landing::Landing;
use crate::rdma::any::{AnyFabric, AnyMemory, AnyPair};
use crate::rdma::device_memory::{DeviceMemory, Home};
use crate::rdma::fabric::{Fabric, FabricError, Memory, QueuePair};
use crate::registered::Registered;
use crate::shared::SharedMemory;
use crate::source::Source;

/// Memory that a card knows, so that peers can reach what lies in it. It is known until the last
/// clone is dropped, and nothing in it can be reached any more.
#[derive(Debug, Clone)]
pub struct Exposed {
    memory: Arc<AnyMemory>,
}

/// The end of a queue pair through which a peer writes our landings and reads our sources. Clones
/// are the same.
#[derive(Debug, Clone)]
pub struct Reach {
    end: Arc<End>,
}

#[derive(Debug)]
struct End {
    pair: Mutex<Option<AnyPair>>,
    /// As the pair is not there any more, for a look without the lock.
    is_over: AtomicBool,
}

/// That a peer may touch something. Dropping it ends the pair first, unless it was settled.
#[derive(Debug)]
pub(crate) struct Reached {
    reach: Reach,
    is_settled: bool,
    _memory: Vec<Exposed>,
}

impl Exposed {
    /// Has the fabric know memory that was registered.
    ///
    /// # Errors
    /// [`FabricError`] if the device refuses, for want of memory that may be locked for instance.
    pub fn new(fabric: &AnyFabric, memory: &Registered) -> Result<Self, FabricError> {
        // SAFETY: its key is told only in `pieces`, of a landing or source that lives, and the pair
        // through which the peer uses it ends before that does.
        let memory = unsafe { fabric.expose(memory) }?;
        Ok(Self { memory: Arc::new(memory) })
    }

    /// Has the fabric know memory that is shared with nodes on this host.
    ///
    /// # Errors
    /// As [`Exposed::new`].
    pub fn of_shared(fabric: &AnyFabric, memory: &SharedMemory) -> Result<Self, FabricError> {
        Self::new(fabric, &memory.registered())
    }

    /// Has the fabric know memory of another device, which `home` keeps.
    ///
    /// # Errors
    /// As [`Exposed::new`].
    ///
    /// # Safety
    ///
    /// The range is memory for as long as `home` is there.
    pub unsafe fn of_device(
        fabric: &AnyFabric,
        memory: &DeviceMemory<'_>,
        home: Home,
    ) -> Result<Self, FabricError> {
        // SAFETY: the caller answers for the memory; its key is told as in `new`.
        let memory = unsafe { fabric.expose_device(memory, home) }?;
        Ok(Self { memory: Arc::new(memory) })
    }

    /// Whether these are clones of one.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    pub(crate) fn key_of(&self, address: u64, bytes: u64) -> Option<u32> {
        self.memory.remote_key().filter(|_| self.memory.contains(address, bytes))
    }
}

impl Reach {
    /// A pair of `fabric` that is not connected yet.
    ///
    /// # Errors
    /// [`FabricError`] if the device refuses.
    pub fn new(fabric: &AnyFabric) -> Result<Self, FabricError> {
        // This side posts nothing; no device makes a pair without room.
        let pair = Mutex::new(Some(fabric.pair(1)?));
        Ok(Self { end: Arc::new(End { pair, is_over: AtomicBool::new(false) }) })
    }

    /// What the peer needs to know; `None` if it has ended, or is being connected.
    pub fn address(&self) -> Option<PairAddress> {
        self.end.lock().as_ref().map(QueuePair::address)
    }

    /// Connects it to the peer's, which may take a card a second. Whoever ends it meanwhile does
    /// not wait for that: nothing was let to be touched through it yet.
    ///
    /// # Errors
    /// [`FabricError`] if the device refuses, or it is connected, or has ended by now.
    pub fn connect(&self, peer: &PairAddress) -> Result<(), FabricError> {
        let is_over = || FabricError::new("connect", std::io::ErrorKind::NotConnected.into());
        let taken = self.end.lock().take();
        let mut pair = taken.ok_or_else(is_over)?;
        let connected = pair.connect(peer);
        let mut place = self.end.lock();
        if self.is_over() {
            return Err(is_over());
        }
        *place = Some(pair);
        connected
    }

    /// Ends it: the peer touches nothing of ours any more when this returns.
    pub fn end(&self) {
        // Under the lock: whoever else ends it comes back when it is gone.
        let mut pair = self.end.lock();
        drop(pair.take());
        self.end.is_over.store(true, Ordering::Release);
    }

    /// Whether these are clones of one.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.end, &other.end)
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.end.is_over.load(Ordering::Acquire)
    }
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Option<AnyPair>> {
        self.pair.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        if !self.is_settled {
            self.reach.end();
        }
    }
}

impl Reached {
    pub(crate) fn settle(mut self) {
        self.is_settled = true;
    }
}

impl Landing {
    /// Lets the peer of `reach` write it, in these pieces, if all of it lies in exposed memory.
    /// Nobody else may until it is settled: whoever asks for its bytes ends the pair.
    ///
    /// One that lies aboard as well is written there alone.
    pub fn reach(&mut self, reach: &Reach, exposed: &[Exposed]) -> Option<Vec<RemotePiece>> {
        if self.is_aboard() {
            self.withdraw();
            let (piece, memory) = self.aboard().filter(|_| !reach.is_over())?;
            let reach = reach.clone();
            self.reached = Some(Reached { reach, is_settled: false, _memory: vec![memory] });
            return Some(vec![piece]);
        }
        let mut ends = Vec::new();
        self.for_each_piece(0, u64::MAX, |piece| ends.push((piece.as_ptr(), piece.len())));
        let (pieces, reached) = pieces(&ends, reach, exposed)?;
        self.reached = Some(reached);
        Some(pieces)
    }

    /// Takes the peer's word that it will not write any more of what it was let. Whether it was let
    /// anything.
    pub fn settle(&mut self) -> bool {
        self.reached.take().map(Reached::settle).is_some()
    }

    /// Takes it back from a peer that may write it, if one may: ends the pair.
    pub fn withdraw(&mut self) {
        self.reached = None;
    }
}

impl Source {
    /// Lets the peer of `reach` read it, in these pieces, if all of it lies in exposed memory.
    pub fn reach(&mut self, reach: &Reach, exposed: &[Exposed]) -> Option<Vec<RemotePiece>> {
        let ends = self.pieces(0, u64::MAX).map(|piece| (piece.as_ptr(), piece.len()));
        let ends: Vec<_> = ends.collect();
        let (pieces, reached) = pieces(&ends, reach, exposed)?;
        self.reached = Some(reached);
        Some(pieces)
    }

    /// As [`Landing::settle`].
    pub fn settle(&mut self) -> bool {
        self.reached.take().map(Reached::settle).is_some()
    }

    /// As [`Landing::withdraw`].
    pub fn withdraw(&mut self) {
        self.reached = None;
    }
}

fn pieces(
    ends: &[(*const u8, usize)],
    reach: &Reach,
    exposed: &[Exposed],
) -> Option<(Vec<RemotePiece>, Reached)> {
    if reach.is_over() || ends.is_empty() {
        return None;
    }
    let (mut list, mut memory) = (Vec::with_capacity(ends.len()), Vec::<Exposed>::new());
    for &(base, length) in ends {
        let (address, bytes) = (base.expose_provenance() as u64, u32::try_from(length).ok()?);
        let find = |all: &[Exposed]| {
            all.iter().find_map(|at| Some((at.key_of(address, length as u64)?, at.clone())))
        };
        // The pieces of one object mostly lie together.
        let (rkey, found) = find(&memory).or_else(|| find(exposed))?;
        if !memory.iter().any(|known| known.is_same(&found)) {
            memory.push(found);
        }
        list.push(RemotePiece { address, rkey, bytes });
    }
    Some((list, Reached { reach: reach.clone(), is_settled: false, _memory: memory }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;
    use crate::rdma::simulated::{Faults, SimulatedFabric};

    const fn is_send_and_sync<T: Send + Sync + 'static>() {}
    const _: () = is_send_and_sync::<Reach>();
    const _: () = is_send_and_sync::<Exposed>();

    /// Registered memory that was exposed, and a pair.
    fn reached(bytes: usize) -> (Registered, Exposed, Reach) {
        let fabric = AnyFabric::Simulated(SimulatedFabric::new(1, Faults::default()));
        let memory: &'static mut [u8] = Box::leak(vec![7; bytes].into_boxed_slice());
        // SAFETY: the memory is never freed, and only used through the registration.
        let memory = unsafe { Registered::new(memory.as_mut_ptr(), bytes, None) }.unwrap();
        let exposed = Exposed::new(&fabric, &memory).unwrap();
        (memory, exposed, Reach::new(&fabric).unwrap())
    }

    #[test]
    fn a_landing_that_was_settled_leaves_the_pair_alone() {
        let (memory, exposed, reach) = reached(100);
        let at = memory.address();
        let mut landing = memory.landing(&[(at + 10, 20), (at + 50, 5)]).unwrap();
        let pieces = landing.reach(&reach, &[exposed]).unwrap();
        let places: Vec<_> = pieces.iter().map(|p| (p.address as usize - at, p.bytes)).collect();
        assert_eq!(places, [(10, 20), (50, 5)]);
        assert!(landing.reached.is_some() && landing.settle() && !landing.settle());
        landing.write_at(0, b"ours again");
        drop(landing);
        assert!(!reach.is_over() && reach.address().is_some());
    }

    #[test]
    fn whoever_drops_or_uses_a_landing_that_a_peer_may_write_ends_the_pair_first() {
        for use_it in [true, false] {
            let (memory, exposed, reach) = reached(64);
            let mut landing = memory.landing(&[(memory.address(), 64)]).unwrap();
            landing.reach(&reach, &[exposed]).unwrap();
            if use_it {
                assert_eq!(landing.piece_at(60), [7; 4]);
                assert!(landing.reached.is_none());
            } else {
                drop(landing);
            }
            assert!(reach.is_over() && reach.address().is_none());
            let peer = PairAddress {
                gid: [0; 16],
                lid: 0,
                number: 1,
                first_packet: 0,
                packet_bytes_max: 256,
                reads_max: 1,
            };
            assert!(reach.connect(&peer).is_err());
        }
    }

    #[test]
    fn whoever_ends_a_pair_that_is_being_connected_does_not_wait_and_it_ends() {
        let fabric = SimulatedFabric::new(1, Faults::default());
        fabric.connect_slowly(Duration::from_millis(300));
        let reach = Reach::new(&AnyFabric::Simulated(fabric)).unwrap();
        let peer = reach.address().unwrap();
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| reach.connect(&peer));
            while reach.address().is_some() {
                std::thread::yield_now();
            }
            reach.end();
            assert!(reach.is_over() && !connecting.is_finished());
            assert!(connecting.join().unwrap().is_err());
        });
        assert!(reach.address().is_none() && reach.connect(&peer).is_err());
    }

    #[test]
    fn whoever_ends_a_pair_that_is_ending_waits_until_it_is_gone() {
        let fabric = SimulatedFabric::new(1, Faults::default());
        let reach = Reach::new(&AnyFabric::Simulated(fabric.clone())).unwrap();
        let ended = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let takes_long = fabric.hold();
            for _ in 0..2 {
                scope.spawn(|| {
                    reach.end();
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(ended.load(Ordering::SeqCst), 0);
            drop(takes_long);
        });
        assert!(reach.is_over());
    }

    #[test]
    fn a_source_that_a_peer_may_read_is_read_by_us_too() {
        let (memory, exposed, reach) = reached(64);
        let mut source = memory.source(&[(memory.address() + 1, 63)]).unwrap();
        assert_eq!(source.reach(&reach, &[exposed]).unwrap().len(), 1);
        assert_eq!(source.piece_at(62), [7]);
        assert!(!reach.is_over());
        drop(source);
        assert!(reach.is_over());
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs a memfd")]
    fn a_landing_with_memory_aboard_is_written_there_and_looked_at_here() {
        let fabric = AnyFabric::Simulated(SimulatedFabric::new(1, Faults::default()));
        let memfd = rustix::fs::memfd_create("device", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memfd, 8192).unwrap();
        // No address of this process.
        let address = 0xffff_8000_0000_0000;
        let expose = |offset, bytes| {
            let descriptor = std::os::fd::AsFd::as_fd(&memfd);
            let memory = DeviceMemory { descriptor, offset, bytes, address };
            // SAFETY: memory of a memfd is there for as long as it is mapped.
            unsafe { Exposed::of_device(&fabric, &memory, Box::new(())) }
        };
        assert!(expose(0, 8193).is_err() && expose(1, 100).is_err() && expose(0, 0).is_err());
        let (exposed, away) = (expose(4096, 4096).unwrap(), Arc::new(()));
        let aboard = |at: u64, away: &Arc<()>| {
            let landing = Landing::from_vec(vec![7; 100]);
            // SAFETY: nobody else knows the memory.
            unsafe { landing.or_aboard(&exposed, address + at, Arc::clone(away) as _) }
        };
        let reach = Reach::new(&fabric).unwrap();
        assert!(aboard(3997, &away).reach(&reach, &[]).is_none(), "it does not end there");
        let mut landing = aboard(3996, &away);
        let piece = landing.reach(&reach, &[]).unwrap().remove(0);
        assert_eq!((piece.address, piece.bytes), (address + 3996, 100));
        assert!(landing.is_aboard() && landing.settle());
        assert_eq!(landing.piece_at(98), [7, 7], "what comes another way comes here");
        landing.reach(&reach, &[]).unwrap();
        assert!(!reach.is_over());
        assert_eq!(Arc::strong_count(&away), 2);
        drop(landing);
        assert!(reach.is_over() && Arc::strong_count(&away) == 1);
        assert!(aboard(0, &away).reach(&reach, &[]).is_none(), "the pair is over");
    }

    #[test]
    fn memory_that_is_not_exposed_or_a_pair_that_is_over_reaches_nothing() {
        let (memory, exposed, reach) = reached(64);
        let exposed = [exposed];
        let mut elsewhere = Landing::from_vec(vec![0; 9]);
        assert!(elsewhere.reach(&reach, &exposed).is_none() && elsewhere.reached.is_none());
        assert!(Landing::from_vec(Vec::new()).reach(&reach, &exposed).is_none());
        reach.end();
        let mut landing = memory.landing(&[(memory.address(), 64)]).unwrap();
        assert!(landing.reach(&reach, &exposed).is_none());
    }
}
