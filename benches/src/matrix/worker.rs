//! A worker: one client process of a comparison, which does what it is told and measures itself.
//!
//! In what is timed every object is held against its length and its first and last 8 bytes, on
//! every server; every byte is checked outside of it, by an order that follows. CPU is that of the
//! whole process, so a client's own threads count.

use std::io::{self, BufRead, Write};
use std::time::{Duration, Instant};

use larder_protocol::Key;
use larder_transport::process;

use super::link::{Link, LinkError, Wanted};
use super::order::{Ask, Deed, Order, Ran, Setup};
use super::source::{Memory, Offer, Source};
use crate::cold::ColdMemory;
use crate::latency::Latency;
use crate::load::Objects;
use crate::names::short_key_of;
use crate::random::{Random, mix};

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// Whoever started it cannot be understood, or is gone.
    #[error("orders: {0}")]
    Orders(#[from] io::Error),
    /// A line is no order.
    #[error("orders: {0}")]
    Json(#[from] serde_json::Error),
    /// It has no connection to a server, or no memory to share with it.
    #[error("server {link}: {source}")]
    Link {
        /// Its place in the setup.
        link: usize,
        /// Why not.
        source: LinkError,
    },
}

/// Reads a setup and then orders from `input`, a line each, and answers each on `output`.
///
/// # Errors
/// [`WorkError`]. What calls meet is counted instead.
pub fn work(mut input: impl BufRead, mut output: impl Write) -> Result<(), WorkError> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let mut worker = Worker::new(serde_json::from_str(&line)?)?;
    answer(&mut output, &Ran::default())?;
    for line in input.lines() {
        let ran = match serde_json::from_str(&line?)? {
            Ask::Prepare(order) => worker.prepare(order),
            Ask::Run => worker.run()?,
            Ask::CheckLast => worker.check_last(),
            Ask::CheckAll { link, count } => worker.check_all(link, count),
        };
        answer(&mut output, &ran)?;
    }
    Ok(())
}

fn answer(output: &mut impl Write, ran: &Ran) -> Result<(), WorkError> {
    serde_json::to_writer(&mut *output, ran)?;
    output.write_all(b"\n")?;
    Ok(output.flush()?)
}

#[derive(Debug)]
struct Worker {
    setup: Setup,
    objects: Objects,
    links: Vec<Link>,
    ring: ColdMemory,
    own: Source,
    /// For each link that puts from memory it shares.
    shared: Vec<Option<Source>>,
    picked: Picked,
    last: Option<Order>,
}

/// What is asked for next.
#[derive(Debug, Default)]
struct Picked {
    random: Option<Random>,
    indexes: Vec<u64>,
    keys: Vec<Key>,
}

impl Worker {
    fn new(setup: Setup) -> Result<Self, WorkError> {
        let objects = Objects::new(setup.object_bytes, setup.keys, 1, short_key_of);
        let failed = |link| move |source| WorkError::Link { link, source };
        let mut links = Vec::new();
        for (number, spec) in setup.links.iter().enumerate() {
            links.push(Link::connect(spec, setup.object_bytes).map_err(failed(number))?);
        }
        let object_bytes = u64::from(setup.object_bytes);
        // The first works alone where one client is wanted: then its memory has to be cold too.
        let share = if setup.number == 0 { 1 } else { setup.workers as u64 };
        let ring = ColdMemory::new(setup.cold_bytes / share, setup.batch_max as u64 * object_bytes);
        let source_bytes = ((setup.keys / share).max(1) * object_bytes) as usize;
        let first = setup.number as u64 * setup.keys / setup.workers as u64;
        let source = |memory| Source::new(memory, first, setup.object_bytes);
        let mut shared = Vec::new();
        for (number, link) in links.iter().enumerate() {
            let bytes = if setup.puts { source_bytes.next_multiple_of(4096) } else { 0 };
            let memory = if bytes > 0 { link.shared_memory(bytes) } else { Ok(None) };
            shared.push(memory.map_err(failed(number))?.map(|m| source(Memory::Shared(m))));
        }
        let own = source(Memory::Own(vec![0; source_bytes]));
        let picked = Picked::default();
        Ok(Self { setup, objects, links, ring, own, shared, picked, last: None })
    }

    fn prepare(&mut self, order: Order) -> Ran {
        if order.deed == Deed::Put || self.links[order.link].is_copy() {
            let source = self.shared[order.link].as_mut().unwrap_or(&mut self.own);
            source.fill(&self.objects, order.version);
        }
        self.picked.random = Some(Random::new(mix(order.round, self.setup.number as u64)));
        self.last = Some(order);
        Ran::default()
    }

    fn run(&mut self) -> Result<Ran, WorkError> {
        let Some(order) = self.last.clone() else { return Ok(Ran::default()) };
        let (mut ran, mut latency) = (Ran::default(), Latency::new());
        let cpu_before_us = process::cpu_time_us(None)?;
        let started = Instant::now();
        let mut now = started;
        while now - started < order.duration || ran.ops < OPS_MIN {
            let asked = now;
            let done = match order.deed {
                Deed::Get => self.get(&order, &mut ran, false),
                Deed::Put => self.put(&order, ran.ops),
            };
            now = Instant::now();
            latency.record(now - asked);
            ran.ops += 1;
            match done {
                Ok(()) => ran.objects += order.batch as u64,
                Err(error) => ran.failed(&error),
            }
            if ran.errors >= ERRORS_MAX {
                break;
            }
        }
        ran.seconds = (now - started).as_secs_f64();
        ran.cpu_us = process::cpu_time_us(None)?.saturating_sub(cpu_before_us);
        ran.bytes = ran.objects * u64::from(self.setup.object_bytes);
        ran.latency = latency.pairs();
        Ok(ran)
    }

    /// Reads as `order` says; `ran` counts what is wrong, but no calls.
    fn get(&mut self, order: &Order, ran: &mut Ran, every_byte: bool) -> Result<(), LinkError> {
        self.pick(order);
        self.read_picked(order, ran, every_byte)
    }

    fn read_picked(
        &mut self,
        order: &Order,
        ran: &mut Ran,
        every_byte: bool,
    ) -> Result<(), LinkError> {
        let Self { objects, links, ring, own, picked, setup, .. } = self;
        let into = ring.next(picked.keys.len() as u64 * u64::from(setup.object_bytes));
        let wanted = Wanted { indexes: &picked.indexes, keys: &picked.keys };
        links[order.link].get(wanted, own, into, |index, found| {
            let content = objects.content(index, order.version);
            let verdict = if every_byte { content.check(found) } else { content.check_ends(found) };
            ran.saw(index, verdict);
        })
    }

    fn put(&mut self, order: &Order, nth: u64) -> Result<(), LinkError> {
        let source = self.shared[order.link].as_ref().unwrap_or(&self.own);
        let (index, bytes) = source.nth(nth);
        let key = self.objects.keys(index, 1)[0];
        self.picked.set(index, key);
        let into = self.ring.next(bytes.len() as u64);
        self.links[order.link].put(&Offer { key, bytes }, into)
    }

    fn pick(&mut self, order: &Order) {
        let Self { objects, links, own, picked, .. } = self;
        let is_copy = links[order.link].is_copy();
        let (first, count) =
            if is_copy { (own.first(), own.count()) } else { (0, objects.count()) };
        let random = picked.random.get_or_insert_with(|| Random::new(order.round));
        picked.indexes.clear();
        picked.keys.clear();
        for _ in 0..order.batch {
            let index = first + random.below(count);
            picked.indexes.push(index);
            picked.keys.push(objects.keys(index, 1)[0]);
        }
    }

    fn check_last(&mut self) -> Ran {
        let mut ran = Ran::default();
        let Some(order) = self.last.clone() else { return ran };
        let done = match order.deed {
            Deed::Get => self.get(&order, &mut ran, true),
            // The object that was put last has the version of this round, or was not stored.
            Deed::Put => self.read_picked(&order, &mut ran, true),
        };
        ran.objects = order.batch as u64;
        if let Err(error) = done {
            ran.failed(&error);
        }
        ran
    }

    fn check_all(&mut self, link: usize, count: u64) -> Ran {
        let mut ran = Ran::default();
        let duration = Duration::ZERO;
        let order = Order { link, deed: Deed::Get, batch: 1, duration, round: 0, version: 0 };
        let count = count.min(self.setup.keys);
        let batch = self.setup.batch_max as u64;
        if self.links[link].is_copy() {
            return ran;
        }
        for first in (0..count).step_by(self.setup.batch_max) {
            let nths = first..count.min(first + batch);
            self.picked.indexes = nths.map(|nth| nth * self.setup.keys / count).collect();
            let key = |index: &u64| self.objects.keys(*index, 1)[0];
            self.picked.keys = self.picked.indexes.iter().map(key).collect();
            ran.objects += self.picked.indexes.len() as u64;
            if let Err(error) = self.read_picked(&order, &mut ran, true) {
                ran.failed(&error);
            }
        }
        ran
    }
}

impl Picked {
    fn set(&mut self, index: u64, key: Key) {
        self.indexes.clear();
        self.keys.clear();
        self.indexes.push(index);
        self.keys.push(key);
    }
}

/// One call of many large objects takes long; two tell more than one.
const OPS_MIN: u64 = 2;
/// A server that answers nothing any more does not hold everybody up.
const ERRORS_MAX: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{Copying, LinkSpec};
    use crate::paths::PathChoice;

    fn setup(links: Vec<LinkSpec>) -> Setup {
        Setup {
            number: 0,
            workers: 1,
            object_bytes: 5000,
            keys: 40,
            batch_max: 4,
            cold_bytes: 1 << 20,
            puts: true,
            links,
        }
    }

    fn run(worker: &mut Worker, order: Order) -> Ran {
        worker.prepare(order);
        worker.run().unwrap()
    }

    fn order(deed: Deed, batch: usize, version: u64) -> Order {
        let duration = Duration::from_millis(5);
        Order { link: 0, deed, batch, duration, round: 3, version }
    }

    #[test]
    fn a_copy_moves_what_it_says_and_is_checked() {
        let all = [Copying::Plain, Copying::Streamed, Copying::Checked];
        for copying in all {
            let mut worker = Worker::new(setup(vec![LinkSpec::Copy(copying)])).unwrap();
            let ran = run(&mut worker, order(Deed::Get, 4, 0));
            assert!(ran.ops >= OPS_MIN && ran.objects == 4 * ran.ops);
            assert_eq!((ran.bytes, ran.errors, ran.wrong), (5000 * ran.objects, 0, 0));
            assert_eq!(ran.latency.iter().map(|(_, count)| count).sum::<u64>(), ran.ops);
            assert_eq!(worker.check_last().wrong, 0);
            // Whoever expects another version finds every object wrong.
            worker.last = Some(order(Deed::Get, 4, 9));
            assert_eq!(worker.check_last().wrong, 4);
        }
    }

    #[test]
    fn a_node_is_read_and_written_and_a_lost_put_is_noticed() {
        use larder_node::config::Config;
        let config = Config { shards: 1, memory_bytes: 64 << 20, ..Config::default() };
        let node = larder_node::node::Node::start(config).unwrap();
        let address = node.address().to_string();
        let larder = |is_leased| {
            let (node, path) = (address.clone(), PathChoice::Tcp);
            LinkSpec::Larder { node, path, is_leased }
        };
        let mut worker = Worker::new(setup(vec![larder(false), larder(true)])).unwrap();
        let nothing = worker.check_all(0, 10);
        assert!(nothing.errors == 3 && nothing.objects == 10, "{nothing:?}");
        // More puts than there are objects.
        let order_put = Order { duration: Duration::from_millis(100), ..order(Deed::Put, 1, 0) };
        let put = run(&mut worker, order_put);
        assert!(put.errors == 0 && put.ops > 40, "{put:?}");
        assert_eq!(worker.check_last().wrong, 0);
        for link in [0, 1] {
            let ran = run(&mut worker, Order { link, ..order(Deed::Get, 4, 0) });
            assert_eq!((ran.errors, ran.wrong), (0, 0), "{ran:?}");
            assert_eq!((worker.check_last().errors, worker.check_all(link, 40).wrong), (0, 0));
        }
        run(&mut worker, order(Deed::Put, 1, 5));
        worker.last = Some(order(Deed::Put, 1, 6));
        assert_eq!(worker.check_last().wrong, 1);
    }

    #[test]
    fn orders_are_lines_and_bad_ones_an_error() {
        let setup = serde_json::to_string(&setup(vec![LinkSpec::Copy(Copying::Checked)]));
        let prepare = serde_json::to_string(&Ask::Prepare(order(Deed::Put, 1, 2))).unwrap();
        let lines = format!("{}\n{prepare}\n\"Run\"\n\"CheckLast\"\n", setup.unwrap());
        let mut output = Vec::new();
        work(lines.as_bytes(), &mut output).unwrap();
        let answers: Vec<Ran> = String::from_utf8(output)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(answers.len(), 4);
        assert!(answers[2].ops >= OPS_MIN && answers[2].errors == 0);
        let error = work("{}\n".as_bytes(), io::sink()).unwrap_err();
        assert!(matches!(error, WorkError::Json(_)), "{error}");
    }
}
