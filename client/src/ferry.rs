//! Objects straight into a device's memory, and out of it.
//!
//! From a node on this host an object goes from where the node has it: the device reads it there
//! under a lease, and no processor touches it. From others it comes over the network into pinned
//! memory, a bay, and on from there while the next bytes arrive.
//!
//! What a reader would get wrong: when [`Ferry::get`] returns, answers are final and bytes are not
//! there yet. They are when the event has happened that it answers, and nothing is written to the
//! pages of a key that was answered with an error after that either; what they hold is unspecified.

mod pins;
mod quay;

use std::time::Instant;

use larder_gpu_bridge::{Batch, Device, DeviceError, Direction, Placed};
use larder_protocol::limits::INLINE_BYTES_MAX;
use larder_protocol::{Key, Status};

use crate::client::Client;
use crate::config::{GetOptions, PutOptions};
use crate::error::{Error, KeyError, KeyResult};
use crate::lease::Lease;
use crate::namespace::Namespace;
use crate::object::{Pieces, PutObject};
use pins::Pins;
use quay::Quay;

/// Carries objects between the cache and a device. One at a time uses it; make one for each stream.
///
/// ```no_run
/// # #[cfg(feature = "cuda")] {
/// use larder_client::{
///     Berth, Client, Config, Ferry, FerryConfig, GetOptions, Key, NamespaceSpec,
/// };
/// use larder_gpu_bridge::cuda::CudaDevice;
/// use larder_gpu_bridge::{Device, Layout, PagedCache, Shape, runtimes};
///
/// # let (kv_cache, torch_stream): (u64, u64) = (0, 0);
/// # let keys: [Key; 2] = [Key::new(b"a")?, Key::new(b"b")?];
/// // The runtime's cache: 4,096 pages in one tensor that it allocated.
/// let device = CudaDevice::open(0)?;
/// let shape = Shape { layers: 32, planes: 1, page_tokens: 16, heads: 8, head_bytes: 512 };
/// let order = runtimes::vllm_order("LBNHC").expect("one of vLLM's orders");
/// let cache = PagedCache::dense(shape, 4096, order)?;
/// // SAFETY: the tensor outlives this, and pages that are named here are used by nobody else.
/// let memory = unsafe { device.adopt(kv_cache, cache.bytes()?) }?;
///
/// // Objects of one page, in an order of their own that the namespace names; once.
/// let layout = Layout::new(cache, order)?;
/// let plan = device.learn(layout.plan(1, 0..32)?)?;
/// let client = Client::connect(Config::seed("unix:/run/larder/node"))?;
/// let namespace = client.namespace(NamespaceSpec::new("acme", "llama-3-8b"))?;
/// let mut ferry = Ferry::new(&client, device.clone(), device.stream()?, &FerryConfig::default())?;
///
/// // Each request: which object goes to which page.
/// let berth = Berth { memory: &memory, plan: &plan };
/// let wanted: [(Key, &[u32]); 2] = [(keys[0], &[17]), (keys[1], &[4])];
/// let crossing = ferry.get(&namespace, &berth, &wanted, &GetOptions::default())?;
/// // SAFETY: the stream is one of the same device.
/// unsafe { crossing.event.hold_back(torch_stream) }?; // on the device: nobody waits here
/// for (key, answer) in wanted.iter().zip(&crossing.keys) {
///     if let Err(why) = answer {
///         println!("recompute page {:?}: {why}", key.1);
///     }
/// }
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Ferry<D: Device> {
    client: Client,
    device: D,
    stream: D::Stream,
    /// Used by turns: one fills while the other empties.
    bays: [Quay<D>; 2],
    bay_bytes: u64,
    legs: usize,
    pins: Pins<D>,
    crossed: Crossed,
    /// Legs to go until somebody looks again whether objects are on this host.
    far_legs: u32,
    verify: bool,
}

/// How a ferry behaves.
#[derive(Debug, Clone, Copy)]
pub struct FerryConfig {
    /// Length of each of its two bays, which bounds an object and how much is asked for at a time.
    /// Default 32 MiB: a guess, half a millisecond on the bus.
    pub bay_bytes: u64,
    /// Whether a processor reads objects of nodes on this host to check them, as it does all
    /// others. Off by default: the node checked them, nobody could write them since, and reading
    /// them costs more than to move them.
    pub verify: bool,
}

impl Default for FerryConfig {
    fn default() -> Self {
        Self { bay_bytes: 32 << 20, verify: false }
    }
}

/// The device's side of objects.
#[derive(Debug)]
pub struct Berth<'a, D: Device> {
    /// A cache.
    pub memory: &'a D::Memory,
    /// What objects have of its pages. What is got must be as long as what the plan copies.
    pub plan: &'a D::Learnt,
}

/// What a get began.
#[derive(Debug)]
pub struct Crossing<D: Device> {
    /// An answer for each key.
    pub keys: Vec<KeyResult<()>>,
    /// When all the bytes are there.
    pub event: D::Event,
}

/// Which way objects went since the ferry was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crossed {
    /// From where a node has them, by the device itself.
    pub direct: u64,
    /// Through a bay, copied there by a processor.
    pub staged: u64,
    /// Through a bay, received there.
    pub received: u64,
}

/// Why a ferry stopped. What was under way has ended.
#[derive(Debug, thiserror::Error)]
pub enum FerryError {
    /// The cache could not be asked.
    #[error(transparent)]
    Client(#[from] Error),
    /// The device refused, or failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// One part of a call: as many objects as a bay has room for.
struct Leg<'a, D: Device> {
    namespace: &'a Namespace,
    berth: &'a Berth<'a, D>,
    objects: &'a [(Key, &'a [u32])],
    options: GetOptions,
    span: u64,
}

impl<D: Device> Ferry<D> {
    /// A ferry whose copies go through `stream`: one of its own, or one that a caller works with.
    ///
    /// # Errors
    /// [`FerryError::Device`] if there is no memory for the bays, or it cannot be pinned.
    pub fn new(
        client: &Client,
        device: D,
        stream: D::Stream,
        config: &FerryConfig,
    ) -> Result<Self, FerryError> {
        let bay = || Quay::new(client, device.clone(), config.bay_bytes);
        Ok(Self {
            client: client.clone(),
            bays: [bay()?, bay()?],
            bay_bytes: config.bay_bytes,
            legs: 0,
            pins: Pins::new(device.clone()),
            crossed: Crossed::default(),
            far_legs: 0,
            verify: config.verify,
            device,
            stream,
        })
    }

    /// The stream that it copies through.
    pub const fn stream(&mut self) -> &mut D::Stream {
        &mut self.stream
    }

    /// Which way objects went.
    pub const fn crossed(&self) -> Crossed {
        self.crossed
    }

    /// Waits until the memory of nodes that was met so far is pinned, or cannot be. Until then
    /// their objects go through a bay. To be called once the first objects were got, when nobody
    /// is in a hurry: it takes seconds for many GiB.
    pub fn settle(&mut self) {
        self.pins.settle();
    }

    /// Brings objects to their pages, each whole or the parts that the options and the plan name.
    ///
    /// # Errors
    /// As [`Client::get`], and the device's. Nothing is under way then.
    pub fn get(
        &mut self,
        namespace: &Namespace,
        berth: &Berth<'_, D>,
        objects: &[(Key, &[u32])],
        options: &GetOptions,
    ) -> Result<Crossing<D>, FerryError> {
        let begun = self.begin_get(namespace, berth, objects, options);
        let event = begun.and_then(|keys| {
            let event = self.device.record(&mut self.stream)?;
            Ok(Crossing { keys, event })
        });
        event.or_else(|error| self.end(error))
    }

    fn begin_get(
        &mut self,
        namespace: &Namespace,
        berth: &Berth<'_, D>,
        objects: &[(Key, &[u32])],
        options: &GetOptions,
    ) -> Result<Vec<KeyResult<()>>, FerryError> {
        let (span, count) = self.leg_of(berth)?;
        let until = self.client.until(options.deadline);
        let mut keys = Vec::with_capacity(objects.len());
        for objects in objects.chunks(count) {
            let left = until.saturating_duration_since(Instant::now());
            let options = GetOptions { deadline: Some(left), ..options.clone() };
            let leg = Leg { namespace, berth, objects, options, span };
            keys.extend(if self.far_legs > 0 { self.receive(&leg) } else { self.lease(&leg) }?);
        }
        Ok(keys)
    }

    /// Asks for leases, and has the device read what is pinned. The rest goes through a bay.
    fn lease(&mut self, leg: &Leg<'_, D>) -> Result<Vec<KeyResult<()>>, FerryError> {
        let keys: Vec<Key> = leg.objects.iter().map(|(key, _)| *key).collect();
        let busy = KeyError::Status(Status::Busy);
        let mut leases = self.client.lease(leg.namespace, &keys, &leg.options)?;
        if leases.iter().any(|lease| lease.as_ref().err() == Some(&busy)) {
            // A node lends only so much at a time, and we may be who has it all.
            self.device.finish(&mut self.stream)?;
            for (lease, key) in leases.iter_mut().zip(&keys) {
                if lease.as_ref().err() == Some(&busy) {
                    *lease = self.client.lease(leg.namespace, &[*key], &leg.options)?.remove(0);
                }
            }
        }
        let (mut direct, mut staged) = (Vec::new(), Vec::new());
        let mut answers = Vec::with_capacity(keys.len());
        for (lease, (_, pages)) in leases.into_iter().zip(leg.objects) {
            let checked = lease.and_then(|lease| self.check(lease, leg.span));
            answers.push(checked.as_ref().map(|_| ()).map_err(Clone::clone));
            let Ok(lease) = checked else { continue };
            let place = lease.place().and_then(|(region, offset)| {
                let pinned = self.pins.pinned(region)?;
                Some((pinned, offset))
            });
            match place {
                Some((pinned, offset)) => direct.push((pinned, offset, *pages, lease)),
                None => staged.push((lease, *pages)),
            }
        }
        let is_far = direct.is_empty() && staged.iter().all(|(lease, _)| lease.place().is_none());
        if is_far && !staged.is_empty() && leg.span > u64::from(INLINE_BYTES_MAX) {
            self.far_legs = FAR_LEGS;
        }
        self.crossed.direct += direct.len() as u64;
        self.crossed.staged += staged.len() as u64;
        self.stage(leg, &staged)?;
        if direct.is_empty() {
            return Ok(answers);
        }
        let placed = direct.iter().map(|(pinned, offset, pages, _)| Placed {
            pinned,
            offset: *offset,
            pages,
        });
        let placed: Vec<_> = placed.collect();
        let Berth { memory, plan } = *leg.berth;
        let batch = Batch { direction: Direction::ToDevice, memory, plan, objects: &placed };
        let submitted = self.device.submit(&mut self.stream, &batch);
        // The leases end when the device has read what they are on, also after an error.
        let leases: Vec<Lease> = direct.into_iter().map(|(.., lease)| lease).collect();
        self.device.keep(&mut self.stream, Box::new(leases))?;
        submitted?;
        Ok(answers)
    }

    /// Copies objects into a bay, and has the device read them there.
    fn stage(&mut self, leg: &Leg<'_, D>, objects: &[(Lease, &[u32])]) -> Result<(), FerryError> {
        if objects.is_empty() {
            return Ok(());
        }
        self.legs += 1;
        let bay = &mut self.bays[self.legs % 2];
        let stride = stride(leg.span);
        let bytes = bay.bytes_mut()?;
        for (room, (lease, _)) in bytes.chunks_mut(stride as usize).zip(objects) {
            room[..lease.len()].copy_from_slice(lease);
        }
        let placed = objects.iter().zip(0..).map(|((_, pages), at)| (at * stride, *pages));
        let placed: Vec<_> = placed.collect();
        let Berth { memory, plan } = *leg.berth;
        bay.submit(&mut self.stream, Direction::ToDevice, memory, plan, &placed)?;
        Ok(())
    }

    /// Receives objects in a bay, and has the device read them there.
    fn receive(&mut self, leg: &Leg<'_, D>) -> Result<Vec<KeyResult<()>>, FerryError> {
        self.far_legs -= 1;
        self.legs += 1;
        let bay = &mut self.bays[self.legs % 2];
        let stride = stride(leg.span);
        let rooms = bay.bytes_mut()?.chunks_mut(stride as usize);
        let mut places: Vec<_> = leg
            .objects
            .iter()
            .zip(rooms)
            .map(|((key, _), room)| (*key, &mut room[..leg.span as usize]))
            .collect();
        let landed = self.client.get_into(leg.namespace, &mut places, &leg.options)?;
        let right = |landed: KeyResult<crate::Landed>| match landed {
            Ok(landed) if u64::from(landed.bytes) == leg.span => Ok(()),
            Ok(_) => Err(KeyError::Status(Status::MissSize)),
            Err(error) => Err(error),
        };
        let answers: Vec<KeyResult<()>> = landed.into_iter().map(right).collect();
        let arrived = answers.iter().zip(leg.objects).zip(0..);
        let placed = arrived
            .filter(|((answer, _), _)| answer.is_ok())
            .map(|((_, (_, pages)), at)| (at * stride, *pages));
        let placed: Vec<_> = placed.collect();
        self.crossed.received += placed.len() as u64;
        let Berth { memory, plan } = *leg.berth;
        bay.submit(&mut self.stream, Direction::ToDevice, memory, plan, &placed)?;
        Ok(answers)
    }

    /// Stores pages: what each object has of the device's memory, in its plan's order. Waits until
    /// they are stored.
    ///
    /// What the stream has before them is done first; so a stream that waits for the model stores
    /// what the model made.
    ///
    /// # Errors
    /// As [`Client::put`], and the device's.
    pub fn put(
        &mut self,
        namespace: &Namespace,
        berth: &Berth<'_, D>,
        objects: &[PutObject<&[u32]>],
        options: &PutOptions,
    ) -> Result<Vec<KeyResult<()>>, FerryError> {
        let stored = self.put_legs(namespace, berth, objects, options);
        stored.or_else(|error| self.end(error))
    }

    fn put_legs(
        &mut self,
        namespace: &Namespace,
        berth: &Berth<'_, D>,
        objects: &[PutObject<&[u32]>],
        options: &PutOptions,
    ) -> Result<Vec<KeyResult<()>>, FerryError> {
        let (span, count) = self.leg_of(berth)?;
        let (stride, until) = (stride(span), self.client.until(options.deadline));
        let mut stored = Vec::with_capacity(objects.len());
        let mut legs = objects.chunks(count).peekable();
        if let Some(first) = legs.peek() {
            self.fetch(berth, first, stride)?;
        }
        while let Some(leg) = legs.next() {
            let fetched = self.legs % 2;
            // The device fills the other bay while this one is stored.
            if let Some(next) = legs.peek() {
                self.fetch(berth, next, stride)?;
            }
            let rooms = self.bays[fetched].bytes()?.chunks(stride as usize);
            let whole: Vec<PutObject<Pieces<'_>>> = leg
                .iter()
                .zip(rooms)
                .map(|(object, room)| object.with_bytes(Pieces::One(&room[..span as usize])))
                .collect();
            stored.extend(self.client.put(namespace, &whole, &options.until(until))?);
        }
        Ok(stored)
    }

    /// Has the device write pages into the next bay.
    fn fetch(
        &mut self,
        berth: &Berth<'_, D>,
        objects: &[PutObject<&[u32]>],
        stride: u64,
    ) -> Result<(), FerryError> {
        self.legs += 1;
        let bay = &mut self.bays[self.legs % 2];
        let placed = objects.iter().zip(0..).map(|(object, at)| (at * stride, object.bytes));
        let placed: Vec<_> = placed.collect();
        let Berth { memory, plan } = *berth;
        bay.submit(&mut self.stream, Direction::FromDevice, memory, plan, &placed)?;
        Ok(())
    }

    /// Whether an object is as long as its place, and right if that is to be looked at.
    fn check(&self, lease: Lease, span: u64) -> KeyResult<Lease> {
        if lease.len() as u64 != span {
            return Err(KeyError::Status(Status::MissSize));
        }
        // What has no place in a region was checked as it came.
        if self.verify && lease.place().is_some() && !lease.verify() {
            return Err(KeyError::Status(Status::MissCorrupt));
        }
        Ok(lease)
    }

    /// How long an object is in host memory, and how many a leg has.
    fn leg_of(&self, berth: &Berth<'_, D>) -> Result<(u64, usize), FerryError> {
        let span = D::plan(berth.plan).object_span();
        let count = self.bay_bytes.checked_div(stride(span)).unwrap_or(0);
        if span == 0 || count == 0 {
            let what = "a plan of nothing, or of objects that a bay has no room for";
            return Err(Error::InvalidArgument { what }.into());
        }
        Ok((span, usize::try_from(count).unwrap_or(usize::MAX)))
    }

    /// Ends what is under way: after an error is answered nothing touches the pages any more.
    fn end<T>(&mut self, error: FerryError) -> Result<T, FerryError> {
        if let Err(error) = self.device.finish(&mut self.stream) {
            tracing::warn!(%error, "a device did not end what it had begun");
        }
        Err(error)
    }
}

/// From an object to the next in a bay: the kernel reads 16 bytes at a time.
const fn stride(span: u64) -> u64 {
    span.next_multiple_of(256)
}

/// How many legs objects are taken to be on other hosts, once a whole leg was. A guess: asking for
/// a lease in vain costs a copy of the leg.
const FAR_LEGS: u32 = 64;
