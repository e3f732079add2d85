//! `compare-small`: small gets from Larder and from other servers, one server core, one connection.
//!
//! Rounds of all servers are interleaved and every ratio is taken between rounds of one number, so
//! that a slow second of the machine hits all of them. What is compared is in `results.rs`.

mod results;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use larder_benches::load::{Load, Objects, Op, Plan, Reads, Round};
use larder_benches::names::short_key_of;
use larder_benches::node_process::{NodeProcess, NodeShape};
use larder_benches::paths::PathChoice;
use larder_benches::report::Output;
use larder_benches::small::{Pipeline, Rival, RivalProcess, RivalShape};
use larder_benches::units::{format_bytes, parse_object_bytes, parse_seconds};

use super::Failure;
use results::{Driver, Results, Side, Skipped};

/// Small gets from Larder, Redis, Valkey and memcached, as ratios of one run
///
/// Starts each server on a free port with one serving thread, stores the same objects in each, and
/// asks for one object a request over one connection. All are driven by one loop over a bare
/// socket; Larder also by its client. Servers that are not installed are left out, and named.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  larder-bench compare-small --size 100B --json small.json\n  \
    larder-bench compare-small --size 1KiB --servers larder,redis --inflight 16")]
pub(super) struct CompareSmall {
    /// Bytes of one object, up to 64KiB
    #[arg(long, value_name = "SIZE", default_value = "100B", value_parser = parse_small_bytes)]
    size: u32,
    /// Requests in flight on the one connection
    #[arg(long, value_name = "COUNT", default_value_t = 64,
        value_parser = clap::value_parser!(u16).range(1..=INFLIGHT_MAX))]
    inflight: u16,
    /// Seconds of one measurement
    #[arg(long, value_name = "S", default_value = "3", value_parser = parse_seconds)]
    seconds: Duration,
    /// Rounds; medians are told
    #[arg(long, value_name = "COUNT", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Objects in each server
    #[arg(long, value_name = "COUNT", default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=4_000_000))]
    keys: u64,
    /// Which servers
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        value_enum,
        default_value = "larder,redis,memcached,valkey"
    )]
    servers: Vec<Server>,
    /// The node to start [default: larder-node beside this program]
    #[arg(long, value_name = "FILE")]
    node_program: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Server {
    Larder,
    Redis,
    Memcached,
    Valkey,
}

/// One server, driven one way.
struct Contestant {
    side: Side,
    way: Way,
    rounds: Vec<Round>,
}

enum Way {
    Client(Box<Load>),
    Bare(Box<Pipeline>),
}

/// All who take part. The processes come last, so that they end after whoever is connected.
#[derive(Default)]
struct Field {
    contestants: Vec<Contestant>,
    skipped: Vec<Skipped>,
    nodes: Vec<NodeProcess>,
    rivals: Vec<RivalProcess>,
}

impl CompareSmall {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let objects_bytes = self.keys * (u64::from(self.size) + OVERHEAD_BYTES);
        if objects_bytes > OBJECTS_BYTES_MAX {
            let most = format_bytes(OBJECTS_BYTES_MAX);
            return Err(format!("{} objects are more than {most} together", self.keys).into());
        }
        let mut field = Field::default();
        for &server in &self.servers {
            match server {
                Server::Larder => self.enter_larder(&mut field)?,
                Server::Redis => self.enter(&mut field, Rival::Redis)?,
                Server::Memcached => self.enter(&mut field, Rival::Memcached)?,
                Server::Valkey => self.enter(&mut field, Rival::Valkey)?,
            }
        }
        if field.contestants.is_empty() {
            return Err("none of the servers is installed".into());
        }
        for contestant in &mut field.contestants {
            contestant.measure(self.inflight, self.seconds.min(WARM_UP))?;
        }
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            // Every other round goes the other way, so that nobody is always after the same one.
            let mut order: Vec<&mut Contestant> = field.contestants.iter_mut().collect();
            if round % 2 == 0 {
                order.reverse();
            }
            for contestant in order {
                let measured = contestant.measure(self.inflight, self.seconds)?;
                contestant.rounds.push(measured);
            }
        }
        let sides = field.contestants.into_iter().map(|one| (one.side, one.rounds)).collect();
        let results = Results::of(&self, sides, field.skipped);
        self.output.emit("compare-small", &results, &results.table())?;
        results.notes.iter().for_each(|note| eprintln!("- {note}"));
        Ok(if results.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn enter_larder(&self, field: &mut Field) -> Result<(), Failure> {
        let shape =
            NodeShape { shards: 1, memory_bytes: MEMORY_BYTES, is_pinned: false, unix: None };
        let node = NodeProcess::start(self.node_program.as_deref(), &shape)?;
        let (address, pid) = (node.address(), node.pid());
        field.nodes.push(node);
        let load = Load::prepare(self.plan(address.to_string()))?;
        let objects = Arc::clone(load.objects());
        let mut bare = Pipeline::larder(address, pid, load.namespace(), objects)?;
        self.check_all("larder", &mut bare)?;
        let arguments =
            format!("--shards 1 --memory {} --pin-cores off", format_bytes(MEMORY_BYTES));
        let version = format!("larder-node {}", env!("CARGO_PKG_VERSION"));
        let ways = [
            (Driver::Client, Way::Client(Box::new(load))),
            (Driver::Bare, Way::Bare(Box::new(bare))),
        ];
        for (driver, way) in ways {
            let (version, arguments) = (version.clone(), arguments.clone());
            let side = Side { server: "larder", driver, version, arguments };
            field.contestants.push(Contestant { side, way, rounds: Vec::new() });
        }
        Ok(())
    }

    fn enter(&self, field: &mut Field, rival: Rival) -> Result<(), Failure> {
        let (program, texts) = (rival.program(), rival.texts());
        let Some(path) = rival.find() else {
            let why = format!("there is no {program} on the PATH");
            eprintln!("{program} is left out: {why}");
            field
                .skipped
                .extend(texts.iter().map(|(server, _)| Skipped { server, why: why.clone() }));
            return Ok(());
        };
        let objects = Arc::new(Objects::new(self.size, self.keys, 1, short_key_of));
        let inflight = usize::from(self.inflight);
        let shape = RivalShape { threads: 1, inflight, memory_bytes: MEMORY_BYTES, unix: None };
        let process = RivalProcess::start(rival, &path, &shape)?;
        let (endpoint, pid) = (process.endpoint().clone(), process.pid());
        let arguments = process.arguments().join(" ");
        let stored = process.store_all(texts[0].1, &objects);
        field.rivals.push(process);
        stored?;
        let version = Rival::version(&path);
        for &(server, text) in texts {
            let mut bare = Pipeline::text(&endpoint, pid, text, Arc::clone(&objects))?;
            self.check_all(server, &mut bare)?;
            let (version, arguments) = (version.clone(), arguments.clone());
            let side = Side { server, driver: Driver::Bare, version, arguments };
            let way = Way::Bare(Box::new(bare));
            field.contestants.push(Contestant { side, way, rounds: Vec::new() });
        }
        Ok(())
    }

    /// Every object must be there, and right, before anything is measured.
    fn check_all(&self, server: &str, bare: &mut Pipeline) -> Result<(), Failure> {
        let score = bare.read_all(usize::from(self.inflight))?;
        if let Some(wrong) = score.first_wrong {
            return Err(format!("{server} gave {} wrong objects back: {wrong}", score.wrong).into());
        }
        if score.misses > 0 {
            return Err(format!("{server} lost {} of {} objects", score.misses, score.ops).into());
        }
        Ok(())
    }

    fn plan(&self, node: String) -> Plan {
        Plan {
            node,
            op: Op::Get,
            object_bytes: self.size,
            keys: self.keys,
            batch: 1,
            inflight: usize::from(self.inflight),
            clients: 1,
            put_percent: 0,
            key_of: short_key_of,
            verify_one_in: VERIFY_ONE_IN,
            rate_per_s: None,
            deadline: Duration::from_secs(10),
            reads: Reads::Allocated,
            path: PathChoice::Tcp,
            rdma_device: None,
            cold_bytes: 0,
        }
    }
}

impl Contestant {
    fn measure(&mut self, inflight: u16, duration: Duration) -> Result<Round, Failure> {
        Ok(match &mut self.way {
            Way::Client(load) => load.run(duration, |_| ())?,
            Way::Bare(bare) => bare.run(usize::from(inflight), VERIFY_ONE_IN, duration)?,
        })
    }
}

fn parse_small_bytes(text: &str) -> Result<u32, String> {
    let small = parse_object_bytes(text).ok().filter(|bytes| *bytes <= SMALL_BYTES_MAX);
    small.ok_or_else(|| format!("expected 1B to {}", format_bytes(SMALL_BYTES_MAX.into())))
}

/// Of so many objects one is checked in every byte while it is measured.
const VERIFY_ONE_IN: u64 = 64;
const SMALL_BYTES_MAX: u32 = 64 << 10;
/// So many requests fit into the sockets on their way, even if nobody reads them meanwhile.
const INFLIGHT_MAX: i64 = 1024;
const WARM_UP: Duration = Duration::from_millis(300);
/// What Larder and memcached may use; the others have no limit.
const MEMORY_BYTES: u64 = 1 << 30;
/// Three quarters of it, so that nobody evicts.
const OBJECTS_BYTES_MAX: u64 = 768 << 20;
/// What an object takes beside its bytes in the server that takes most; guessed.
const OVERHEAD_BYTES: u64 = 160;
