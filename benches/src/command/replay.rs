//! `replay`: a trace against a node, every byte checked, and how its hits compare with plain LRU's.
//!
//! The model gets as many objects as the node held in the end, so that both have the same room.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use larder_benches::node_stats::NodeStats;
use larder_benches::policy::{self, Whole, at_speed};
use larder_benches::progress::Progress;
use larder_benches::reference::Lru;
use larder_benches::replay::{Counts, Replay, Rules, Touch};
use larder_benches::report::{Output, Table, ratio};
use larder_benches::tally::Tally;
use larder_benches::trace::{Request, Trace, bundled};
use larder_benches::units::{
    parse_bytes, parse_duration, parse_object_bytes, parse_positive, show_bytes,
};
use larder_node::store::Policy;
use larder_protocol::stats::Stat;
use serde::Serialize;

use super::{Failure, embedded};

/// Replay a trace against a node as an inference server would use it
///
/// For each request: match its chain with touch, get the run that is there, put what is missing and
/// wanted, head first. Hits are counted at the match. The comparisons, with plain LRU and with what
/// `policy` makes of it, suppose that nobody else uses the node. Lines are Mooncake's JSON or
/// `t_ms tokens id0 id1 …`, plain or compressed with zstd.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    larder-bench replay --trace conversation_trace.jsonl --object-bytes 192KiB --speed 60\n  \
    larder-bench replay --trace conversation_trace.jsonl --touch last --verify\n  \
    larder-bench replay --embedded --memory 512MiB --object-bytes 16KiB --verify --json\n  \
    larder-bench replay --node 10.0.0.7:7400 --trace trace.txt.zst --object-bytes 1MiB")]
pub(super) struct ReplayArgs {
    /// The trace; without it the bundled sample is replayed
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Bytes of one object: of what one id of the trace stands for
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = parse_object_bytes)]
    object_bytes: u32,
    /// Address of a node
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    node: String,
    /// Start a node inside this process instead
    #[arg(long, conflicts_with = "node")]
    embedded: bool,
    /// Memory of the embedded node
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes,
        requires = "embedded")]
    memory: u64,
    /// Shards of the embedded node
    #[arg(long, value_name = "COUNT", default_value_t = 1, requires = "embedded",
        value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: u16,
    /// Check every byte that is read
    #[arg(long)]
    verify: bool,
    /// Begin requests when they are due, at so many times the trace's pace, and compare with what
    /// the node's default policy makes in virtual time of requests that begin when these did;
    /// without it they follow one another as fast as they can
    #[arg(long, value_name = "FACTOR", value_parser = parse_positive)]
    speed: Option<f64>,
    /// When a request touches its chain: `first`, as it asks for it, or `last`, when all of it is
    /// there, and then everything that is missing is put, the deepest first
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = When::First)]
    touch: When,
    /// Stop after so many requests
    #[arg(long, value_name = "REQUESTS")]
    limit: Option<usize>,
    /// How long one call may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    deadline: Duration,
    #[command(flatten)]
    output: Output,
}

/// When a request touches its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum When {
    First,
    Last,
}

/// Everything that `replay` tells. Names are kept: programs read them.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) requests: u64,
    pub(super) references: u64,
    pub(super) prefix_hit: f64,
    pub(super) block_hit: f64,
    pub(super) inserts_per_reference: f64,
    pub(super) wrong: u64,
    pub(super) errors: u64,
    vanished: u64,
    verified: bool,
    object_bytes: u32,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    pub(super) seconds: f64,
    request_p50_us: f64,
    request_p99_us: f64,
    /// Objects that the node held in the end, and that the model may hold.
    objects_held: u64,
    evicted: u64,
    pub(super) lru_prefix_hit: f64,
    lru_inserts_per_reference: f64,
    /// At a pace: what the node's default policy makes of the same room in virtual time, and how
    /// much later than it was due a request began.
    policy_prefix_hit: Option<f64>,
    late_seconds_max: f64,
    first_error: Option<String>,
    first_wrong: Option<String>,
}

impl ReplayArgs {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let node =
            if self.embedded { Some(embedded::start(self.shards, self.memory)?) } else { None };
        let address =
            node.as_ref().map_or_else(|| self.node.clone(), |node| node.address().to_string());
        let trace = match &self.trace {
            Some(path) => Trace::open(path)?,
            None => bundled(),
        };
        let rules = self.rules();
        let mut replay = Replay::begin(&address, rules.clone())?;
        let evicted_before = NodeStats::read(replay.client())?.sum(Stat::Evicted);
        let started = Instant::now();
        let mut progress = Progress::new(started);
        let (mut requests, mut late) = (Vec::new(), Duration::ZERO);
        for request in trace.take(self.limit.unwrap_or(usize::MAX)) {
            let mut request = request?;
            if let Some(speed) = self.speed {
                let due = started + Duration::from_millis(at_speed(request.t_ms, speed));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                late = late.max(due.elapsed());
            }
            request.t_ms = millis_since(started);
            replay.request(&request)?;
            let now = Instant::now();
            if progress.is_due(now) {
                progress.show(now, &[line(replay.counts(), now - started)]);
            }
            requests.push(request);
        }
        let took = started.elapsed();
        progress.clear();
        let stats = NodeStats::read(replay.client())?;
        let evicted = stats.sum(Stat::Evicted) - evicted_before;
        let held = stats.sum(Stat::Objects) - stats.sum(Stat::StaleObjects);
        let lru = model(&requests, held, evicted);
        let twin = self.speed.map(|_| twin(&requests, held, stats.shards())).transpose()?;
        let mut results = Results::new(replay.counts(), &rules, took, &Held { held, evicted, lru });
        results.policy_prefix_hit = twin.map(|tally| tally.prefix_hit());
        results.late_seconds_max = late.as_secs_f64();
        self.output.emit("replay", &results, &results.table())?;
        Ok(results.exit_code())
    }

    fn rules(&self) -> Rules {
        let (object_bytes, verify, deadline) = (self.object_bytes, self.verify, self.deadline);
        let touch = match self.touch {
            When::First => Touch::First,
            When::Last => Touch::Last,
        };
        Rules { object_bytes, verify, deadline, touch }
    }
}

/// What the node held, and what a model of the same room makes of the trace.
pub(super) struct Held {
    pub(super) held: u64,
    pub(super) evicted: u64,
    pub(super) lru: Tally,
}

/// What LRU with room for `held` objects does; one that nothing was evicted from has no end.
pub(super) fn model(requests: &[Request], held: u64, evicted: u64) -> Tally {
    let room = if evicted == 0 { usize::MAX } else { usize::try_from(held).unwrap_or(usize::MAX) };
    let mut lru = Lru::new(room);
    let mut tally = Tally::default();
    requests.iter().for_each(|request| lru.request(request, &mut tally));
    tally
}

/// What the node's default policy makes of requests that began when they say, with room for so many
/// objects on so many shards.
fn twin(requests: &[Request], held: u64, shards: usize) -> Result<Tally, Failure> {
    let whole = Whole::read(requests.iter().cloned().map(Ok))?;
    let rules = policy::Rules {
        policy: Policy::Hazard { by_cost: false, small_bytes_end: 0 },
        capacity: usize::try_from(held).unwrap_or(usize::MAX),
        shards: u16::try_from(shards).unwrap_or(u16::MAX),
        admission: true,
        ends: true,
        refit_ms: REFIT_MS,
    };
    Ok(policy::replay(&whole, &rules)?.tally)
}

fn millis_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// As the shards of a node do about it.
const REFIT_MS: u64 = 1000;

impl Results {
    pub(super) fn new(counts: &Counts, rules: &Rules, took: Duration, held: &Held) -> Self {
        let (tally, request) = (&counts.tally, counts.request_latency.percentiles());
        Self {
            requests: tally.requests,
            references: tally.references,
            prefix_hit: tally.prefix_hit(),
            block_hit: tally.block_hit(),
            inserts_per_reference: tally.inserts_per_reference(),
            wrong: counts.wrong,
            errors: counts.errors,
            vanished: counts.vanished,
            verified: rules.verify,
            object_bytes: rules.object_bytes,
            bytes_read: counts.bytes_read,
            bytes_written: counts.bytes_written,
            seconds: took.as_secs_f64(),
            request_p50_us: request.p50_us,
            request_p99_us: request.p99_us,
            objects_held: held.held,
            evicted: held.evicted,
            lru_prefix_hit: held.lru.prefix_hit(),
            lru_inserts_per_reference: held.lru.inserts_per_reference(),
            policy_prefix_hit: None,
            late_seconds_max: 0.0,
            first_error: counts.first_error.clone(),
            first_wrong: counts.first_wrong.clone(),
        }
    }

    /// Wrong bytes and unanswered keys are failures, misses are not.
    pub(super) fn exit_code(&self) -> ExitCode {
        if self.wrong + self.errors > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::default();
        let mut row = |name: &str, value: String| table.row(&[name, &value]);
        let percent = |part: f64| format!("{:.2} %", 100.0 * part);
        row("requests", self.requests.to_string());
        row("references", self.references.to_string());
        row("prefix hit", percent(self.prefix_hit));
        row("  of plain LRU with the same room", percent(self.lru_prefix_hit));
        if let Some(hit) = self.policy_prefix_hit {
            row("  of its default policy in virtual time", percent(hit));
            row("late by at most, seconds", format!("{:.3}", self.late_seconds_max));
        }
        row("block hit", percent(self.block_hit));
        row("inserts per reference", format!("{:.4}", self.inserts_per_reference));
        row("objects held, evicted", format!("{}, {}", self.objects_held, self.evicted));
        row(
            "read, written",
            format!("{}, {}", show_bytes(self.bytes_read), show_bytes(self.bytes_written)),
        );
        let moved = (self.bytes_read + self.bytes_written) as f64;
        row("GB/s, checks included", format!("{:.2}", ratio(moved, self.seconds) / 1e9));
        row("seconds", format!("{:.1}", self.seconds));
        row(
            "request us p50 / p99",
            format!("{:.0} / {:.0}", self.request_p50_us, self.request_p99_us),
        );
        if self.vanished > 0 {
            row("gone between match and get", self.vanished.to_string());
        }
        let first =
            |text: &Option<String>| text.as_ref().map_or(String::new(), |t| format!(" ({t})"));
        row("errors", format!("{}{}", self.errors, first(&self.first_error)));
        let checked = if self.verified { "" } else { " (not checked)" };
        row("wrong objects", format!("{}{checked}{}", self.wrong, first(&self.first_wrong)));
        table
    }
}

fn line(counts: &Counts, ran: Duration) -> String {
    let moved = (counts.bytes_read + counts.bytes_written) as f64;
    format!(
        "{:5.0} s  {} requests  prefix hit {:.2} %  {:.2} GB/s  {} errors  {} wrong",
        ran.as_secs_f64(),
        counts.tally.requests,
        100.0 * counts.tally.prefix_hit(),
        ratio(moved, ran.as_secs_f64()) / 1e9,
        counts.errors,
        counts.wrong
    )
}
