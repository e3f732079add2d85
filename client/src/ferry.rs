//! Objects straight into a device's memory, and out of it.
//!
//! From a node on this host an object goes from where the node has it: the device reads it there
//! under a lease, and no processor touches it. From others it comes over the network: by cards into
//! memory of the device, a dock, where the device checks it; else into pinned memory, a bay, and on
//! from there while the next bytes arrive.
//!
//! What a reader would get wrong: when [`Ferry::get`] returns, answers are final and bytes are not
//! there yet. They are when the event has happened that it answers, and nothing is written to the
//! pages of a key that was answered with an error after that either; what they hold is unspecified.

mod cargo;
mod leg;
mod load;
mod pins;
mod quay;
mod receive;
mod unload;

use larder_gpu_bridge::{Device, DeviceError, DeviceRange};
use larder_protocol::Key;

use crate::client::Client;
use crate::config::{GetOptions, PutOptions};
use crate::error::{Error, KeyResult};
use crate::namespace::Namespace;
use crate::object::PutObject;
use cargo::{Paged, Ranged};
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
    /// Whether network cards write objects of nodes on other hosts straight into memory of the
    /// device, as much of it as the bays have, where card and device let them. They are checked
    /// there, by the device, before they are answered. Off by default: that a card which was told
    /// to stop writes nothing more there was not shown on hardware yet.
    pub docks: bool,
}

impl Default for FerryConfig {
    fn default() -> Self {
        Self { bay_bytes: 32 << 20, verify: false, docks: false }
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
pub struct Crossing<D: Device, T = ()> {
    /// An answer for each key.
    pub keys: Vec<KeyResult<T>>,
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
    /// Into memory of the device, by a network card.
    pub landed: u64,
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
        let (memories, bay_bytes) = (&client.shared.memories, config.bay_bytes);
        let bay = || Quay::new(memories, device.clone(), bay_bytes, config.docks);
        Ok(Self {
            client: client.clone(),
            bays: [bay()?, bay()?],
            bay_bytes,
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
        let cargo = Paged { berth, objects: objects.to_vec() };
        let begun = check(berth).and_then(|()| self.load(namespace, &cargo, options));
        let begun = begun.map(|keys| keys.into_iter().map(|key| key.map(drop)).collect());
        self.crossing(begun)
    }

    /// As [`Ferry::get`], for objects that lie in ranges of device memory which no plan describes:
    /// each in its own, one behind the other, and as long as they are together or shorter. Answers
    /// how many bytes each has.
    ///
    /// # Errors
    /// As [`Ferry::get`].
    pub fn get_ranges(
        &mut self,
        namespace: &Namespace,
        objects: &[(Key, &[DeviceRange<'_, D>])],
        options: &GetOptions,
    ) -> Result<Crossing<D, u32>, FerryError> {
        let cargo = Ranged { objects: objects.to_vec() };
        let begun = self.load(namespace, &cargo, options);
        self.crossing(begun)
    }

    fn crossing<T>(
        &mut self,
        begun: Result<Vec<KeyResult<T>>, FerryError>,
    ) -> Result<Crossing<D, T>, FerryError> {
        let event = begun.and_then(|keys| {
            let event = self.device.record(&mut self.stream)?;
            Ok(Crossing { keys, event })
        });
        event.or_else(|error| self.end(error))
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
        let named = objects.iter().map(|object| (object.key, object.bytes));
        let cargo = Paged { berth, objects: named.collect() };
        let stored = check(berth).and_then(|()| self.unload(namespace, &cargo, objects, options));
        stored.or_else(|error| self.end(error))
    }

    /// As [`Ferry::put`], for objects that lie in ranges of device memory which no plan describes,
    /// one behind the other.
    ///
    /// # Errors
    /// As [`Ferry::put`].
    pub fn put_ranges(
        &mut self,
        namespace: &Namespace,
        objects: &[PutObject<&[DeviceRange<'_, D>]>],
        options: &PutOptions,
    ) -> Result<Vec<KeyResult<()>>, FerryError> {
        let named = objects.iter().map(|object| (object.key, object.bytes));
        let cargo = Ranged { objects: named.collect() };
        let stored = self.unload(namespace, &cargo, objects, options);
        stored.or_else(|error| self.end(error))
    }

    /// Ends what is under way: after an error is answered nothing touches the pages any more.
    fn end<T>(&mut self, error: FerryError) -> Result<T, FerryError> {
        if let Err(error) = self.device.finish(&mut self.stream) {
            tracing::warn!(%error, "a device did not end what it had begun");
        }
        Err(error)
    }
}

/// Whether there is anything to carry.
fn check<D: Device>(berth: &Berth<'_, D>) -> Result<(), FerryError> {
    if D::plan(berth.plan).object_span() == 0 {
        return Err(Error::InvalidArgument { what: "a plan of nothing" }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    /// It is compiled as an example of [`super::Ferry`], where device support is built.
    #[test]
    fn readme_shows_what_is_compiled() {
        let example = include_str!("ferry.rs").split("/// ```no_run\n").nth(1).unwrap();
        let example = example.split("/// ```\n").next().unwrap();
        let shown = example.lines().map(|line| line.trim_start_matches("///"));
        let shown = shown.map(|line| line.strip_prefix(' ').unwrap_or(line));
        let shown: Vec<&str> = shown.filter(|line| !line.starts_with("# ")).collect();
        assert!(shown.len() > 20, "{shown:?}");
        let readme = include_str!("../../README.md");
        assert!(readme.contains(&shown.join("\n")), "{}", shown.join("\n"));
    }
}
