//! `compare`: gets and puts of many shapes from Larder, Redis and memcached, in one run.
//!
//! For each size the servers are started and filled, and for each shape of that size the rounds of
//! all servers are interleaved; a ratio is one of rounds of one number, so that a slow second of
//! the machine hits all of them. What is compared is in `results.rs`.

mod results;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use larder_benches::cpu;
use larder_benches::machine::Machine;
use larder_benches::matrix::{
    Crew, Deed, Entrant, Field, FieldShape, Kind, Order, Setup, memory_bytes,
};
use larder_benches::report::Output;
use larder_benches::units::{format_bytes, parse_object_bytes, parse_seconds};

use super::{Failure, worker};
use results::{Results, Round, Shape};

/// Get and put against Redis and memcached, over TCP, Unix sockets and shared memory, in one run
///
/// Starts redis-server, memcached and larder-node, stores the same objects in each, and lets the
/// same client processes read and write them, one server at a time. Beside them the same processes
/// copy the same amount of cold memory. Every cell is verified.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  larder-bench compare --quick\n  \
    larder-bench compare --json compare.json > compare.md\n  \
    larder-bench compare --sizes 1MiB --put-sizes none --clients 1 --batch 1,16 --seconds 2")]
pub(super) struct Compare {
    /// A part of the matrix, in about a minute; what else is given says otherwise
    #[arg(long)]
    quick: bool,
    /// Bytes of one object that is read [default: 100B,1KiB,4KiB,64KiB,1MiB,4MiB; quick: 4KiB,1MiB]
    #[arg(long, value_name = "SIZE,…", value_parser = parse_sizes)]
    sizes: Option<Sizes>,
    /// Bytes of one object that is put, or none [default: 64KiB,1MiB,4MiB; quick: 1MiB]
    #[arg(long, value_name = "SIZE,…", value_parser = parse_sizes)]
    put_sizes: Option<Sizes>,
    /// Client processes that work at the same time
    #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_value = "1,8",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    clients: Vec<u16>,
    /// Keys of one get
    #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_value = "1,16",
        value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: Vec<u16>,
    /// Seconds of one measurement [default: 0.5; quick: 0.1]
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    seconds: Option<Duration>,
    /// Rounds; medians are told
    #[arg(long, value_name = "COUNT", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Shards of the node
    #[arg(long, value_name = "COUNT", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,
    /// The node to start [default: larder-node beside this program]
    #[arg(long, value_name = "FILE")]
    node_program: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Sizes of objects, perhaps none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sizes(Vec<u32>);

/// What one entrant did in one shape.
struct Cell {
    entrant: Entrant,
    rounds: Vec<Round>,
}

impl Compare {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let started = Instant::now();
        let machine = Machine::this();
        let mut results = Results::new(self.rounds, self.seconds(), machine.cold_bytes());
        let (sizes, put_sizes) = (self.sizes(), self.put_sizes());
        let mut all: Vec<u32> = sizes.iter().chain(&put_sizes).copied().collect();
        all.sort_unstable();
        all.dedup();
        for size in all {
            let (gets, puts) = (sizes.contains(&size), put_sizes.contains(&size));
            self.one_size(size, gets, puts, &machine, &mut results)?;
            eprintln!("{:.0} s since the start", started.elapsed().as_secs_f64());
        }
        self.output.emit("compare", &results, &results.table())?;
        results.notes.iter().for_each(|note| eprintln!("- {note}"));
        Ok(if results.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn one_size(
        &self,
        size: u32,
        gets: bool,
        puts: bool,
        machine: &Machine,
        results: &mut Results,
    ) -> Result<(), Failure> {
        let cold_bytes = machine.cold_bytes();
        let batch_max = self.batch.iter().copied().max().unwrap_or(1);
        let keys = (cold_bytes / u64::from(size)).clamp(batch_max.into(), KEYS_MAX);
        eprintln!(
            "{}: starting servers, storing {keys} objects in each",
            format_bytes(size.into())
        );
        let field = Field::start(&FieldShape {
            node_program: self.node_program.clone(),
            shards: self.shards,
            cores: machine.cores,
            memory_bytes: memory_bytes(),
            object_bytes: size,
            keys,
        })?;
        let setup = Setup {
            number: 0,
            workers: self.clients.iter().copied().max().unwrap_or(1).into(),
            object_bytes: size,
            keys,
            batch_max: batch_max.into(),
            cold_bytes,
            puts,
            links: field.entrants().iter().map(|entrant| entrant.link.clone()).collect(),
        };
        let mut crew = worker::start(&setup)?;
        for (link, entrant) in field.entrants().iter().enumerate() {
            let checked = crew.check_all(link, CHECKED_OBJECTS)?;
            results.note_check(entrant, &checked)?;
        }
        let mut shapes = Vec::new();
        for &clients in &self.clients {
            let shape = |deed, batch| Shape { deed, size, clients, batch };
            if gets {
                shapes.extend(self.batch.iter().map(|batch| shape(Deed::Get, *batch)));
            }
            if puts {
                shapes.push(shape(Deed::Put, 1));
            }
        }
        // What was stored beforehand is read before anybody writes over it.
        shapes.sort_by_key(|shape| shape.deed == Deed::Put);
        for shape in shapes {
            let cells = self.one_shape(shape, field.entrants(), &mut crew)?;
            results.add(shape, cells.into_iter().map(|cell| (cell.entrant, cell.rounds)));
            eprintln!("{}", results.last_line());
        }
        Ok(())
    }

    fn one_shape(
        &self,
        shape: Shape,
        entrants: &[Entrant],
        crew: &mut Crew,
    ) -> Result<Vec<Cell>, Failure> {
        let mut cells = Vec::new();
        let mut places = Vec::new();
        for (link, entrant) in entrants.iter().enumerate() {
            if shape.deed == Deed::Get || entrant.puts {
                places.push(link);
                cells.push(Cell { entrant: entrant.clone(), rounds: Vec::new() });
            }
        }
        // The first round warms everything up and is not told.
        for round in 0..=self.rounds {
            let seconds = if round == 0 { self.seconds() / WARM_UP_PART } else { self.seconds() };
            let mut order: Vec<(usize, &mut Cell)> =
                places.iter().copied().zip(&mut cells).collect();
            // Every other round goes the other way, so that nobody is always after the same one.
            if round % 2 == 0 {
                order.reverse();
            }
            for (link, cell) in order {
                // There is nobody to wait for, so copies vary less.
                let is_copy = cell.entrant.kind == Kind::Copy;
                let seconds = if is_copy { seconds / 2 } else { seconds };
                let measured = measure(shape, round, link, seconds, &cell.entrant, crew)?;
                if round > 0 || !measured.is_clean() {
                    cell.rounds.push(measured);
                }
            }
        }
        Ok(cells)
    }

    fn sizes(&self) -> Vec<u32> {
        let default: &[u32] = if self.quick { &SIZES_QUICK } else { &SIZES };
        self.sizes.as_ref().map_or_else(|| default.to_vec(), |sizes| sizes.0.clone())
    }

    fn put_sizes(&self) -> Vec<u32> {
        let default: &[u32] = if self.quick { &PUT_SIZES_QUICK } else { &PUT_SIZES };
        self.put_sizes.as_ref().map_or_else(|| default.to_vec(), |sizes| sizes.0.clone())
    }

    fn seconds(&self) -> Duration {
        let default = if self.quick { SECONDS_QUICK } else { SECONDS };
        self.seconds.unwrap_or(default)
    }
}

fn measure(
    shape: Shape,
    round: u16,
    link: usize,
    duration: Duration,
    entrant: &Entrant,
    crew: &mut Crew,
) -> Result<Round, Failure> {
    let version = match shape.deed {
        Deed::Get => 0,
        // Every server's own, for two ways to one server write over each other's objects.
        Deed::Put => 1 + u64::from(round) + 1000 * (link as u64 + 100 * u64::from(shape.clients)),
    };
    let batch = usize::from(shape.batch);
    let order = Order { link, deed: shape.deed, batch, duration, round: round.into(), version };
    let clients = usize::from(shape.clients);
    let server_cpu_us = || entrant.pid.map_or(Ok(0), cpu::cpu_time_us);
    crew.prepare(clients, &order)?;
    let before_us = server_cpu_us()?;
    let (ran, took) = crew.run(clients)?;
    let server_us = server_cpu_us()?.saturating_sub(before_us);
    Ok(Round::of(&ran, took, &crew.check_last(clients)?, server_us))
}

fn parse_sizes(text: &str) -> Result<Sizes, String> {
    if text == "none" {
        return Ok(Sizes(Vec::new()));
    }
    let sizes: Result<Vec<u32>, String> = text.split(',').map(parse_object_bytes).collect();
    match sizes?.into_iter().find(|size| *size > SIZE_MAX) {
        None => {
            Ok(Sizes(text.split(',').filter_map(|size| parse_object_bytes(size).ok()).collect()))
        }
        Some(_) => Err(format!("expected 1B to {}", format_bytes(SIZE_MAX.into()))),
    }
}

const SIZES: [u32; 6] = [100, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 4 << 20];
const SIZES_QUICK: [u32; 2] = [4 << 10, 1 << 20];
const PUT_SIZES: [u32; 3] = [64 << 10, 1 << 20, 4 << 20];
const PUT_SIZES_QUICK: [u32; 1] = [1 << 20];
/// memcached is told to take objects a little larger.
const SIZE_MAX: u32 = 4 << 20;
const SECONDS: Duration = Duration::from_millis(500);
const SECONDS_QUICK: Duration = Duration::from_millis(100);
const WARM_UP_PART: u32 = 5;
/// More small objects than this take longer to store than to measure, and with what every server
/// keeps for each they are colder than the caches as well.
const KEYS_MAX: u64 = 1_000_000;
/// So many are checked in every byte before anything is measured.
const CHECKED_OBJECTS: u64 = 65_536;
