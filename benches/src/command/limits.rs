//! `limits`: what this machine can do at most, the baselines of everything else.
//!
//! Rounds of the several baselines are interleaved, so that a slow second of the machine hits all
//! of them, and the medians of the rounds are told.

use std::process::ExitCode;
use std::time::Duration;

use larder_benches::awake::ping_pong;
use larder_benches::copy::cold_copy_bytes_per_s;
use larder_benches::latency::Latency;
use larder_benches::machine::Machine;
use larder_benches::measure::Cost;
use larder_benches::report::{Output, Table, median};
use larder_benches::stream::{Direction, Shape, StreamClient};
use larder_benches::units::{format_bytes, parse_object_bytes, parse_seconds};
use serde::Serialize;

use super::{Failure, stream_server};

/// Baselines of this machine: copying cold memory, a bare loopback stream, ping-pongs
///
/// The stream asks with 64 bytes and gets 64 bytes and the object (get), or sends 64 bytes and the
/// object and gets 64 bytes (put), as the protocol does, and does nothing else. Both ends use
/// memory that is colder than the caches; CPU is that of both processes. The Unix ping-pong asks
/// with 100 bytes, answers with 110, as a lease does, and neither of its two threads ever sleeps.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  larder-bench limits\n  \
    larder-bench limits --size 4KiB,1MiB --inflight 1,8 --json limits.json")]
pub(super) struct Limits {
    /// Bytes of one message beside its header
    #[arg(long, value_name = "SIZE,…", value_delimiter = ',',
        default_value = "4KiB,64KiB,1MiB,16MiB", value_parser = parse_object_bytes)]
    size: Vec<u32>,
    /// Messages in flight on the one connection
    #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_value = "1,4",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    inflight: Vec<u16>,
    /// Seconds of one measurement
    #[arg(long, value_name = "S", default_value = "1", value_parser = parse_seconds)]
    seconds: Duration,
    /// Rounds; the median is told
    #[arg(long, value_name = "COUNT", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    #[command(flatten)]
    output: Output,
}

/// Medians of one baseline.
#[derive(Debug, Serialize)]
struct Line {
    what: &'static str,
    size: u32,
    inflight: u16,
    bytes_per_s: f64,
    ops_per_s: f64,
    cpu_us_per_op: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
}

#[derive(Debug, Serialize)]
struct Results {
    cold_bytes: u64,
    rounds: u16,
    seconds: f64,
    limits: Vec<Line>,
}

/// A baseline and its rounds so far.
struct Baseline {
    what: &'static str,
    size: u32,
    inflight: u16,
    of: Of,
    rounds: Vec<Cost>,
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
enum Of {
    Memory,
    Stream(Direction),
    Awake,
}

impl Limits {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let cold_bytes = Machine::this().cold_bytes();
        let server = stream_server::start(cold_bytes)?;
        let mut client = StreamClient::connect(server.address(), cold_bytes)?;
        let mut baselines = self.baselines();
        for _ in 0..self.rounds {
            for baseline in &mut baselines {
                let cost = match baseline.of {
                    Of::Stream(direction) => {
                        let inflight = usize::from(baseline.inflight);
                        let message_bytes = u64::from(baseline.size);
                        client.run(Shape { direction, message_bytes, inflight }, self.seconds)?
                    }
                    Of::Memory => copy(baseline.size, cold_bytes, self.seconds),
                    Of::Awake => ping_pong(ASK_BYTES, ANSWER_BYTES, self.seconds)?,
                };
                baseline.rounds.push(cost);
            }
        }
        let limits: Vec<Line> = baselines.iter().map(Baseline::line).collect();
        let table = table(&limits);
        let seconds = self.seconds.as_secs_f64();
        let results = Results { cold_bytes, rounds: self.rounds, seconds, limits };
        self.output.emit("limits", &results, &table)?;
        Ok(ExitCode::SUCCESS)
    }

    fn baselines(&self) -> Vec<Baseline> {
        let new = |what, size, inflight, of| {
            let rounds = Vec::new();
            Baseline { what, size, inflight, of, rounds }
        };
        let mut all = vec![
            new("ping-pong", 0, 1, Of::Stream(Direction::Get)),
            new("unix ping-pong, awake", 0, 1, Of::Awake),
        ];
        for &size in &self.size {
            all.push(new("copy", size, 1, Of::Memory));
            for &inflight in &self.inflight {
                all.push(new("stream get", size, inflight, Of::Stream(Direction::Get)));
                all.push(new("stream put", size, inflight, Of::Stream(Direction::Put)));
            }
        }
        all
    }
}

impl Baseline {
    fn line(&self) -> Line {
        let of =
            |value: fn(&Cost) -> f64| median(&self.rounds.iter().map(value).collect::<Vec<_>>());
        let mut latency = Latency::new();
        self.rounds.iter().for_each(|round| latency.merge(&round.latency));
        let percentiles = latency.percentiles();
        Line {
            what: self.what,
            size: self.size,
            inflight: self.inflight,
            bytes_per_s: of(|cost| cost.rates().bytes_per_s),
            ops_per_s: of(|cost| cost.rates().ops_per_s),
            cpu_us_per_op: of(|cost| cost.rates().cpu_us_per_op),
            p50_us: percentiles.p50_us,
            p99_us: percentiles.p99_us,
            p999_us: percentiles.p999_us,
        }
    }
}

/// A request for a lease, and its answer.
const ASK_BYTES: usize = 100;
const ANSWER_BYTES: usize = 110;

fn copy(size: u32, cold_bytes: u64, duration: Duration) -> Cost {
    let bytes_per_s = cold_copy_bytes_per_s(size as usize, cold_bytes, duration);
    let bytes = (bytes_per_s * duration.as_secs_f64()) as u64;
    let ops = bytes / u64::from(size);
    Cost { ops, objects: ops, bytes, took: duration, ..Cost::default() }
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(&[
        "what",
        "size",
        "in flight",
        "GB/s",
        "ops/s",
        "CPU us/op",
        "p50 us",
        "p99 us",
    ]);
    for line in lines {
        let is_copy = line.cpu_us_per_op == 0.0;
        let or_none = |text: String| if is_copy { "-".to_owned() } else { text };
        table.row(&[
            line.what.to_owned(),
            format_bytes(u64::from(line.size)),
            line.inflight.to_string(),
            format!("{:.2}", line.bytes_per_s / 1e9),
            format!("{:.0}", line.ops_per_s),
            or_none(format!("{:.1}", line.cpu_us_per_op)),
            or_none(format!("{:.1}", line.p50_us)),
            or_none(format!("{:.1}", line.p99_us)),
        ]);
    }
    table
}
