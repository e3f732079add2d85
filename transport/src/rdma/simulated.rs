//! A fabric in this process: slow, out of order between pairs, and as faulty as it is told to be.
//!
//! It moves real bytes between real memory, packet by packet, in an order that a seed draws, so a
//! run that went wrong can be run again. What a reader would get wrong: it does by and by what a
//! card does at any time, and nothing by itself; somebody has to [`step`](SimulatedFabric::step).
//! Packets that were sent before a pair ended still arrive at the peer, as they would.

mod mapped;
mod memory;
mod peer;

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_protocol::message::PairAddress;

use crate::rdma::device_memory::{DeviceMemory, Home as DeviceHome};
use crate::rdma::fabric::{Completion, Direction, Fabric, FabricError, QueuePair, Work, WorkError};
use crate::region::Region;
use crate::registered::Registered;

use mapped::Mapped;
pub use memory::SimulatedMemory;
use memory::{Entry, Home, Span};
pub use peer::PeerMemory;

/// The fabric. Clones are the same; one for all sides.
#[derive(Debug, Clone)]
pub struct SimulatedFabric {
    world: Arc<Mutex<World>>,
}

/// What goes wrong, each in so many of 1,000 cases.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Completions that are never told.
    pub completions_lost: u32,
    /// Completions that are told twice.
    pub completions_doubled: u32,
}

/// A queue pair of a [`SimulatedFabric`].
#[derive(Debug)]
pub struct SimulatedPair {
    world: Arc<Mutex<World>>,
    number: u32,
}

#[derive(Debug)]
struct World {
    random: u64,
    faults: Faults,
    connecting_takes: Duration,
    refuses_memory: bool,
    writes_to_spoil: u32,
    last_key: u32,
    last_number: u32,
    memories: BTreeMap<u32, Span>,
    pairs: BTreeMap<u32, Pair>,
}

#[derive(Debug, Default)]
struct Pair {
    works_max: usize,
    peer: Option<u32>,
    has_ended: bool,
    is_cut: bool,
    /// Posted, and not completed.
    works: VecDeque<Work>,
    /// How many of these have sent all their packets, and the bytes of the next that were sent.
    works_sent: usize,
    bytes_sent: u32,
    /// On their way to the peer, or from it, in order.
    packets: VecDeque<Packet>,
    completions: VecDeque<Completion>,
    /// Completions that are told once more, some time.
    echoes: Vec<Completion>,
}

/// A packet of one pair's works.
#[derive(Debug)]
struct Packet {
    work: Work,
    from: u32,
    /// What it carries to the peer; nothing if it asks for bytes.
    bytes: Vec<u8>,
    asked: u32,
    is_last: bool,
}

impl SimulatedFabric {
    /// A fabric that does the same for the same seed and the same calls.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let world = World {
            random: seed,
            faults,
            connecting_takes: Duration::ZERO,
            refuses_memory: false,
            writes_to_spoil: 0,
            last_key: 0,
            last_number: 0,
            memories: BTreeMap::new(),
            pairs: BTreeMap::new(),
        };
        Self { world: Arc::new(Mutex::new(world)) }
    }

    /// Does one thing, if there is one to do: a packet is sent, or arrives, or is given up.
    pub fn step(&self) -> bool {
        lock(&self.world).step()
    }

    /// Cuts the link of a pair: nothing arrives there or comes from there.
    pub fn cut(&self, pair: &PairAddress) {
        if let Some(pair) = lock(&self.world).pairs.get_mut(&pair.number) {
            pair.is_cut = true;
        }
    }

    /// From now on a pair takes so long to be connected, as where a card looks for its peer.
    pub fn connect_slowly(&self, takes: Duration) {
        lock(&self.world).connecting_takes = takes;
    }

    /// From now on no memory of callers is taken, as where no more may be locked.
    pub fn refuse_memory(&self) {
        lock(&self.world).refuses_memory = true;
    }

    /// Of so many packets that are written from now on a bit is another one when they arrive, as
    /// where what is between card and memory is broken.
    pub fn spoil_writes(&self, packets: u32) {
        lock(&self.world).writes_to_spoil = packets;
    }

    /// Keeps everything as it is until the answer is dropped.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Drop + '_ {
        lock(&self.world)
    }

    fn enter(&self, address: u64, bytes: u64, home: Home) -> SimulatedMemory {
        let span = Span::new(address, bytes, &home);
        let mut world = lock(&self.world);
        world.last_key += 1;
        let key = world.last_key;
        world.memories.insert(key, span);
        drop(world);
        let world = Arc::clone(&self.world);
        SimulatedMemory { entry: Arc::new(Entry { world, key, span, _home: home }) }
    }
}

impl Fabric for SimulatedFabric {
    type Memory = SimulatedMemory;
    type Pair = SimulatedPair;

    fn register(&self, region: &Arc<Region>) -> Result<SimulatedMemory, FabricError> {
        let address = region.base().as_ptr().expose_provenance() as u64;
        Ok(self.enter(address, region.bytes(), Home::Region(Arc::clone(region))))
    }

    unsafe fn expose(&self, memory: &Registered) -> Result<SimulatedMemory, FabricError> {
        if lock(&self.world).refuses_memory {
            return Err(refused("expose", ErrorKind::OutOfMemory));
        }
        let (address, bytes) = (memory.address() as u64, memory.len() as u64);
        Ok(self.enter(address, bytes, Home::Registered(memory.clone())))
    }

    unsafe fn expose_device(
        &self,
        memory: &DeviceMemory<'_>,
        home: DeviceHome,
    ) -> Result<SimulatedMemory, FabricError> {
        if lock(&self.world).refuses_memory {
            return Err(refused("expose_device", ErrorKind::OutOfMemory));
        }
        let mapped = Mapped::new(memory)?;
        Ok(self.enter(memory.address, memory.bytes, Home::Device(mapped, home)))
    }

    fn pair(&self, works_max: u32) -> Result<SimulatedPair, FabricError> {
        let mut world = lock(&self.world);
        world.last_number += 1;
        let number = world.last_number;
        let pair = Pair { works_max: works_max as usize, ..Pair::default() };
        world.pairs.insert(number, pair);
        drop(world);
        Ok(SimulatedPair { world: Arc::clone(&self.world), number })
    }
}

impl QueuePair for SimulatedPair {
    fn address(&self) -> PairAddress {
        let packet_bytes_max = PACKET_BYTES_MAX as u16;
        PairAddress {
            gid: [0; 16],
            lid: 0,
            number: self.number,
            first_packet: 0,
            packet_bytes_max,
            reads_max: 1,
        }
    }

    fn connect(&mut self, peer: &PairAddress) -> Result<(), FabricError> {
        let takes = lock(&self.world).connecting_takes;
        if !takes.is_zero() {
            std::thread::sleep(takes);
        }
        let mut world = lock(&self.world);
        let pair = world.own(self.number);
        if pair.peer.is_some() || pair.has_ended {
            return Err(refused("connect", ErrorKind::InvalidInput));
        }
        pair.peer = Some(peer.number);
        Ok(())
    }

    unsafe fn post(&mut self, works: &[Work]) -> Result<(), FabricError> {
        let mut world = lock(&self.world);
        let pair = world.own(self.number);
        if pair.peer.is_none() {
            return Err(refused("post", ErrorKind::NotConnected));
        }
        if pair.works.len() + works.len() > pair.works_max {
            return Err(refused("post", ErrorKind::OutOfMemory));
        }
        pair.works.extend(works);
        if pair.has_ended {
            pair.flush();
        }
        Ok(())
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<(), FabricError> {
        let mut world = lock(&self.world);
        let echoes = world.draw(4) == 0;
        let pair = world.own(self.number);
        into.extend(pair.completions.drain(..));
        if echoes {
            into.append(&mut pair.echoes);
        }
        Ok(())
    }

    fn end(&mut self) {
        let mut world = lock(&self.world);
        let pair = world.own(self.number);
        pair.has_ended = true;
        pair.flush();
    }
}

impl Drop for SimulatedPair {
    fn drop(&mut self) {
        lock(&self.world).retire(self.number);
    }
}

impl World {
    fn own(&mut self, number: u32) -> &mut Pair {
        self.pairs.get_mut(&number).expect("a pair is there as long as its owner")
    }

    /// One thing of one pair.
    fn step(&mut self) -> bool {
        let busy = self.pairs.iter().filter(|(_, pair)| pair.is_busy()).map(|(&number, _)| number);
        let busy: Vec<u32> = busy.collect();
        if busy.is_empty() {
            return false;
        }
        let number = busy[self.draw(busy.len() as u64) as usize];
        let pair = &self.pairs[&number];
        let may_send = !pair.has_ended && pair.works_sent < pair.works.len();
        if pair.packets.is_empty() || may_send && self.draw(2) == 0 {
            self.send(number);
        } else {
            self.arrive(number);
        }
        true
    }

    /// The next packet of a pair leaves, with the bytes as they are now.
    fn send(&mut self, number: u32) {
        let packet_bytes = 1 + self.draw(PACKET_BYTES_MAX) as u32;
        let pair = self.own(number);
        let (work, from) = (pair.works[pair.works_sent], pair.bytes_sent);
        let asked = packet_bytes.min(work.remote.bytes - from);
        let is_last = from + asked == work.remote.bytes;
        if is_last {
            (pair.works_sent, pair.bytes_sent) = (pair.works_sent + 1, 0);
        } else {
            pair.bytes_sent += asked;
        }
        let mut bytes = Vec::new();
        if work.direction == Direction::Write {
            // The card looks its own keys up, too.
            let address = work.local_address + u64::from(from);
            let Some(found) = self.memory(work.local_key, address, asked, false) else {
                return self.fail(number, WorkError::Other(LOCAL_ACCESS));
            };
            bytes = found;
        }
        self.own(number).packets.push_back(Packet { work, from, bytes, asked, is_last });
    }

    /// The first packet of a pair on its way arrives, and its answer.
    fn arrive(&mut self, number: u32) {
        let pair = self.own(number);
        let (Some(packet), peer, has_ended) = (pair.packets.pop_front(), pair.peer, pair.has_ended)
        else {
            return;
        };
        let is_cut = pair.is_cut;
        let peer = peer.and_then(|peer| self.pairs.get(&peer));
        let answers = |peer: &&Pair| !peer.has_ended && !peer.is_cut && peer.peer == Some(number);
        if is_cut || peer.filter(answers).is_none() {
            return self.fail(number, WorkError::NoAnswer);
        }
        let Packet { work, from, mut bytes, asked, is_last } = packet;
        if let Some(byte) = bytes.first_mut().filter(|_| self.writes_to_spoil > 0) {
            *byte ^= 1;
            self.writes_to_spoil -= 1;
        }
        let there = work.remote.address + u64::from(from);
        let here = work.local_address + u64::from(from);
        let arrived = match work.direction {
            Direction::Write => self.fill(work.remote.rkey, there, &bytes, true),
            // What it brings is only taken by a pair that lives.
            Direction::Read => self
                .memory(work.remote.rkey, there, asked, true)
                .is_some_and(|bytes| has_ended || self.fill(work.local_key, here, &bytes, false)),
        };
        if has_ended {
            return;
        }
        if !arrived {
            return self.fail(number, WorkError::RemoteAccess);
        }
        if is_last {
            self.complete(number);
        }
    }

    /// The first work of a pair has succeeded.
    fn complete(&mut self, number: u32) {
        let (lost, doubled) = (self.draw(1000), self.draw(1000));
        let faults = self.faults;
        let pair = self.own(number);
        let work = pair.works.pop_front().expect("a work that was sent is not completed yet");
        pair.works_sent -= 1;
        if !work.is_signalled || lost < u64::from(faults.completions_lost) {
            return;
        }
        let completion = Completion { number: work.number, outcome: Ok(()) };
        pair.completions.push_back(completion);
        if doubled < u64::from(faults.completions_doubled) {
            pair.echoes.push(completion);
        }
    }

    /// The first work of a pair has failed, and the pair with it.
    fn fail(&mut self, number: u32, why: WorkError) {
        let pair = self.own(number);
        if pair.has_ended {
            return;
        }
        if let Some(work) = pair.works.pop_front() {
            pair.completions.push_back(Completion { number: work.number, outcome: Err(why) });
        }
        pair.has_ended = true;
        pair.flush();
    }

    /// The owner of a pair is gone. What it sent may still arrive, but nothing comes back.
    fn retire(&mut self, number: u32) {
        let pair = self.own(number);
        pair.has_ended = true;
        pair.works.clear();
        pair.packets.retain(|packet| packet.work.direction == Direction::Write);
        if pair.packets.is_empty() {
            self.pairs.remove(&number);
        }
    }

    /// A copy of registered memory, if it is that.
    fn memory(&self, key: u32, address: u64, bytes: u32, by_peer: bool) -> Option<Vec<u8>> {
        let span = self.memories.get(&key)?;
        if !span.contains(address, bytes.into()) || by_peer && !span.for_peers {
            return None;
        }
        let from = with_exposed_provenance::<u8>(span.place(address)?);
        let mut copy = vec![0; bytes as usize];
        // SAFETY: it is inside of memory that was registered and is kept until it is not; whoever
        // told its key, or posted a work with it, promised that it may be read.
        unsafe { std::ptr::copy_nonoverlapping(from, copy.as_mut_ptr(), copy.len()) };
        Some(copy)
    }

    /// Writes to registered memory, if it is that.
    fn fill(&self, key: u32, address: u64, bytes: &[u8], by_peer: bool) -> bool {
        let Some(span) = self.memories.get(&key) else { return false };
        if !span.contains(address, bytes.len() as u64) || by_peer && !span.for_peers {
            return false;
        }
        let Some(place) = span.place(address) else { return false };
        let to = with_exposed_provenance_mut::<u8>(place);
        // SAFETY: as for reading, with the promise that it may be written.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        true
    }

    /// A number below `limit`, by SplitMix64.
    fn draw(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

impl Pair {
    fn is_busy(&self) -> bool {
        !self.packets.is_empty() || !self.has_ended && self.works_sent < self.works.len()
    }

    /// All works complete as flushed.
    fn flush(&mut self) {
        let flushed = self
            .works
            .drain(..)
            .map(|work| Completion { number: work.number, outcome: Err(WorkError::Flushed) });
        self.completions.extend(flushed);
        (self.works_sent, self.bytes_sent) = (0, 0);
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(verb: &'static str, kind: ErrorKind) -> FabricError {
    FabricError::new(verb, kind.into())
}

const PACKET_BYTES_MAX: u64 = 4096;
/// As verbs number it.
const LOCAL_ACCESS: u32 = 4;
