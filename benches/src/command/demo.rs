//! `demo`: a node, a real trace, real bytes, every byte checked, in under a minute.
//!
//! Needs nothing but this program. The node runs inside it, on free ports and a Unix socket. The
//! replay goes over TCP; what it finds is read again over each path there is, side by side.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use larder_benches::node_stats::NodeStats;
use larder_benches::progress::{Progress, bar};
use larder_benches::replay::{Counts, Replay, Rules, Touch};
use larder_benches::report::{Output, Table, ratio};
use larder_benches::sides::{SideFigures, Sides};
use larder_benches::standstill::Standstill;
use larder_benches::trace::{Request, bundled};
use larder_benches::units::{parse_bytes, parse_object_bytes, show_bytes};
use larder_protocol::stats::Stat;
use larder_transport::process;
use serde::Serialize;

use super::replay::{Held, Results, model};
use super::{Failure, embedded};

/// Start a node, replay a sample of a real trace through it, check every byte, show it all
///
/// The trace is the first 3,000 requests of Mooncake's conversation trace; each id of it is an
/// object, put when it is missed and read when it is there. What is there is read once more over
/// each path: TCP, a copy from shared memory, a lease of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  larder-bench demo\n  \
    larder-bench demo --memory 512MiB --object-bytes 64KiB --json demo.json")]
pub(super) struct Demo {
    /// Memory of the node
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_bytes)]
    memory: u64,
    /// Shards of the node
    #[arg(long, value_name = "COUNT", default_value_t = 2,
        value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,
    /// Bytes of one object
    #[arg(long, value_name = "SIZE", default_value = "32KiB", value_parser = parse_object_bytes)]
    object_bytes: u32,
    /// Stop after so long; what was replayed by then is told
    #[arg(long, value_name = "S", default_value = "45",
        value_parser = larder_benches::units::parse_seconds)]
    seconds_max: Duration,
    #[command(flatten)]
    output: Output,
}

/// What the replay tells, and what it cost this process.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    replay: Results,
    cpu_seconds: f64,
    get_p50_us: f64,
    get_p99_us: f64,
    put_p50_us: f64,
    put_p99_us: f64,
    match_p50_us: f64,
    match_p99_us: f64,
    /// The same reads over each path.
    paths: Vec<SideFigures>,
}

impl Demo {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let node = embedded::start(self.shards, self.memory)?;
        eprintln!("{}", node.ready_line());
        let address = node.address().to_string();
        let (object_bytes, deadline) = (self.object_bytes, Duration::from_secs(10));
        let rules = Rules { object_bytes, verify: true, deadline, touch: Touch::Last };
        let mut replay = Replay::begin(&address, rules.clone())?;
        let mut sides = Sides::connect(&address, object_bytes, deadline)?;
        let requests: Vec<Request> = bundled().collect::<Result<_, _>>()?;
        let cpu_before_us = process::cpu_time_us(None)?;
        let started = Instant::now();
        let mut progress = Progress::new(started);
        let watch = Standstill::watch(STILL, |still, threads| {
            eprintln!("nothing has moved for {:.0} s; threads: {threads}", still.as_secs_f64());
            if still >= STILL_MAX {
                eprintln!("error: the demo stands still: given up");
                std::process::exit(1);
            }
        })?;
        let mut done = 0;
        for request in &requests {
            replay.request(request)?;
            sides.read(&replay);
            watch.step();
            done += 1;
            let now = Instant::now();
            if progress.is_due(now) {
                let stats = NodeStats::read(replay.client())?;
                let part = done as f64 / requests.len() as f64;
                let mut lines = self.lines(part, now - started, replay.counts(), &stats);
                lines.extend(sides.figures().iter().map(side_line));
                progress.show(now, &lines);
            }
            if now - started > self.seconds_max {
                break;
            }
        }
        let took = started.elapsed();
        let cpu_us = process::cpu_time_us(None)?.saturating_sub(cpu_before_us);
        progress.clear();
        let stats = NodeStats::read(replay.client())?;
        let (held, evicted) = (stats.sum(Stat::Objects), stats.sum(Stat::Evicted));
        let held = Held { held, evicted, lru: model(&requests[..done], held, evicted) };
        let replayed = Results::new(replay.counts(), &rules, took, &held);
        let shown = Shown::new(replay.counts(), replayed, cpu_us, sides.figures());
        self.output.emit("demo", &shown, &shown.table())?;
        Ok(if shown.are_paths_clean() { shown.replay.exit_code() } else { ExitCode::FAILURE })
    }

    fn lines(&self, part: f64, ran: Duration, counts: &Counts, stats: &NodeStats) -> Vec<String> {
        let moved = counts.bytes_read + counts.bytes_written;
        let used = stats.sum(Stat::SlotBytes);
        let (get, put) = (counts.get_latency.percentiles(), counts.put_latency.percentiles());
        vec![
            format!("{} {:3.0} %  {:.0} s", bar(part, 40), 100.0 * part, ran.as_secs_f64()),
            format!(
                "requests {}, prefix hit {:.1} %",
                counts.tally.requests,
                100.0 * counts.tally.prefix_hit()
            ),
            format!(
                "moved {} at {:.2} GB/s, every byte checked, {} wrong",
                show_bytes(moved),
                ratio(moved as f64, ran.as_secs_f64()) / 1e9,
                counts.wrong
            ),
            format!(
                "get p50 {:.0} us, p99 {:.0} us; put p50 {:.0} us, p99 {:.0} us",
                get.p50_us, get.p99_us, put.p50_us, put.p99_us
            ),
            format!(
                "memory {} {} of {}, {} objects, {} evicted",
                bar(ratio(used as f64, self.memory as f64), 20),
                show_bytes(used),
                show_bytes(self.memory),
                stats.sum(Stat::Objects),
                stats.sum(Stat::Evicted)
            ),
        ]
    }
}

impl Shown {
    fn new(counts: &Counts, replay: Results, cpu_us: u64, paths: Vec<SideFigures>) -> Self {
        let [get, put, probe] = [&counts.get_latency, &counts.put_latency, &counts.match_latency]
            .map(|latency| latency.percentiles());
        Self {
            replay,
            cpu_seconds: cpu_us as f64 / 1e6,
            get_p50_us: get.p50_us,
            get_p99_us: get.p99_us,
            put_p50_us: put.p50_us,
            put_p99_us: put.p99_us,
            match_p50_us: probe.p50_us,
            match_p99_us: probe.p99_us,
            paths,
        }
    }

    fn are_paths_clean(&self) -> bool {
        self.paths.iter().all(|path| path.wrong + path.errors == 0)
    }

    fn table(&self) -> Table {
        let mut table = self.replay.table();
        let mut row = |name: &str, p50: f64, p99: f64| {
            table.row(&[name, &format!("{p50:.0} / {p99:.0}")]);
        };
        row("match of a chain, us p50 / p99", self.match_p50_us, self.match_p99_us);
        row("get of its hits, us p50 / p99", self.get_p50_us, self.get_p99_us);
        row("put of its misses, us p50 / p99", self.put_p50_us, self.put_p99_us);
        for path in &self.paths {
            let name = format!("{}, us a get p50 / p99, GB/s", path.path);
            let (p50, p99) = (path.get_p50_us, path.get_p99_us);
            let bad = path.wrong + path.errors;
            let figures = format!("{p50:.0} / {p99:.0}, {:.2}", path.bytes_per_s / 1e9);
            table.row(&[name, if bad > 0 { format!("{figures} ({bad} BAD)") } else { figures }]);
        }
        table.row(&["CPU seconds, client and node", &format!("{:.1}", self.cpu_seconds)]);
        table
    }
}

/// A request takes milliseconds; a call of it at most ten seconds.
const STILL: Duration = Duration::from_secs(5);
/// Far longer than a machine stops for.
const STILL_MAX: Duration = Duration::from_secs(60);

fn side_line(side: &SideFigures) -> String {
    format!(
        "{:<9} {:6.0} us a get, {:.2} GB/s, {} wrong",
        side.path,
        side.get_p50_us,
        side.bytes_per_s / 1e9,
        side.wrong
    )
}
