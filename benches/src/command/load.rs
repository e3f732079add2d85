//! `load`: operations of one kind on a node, and how fast it answers.
//!
//! Without `--rate` the loop is closed: the next operation waits for an answer, so a slow node is
//! asked less. With it the loop is open, and latency counts from when an operation was due.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use larder_benches::load::{Live, Load, Op, Plan, Reads, Round};
use larder_benches::machine::Machine;
use larder_benches::names::key_of;
use larder_benches::node_stats::{CpuSource, NodeStats};
use larder_benches::paths::PathChoice;
use larder_benches::progress::Progress;
use larder_benches::report::{Output, Table};
use larder_benches::units::{
    format_bytes, parse_bytes, parse_duration, parse_object_bytes, parse_seconds, show_bytes,
};
use larder_protocol::stats::Stat;
use serde::Serialize;

use super::{Failure, embedded};

/// Get, put or match objects as fast as a node answers, or at a given rate
///
/// Latency and CPU are those of one operation, which is a batch. Reads of up to 64 KiB an operation
/// use memory that the client allocates, from one thread a client; larger ones go straight into
/// memory of the load's own, one thread an operation in flight. With --lease they stay where the
/// node has them, and are looked at only with --verify. With --path rdma gets go into memory that
/// is registered with the network card, and puts come from such memory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    larder-bench load --node 127.0.0.1:7400 --op get --size 1MiB --seconds 10 --verify\n  \
    larder-bench load --path shm --lease --size 1MiB\n  \
    larder-bench load --node 10.0.0.7:7400 --path rdma --size 1MiB --verify\n  \
    larder-bench load --op match --size 64B --keys 1000 --batch 1000\n  \
    larder-bench load --op mixed --size 4KiB --batch 16 --rate 2000 --json load.json\n  \
    larder-bench load --embedded --op put --size 64KiB")]
pub(super) struct LoadArgs {
    /// Address of a node
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    node: String,
    /// Start a node inside this process instead; CPU is then that of both together
    #[arg(long, conflicts_with = "node")]
    embedded: bool,
    /// Memory of the embedded node
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes,
        requires = "embedded")]
    memory: u64,
    /// What an operation is
    #[arg(long, value_enum, default_value_t = Op::Get)]
    op: Op,
    /// Bytes of one object
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = parse_object_bytes)]
    size: u32,
    /// How many objects there are [default: as many as have 256MiB, at most 100000]
    #[arg(long, value_name = "COUNT",
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: Option<u64>,
    /// Objects of one operation
    #[arg(long, value_name = "COUNT", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=8192))]
    batch: u16,
    /// Operations in flight on each client
    #[arg(long, value_name = "COUNT", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=4096))]
    inflight: u16,
    /// Clients, each with connections and an I/O thread of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// How long to measure
    #[arg(long, value_name = "S", default_value = "10", value_parser = parse_seconds)]
    seconds: Duration,
    /// Of 100 operations of --op mixed, how many put
    #[arg(long, value_name = "PERCENT", default_value_t = 10,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    puts: u8,
    /// Which way the clients go to the node; shm needs its Unix socket, rdma a network card on
    /// both sides
    #[arg(long, value_enum, default_value_t)]
    path: PathChoice,
    /// The network card to use [default: the first with an active port]
    #[arg(long, value_name = "NAME")]
    rdma_device: Option<String>,
    /// Lease objects where the node has them instead of copying them
    #[arg(long)]
    lease: bool,
    /// Check every byte that is read
    #[arg(long)]
    verify: bool,
    /// Open loop: operations a second that are due, all clients together
    #[arg(long, value_name = "OPS", value_parser = parse_rate)]
    rate: Option<f64>,
    /// How long one operation may take
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    deadline: Duration,
    #[command(flatten)]
    output: Output,
}

/// Everything that `load` tells. Names are kept: programs read them.
#[derive(Debug, Serialize)]
struct Results {
    op: Op,
    path: PathChoice,
    leased: bool,
    size: u32,
    keys: u64,
    batch: u16,
    inflight: u16,
    clients: u16,
    rate_wanted: Option<f64>,
    verified: bool,
    seconds: f64,
    ops: u64,
    objects: u64,
    ops_per_s: f64,
    objects_per_s: f64,
    bytes_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    cpu_us_per_op: f64,
    cpu_us_per_object: f64,
    client_cpu_us: u64,
    node_cpu_us: u64,
    node_cpu_from: CpuSource,
    misses: u64,
    errors: u64,
    wrong: u64,
    unstarted: u64,
    last_answer_s: Option<f64>,
    last_error_s: Option<f64>,
    first_error: Option<String>,
    first_wrong: Option<String>,
    node: Option<NodeCounts>,
}

/// What the nodes counted meanwhile: which way the bytes really went.
#[derive(Debug, Serialize)]
struct NodeCounts {
    sent_bytes: u64,
    written_bytes: u64,
    stored_bytes: u64,
    pulled_bytes: u64,
    read_bytes: u64,
    evicted: u64,
    works: u64,
    doorbells: u64,
    pairs_failed: u64,
}

impl LoadArgs {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if self.lease && matches!(self.path, PathChoice::Tcp | PathChoice::Rdma) {
            return Err("--lease needs shared memory, which this --path does without: nothing \
                        would be leased; take --path shm, or auto"
                .into());
        }
        let node = if self.embedded { Some(embedded::start(1, self.memory)?) } else { None };
        let plan = self.plan(node.as_ref().map(|node| node.address().to_string()));
        let keys = plan.keys;
        let mut load = Load::prepare(plan)?;
        let started = Instant::now();
        let mut progress = Progress::new(started);
        let mut before = [0; 3];
        let mut shown = started;
        let round = load.run(self.seconds, |live| {
            let now = Instant::now();
            if progress.is_terminal() && now - shown >= Duration::from_secs(1) {
                progress.show(now, &[line(now - started, now - shown, before, live)]);
                (before, shown) = (live.read(), now);
            }
        })?;
        progress.clear();
        let results = self.results(keys, &round, load.cpu_source());
        self.output.emit("load", &results, &results.table())?;
        Ok(if results.wrong > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn plan(&self, embedded: Option<String>) -> Plan {
        let keys = self.keys.unwrap_or_else(|| {
            (KEYS_BYTES / u64::from(self.size)).clamp(u64::from(self.batch), KEYS_DEFAULT_MAX)
        });
        Plan {
            node: embedded.unwrap_or_else(|| self.node.clone()),
            op: self.op,
            object_bytes: self.size,
            keys,
            batch: usize::from(self.batch),
            inflight: usize::from(self.inflight),
            clients: usize::from(self.clients),
            put_percent: self.puts,
            key_of,
            verify_one_in: u64::from(self.verify),
            rate_per_s: self.rate,
            deadline: self.deadline,
            reads: match u64::from(self.batch) * u64::from(self.size) {
                _ if self.lease => Reads::Leased,
                _ if self.path == PathChoice::Rdma => Reads::Registered,
                0..=ALLOCATED_BYTES_MAX => Reads::Allocated,
                _ => Reads::Own,
            },
            path: self.path,
            rdma_device: self.rdma_device.clone(),
            cold_bytes: Machine::this().cold_bytes(),
        }
    }

    fn results(&self, keys: u64, round: &Round, node_cpu_from: CpuSource) -> Results {
        let (score, cost) = (&round.score, &round.cost);
        let (rates, percentiles) = (cost.rates(), cost.latency.percentiles());
        Results {
            op: self.op,
            path: self.path,
            leased: self.lease,
            size: self.size,
            keys,
            batch: self.batch,
            inflight: self.inflight,
            clients: self.clients,
            rate_wanted: self.rate,
            verified: self.verify,
            seconds: cost.took.as_secs_f64(),
            ops: score.ops,
            objects: score.objects,
            ops_per_s: rates.ops_per_s,
            objects_per_s: rates.ops_per_s * f64::from(self.batch),
            bytes_per_s: rates.bytes_per_s,
            p50_us: percentiles.p50_us,
            p99_us: percentiles.p99_us,
            p999_us: percentiles.p999_us,
            max_us: percentiles.max_us,
            cpu_us_per_op: rates.cpu_us_per_op,
            cpu_us_per_object: rates.cpu_us_per_object,
            client_cpu_us: cost.own_cpu_us,
            node_cpu_us: cost.other_cpu_us,
            node_cpu_from,
            misses: score.misses,
            errors: score.errors,
            wrong: score.wrong,
            unstarted: score.unstarted,
            last_answer_s: score.last_answer.map(|at| at.as_secs_f64()),
            last_error_s: score.last_error.map(|at| at.as_secs_f64()),
            first_error: score.first_error.clone(),
            first_wrong: score.first_wrong.clone(),
            node: round.node.as_ref().map(NodeCounts::of),
        }
    }
}

impl NodeCounts {
    const fn of(stats: &NodeStats) -> Self {
        Self {
            sent_bytes: stats.sum(Stat::SentBytes),
            written_bytes: stats.sum(Stat::WrittenBytes),
            stored_bytes: stats.sum(Stat::StoredBytes),
            pulled_bytes: stats.sum(Stat::PulledBytes),
            read_bytes: stats.sum(Stat::ReadBytes),
            evicted: stats.sum(Stat::Evicted),
            works: stats.sum(Stat::Works),
            doorbells: stats.sum(Stat::Doorbells),
            pairs_failed: stats.sum(Stat::PairsFailed),
        }
    }
}

impl Results {
    fn table(&self) -> Table {
        let mut table = Table::default();
        let mut row = |name: &str, value: String| table.row(&[name, &value]);
        row("operations", format!("{} in {:.1} s", self.ops, self.seconds));
        row("operations/s", format!("{:.0}", self.ops_per_s));
        row(
            "objects/s",
            format!("{:.0} of {}", self.objects_per_s, format_bytes(self.size.into())),
        );
        row("GB/s", format!("{:.3}", self.bytes_per_s / 1e9));
        let [p50, p99, p999, max] = [self.p50_us, self.p99_us, self.p999_us, self.max_us];
        row(
            "latency us p50 / p99 / p99.9 / max",
            format!("{p50:.1} / {p99:.1} / {p999:.1} / {max:.1}"),
        );
        let sides = match self.node_cpu_from {
            CpuSource::Embedded => "both sides in one process".to_owned(),
            _ => format!(
                "client {} ms, node {} ms",
                self.client_cpu_us / 1000,
                self.node_cpu_us / 1000
            ),
        };
        row("CPU us/operation", format!("{:.1} ({sides})", self.cpu_us_per_op));
        row("CPU us/object", format!("{:.2}", self.cpu_us_per_object));
        row("misses", self.misses.to_string());
        let first =
            |text: &Option<String>| text.as_ref().map_or(String::new(), |t| format!(" ({t})"));
        row("errors", format!("{}{}", self.errors, first(&self.first_error)));
        let checked = if self.verified { "" } else { " (not checked)" };
        row("wrong", format!("{}{checked}{}", self.wrong, first(&self.first_wrong)));
        if let Some(node) = &self.node {
            let gone = [node.sent_bytes, node.written_bytes].map(show_bytes);
            row("the node sent / wrote by card", gone.join(" / "));
            let come = [node.stored_bytes, node.pulled_bytes, node.read_bytes].map(show_bytes);
            row("the node stored / pulled / read by card", come.join(" / "));
            row("works / doorbells", format!("{} / {}", node.works, node.doorbells));
            row("queue pairs failed, or left, in use", node.pairs_failed.to_string());
        }
        if self.unstarted > 0 {
            row("due but never begun", self.unstarted.to_string());
        }
        table
    }
}

fn line(ran: Duration, since: Duration, before: [u64; 3], live: &Live) -> String {
    let now = live.read();
    let [ops, bytes] = [0, 1].map(|i| (now[i] - before[i]) as f64 / since.as_secs_f64());
    format!(
        "{:5.0} s  {ops:9.0} ops/s  {:7.3} GB/s  {} errors",
        ran.as_secs_f64(),
        bytes / 1e9,
        now[2]
    )
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| *rate > 0.0 && *rate <= 1e9)
        .ok_or_else(|| "expected operations a second, such as 2000 or 0.5".to_owned())
}

/// What the objects of a load have together if nothing is said: colder than most caches.
const KEYS_BYTES: u64 = 256 << 20;
const KEYS_DEFAULT_MAX: u64 = 100_000;
/// Up to here a copy is cheaper than a thread for each operation; guessed.
const ALLOCATED_BYTES_MAX: u64 = 64 << 10;
