//! `compare-stream`: gets and puts against a bare loopback stream of the same messages, in one run.
//!
//! Rounds of both are interleaved, each pair of neighbours gives a ratio, and the median of the
//! ratios is told: a machine that slows down for a second slows down both.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use larder_benches::load::{Load, Op, Plan, Reads};
use larder_benches::machine::Machine;
use larder_benches::measure::{Cost, Rates};
use larder_benches::names::key_of;
use larder_benches::node_process::{NodeProcess, NodeShape};
use larder_benches::node_stats::CpuSource;
use larder_benches::paths::PathChoice;
use larder_benches::report::{Output, Table, median, ratio};
use larder_benches::stream::{Direction, MESSAGE_BYTES_MAX, Shape, StreamClient};
use larder_benches::units::{format_bytes, parse_bytes, parse_object_bytes, parse_seconds};
use serde::Serialize;

use super::{Failure, stream_server};

/// Get and put against a bare loopback stream of the same messages, as ratios of one run
///
/// Starts a larder-node process (or uses the one of --node) and a bare stream process. An operation
/// of the stream moves as many bytes as one of Larder's, in the same direction, as many in flight.
/// Larder makes and checks its checksums all the while; the stream does nothing but move bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  larder-bench compare-stream --size 1MiB --batch 1,16\n  \
    larder-bench compare-stream --size 4KiB --batch 64 --json compare-4k.json")]
pub(super) struct CompareStream {
    /// Bytes of one object
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = parse_object_bytes)]
    size: u32,
    /// Objects of one operation
    #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_value = "1,16",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Vec<u16>,
    /// Operations in flight
    #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_value = "1",
        value_parser = clap::value_parser!(u16).range(1..=256))]
    inflight: Vec<u16>,
    /// Seconds of one measurement
    #[arg(long, value_name = "S", default_value = "3", value_parser = parse_seconds)]
    seconds: Duration,
    /// Rounds; medians are told
    #[arg(long, value_name = "COUNT", default_value_t = 5,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Keys of one match; 0 leaves it out
    #[arg(long, value_name = "COUNT", default_value_t = 1000,
        value_parser = clap::value_parser!(u16).range(0..=8192))]
    match_keys: u16,
    /// Address of a node that runs; without it one is started
    #[arg(long, value_name = "HOST:PORT")]
    node: Option<String>,
    /// The program to start [default: larder-node beside this one]
    #[arg(long, value_name = "FILE", conflicts_with = "node")]
    node_program: Option<PathBuf>,
    /// Memory of the node that is started
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes)]
    memory: u64,
    #[command(flatten)]
    output: Output,
}

/// One row: an operation of Larder's and the stream's of the same shape.
struct Pair {
    direction: Direction,
    batch: u16,
    inflight: u16,
    load: Load,
    larder: Vec<Cost>,
    stream: Vec<Cost>,
    failures: u64,
}

#[derive(Debug, Serialize)]
struct Line {
    op: Direction,
    batch: u16,
    inflight: u16,
    /// Medians of the ratios of neighbouring rounds, Larder's over the stream's.
    throughput_ratio: f64,
    cpu_ratio: f64,
    larder_bytes_per_s: f64,
    stream_bytes_per_s: f64,
    larder_cpu_us_per_op: f64,
    stream_cpu_us_per_op: f64,
    larder_cpu_us_per_object: f64,
    larder_p50_us: f64,
    stream_p50_us: f64,
    errors: u64,
}

#[derive(Debug, Serialize)]
struct MatchLine {
    keys: u16,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_op: f64,
}

#[derive(Debug, Serialize)]
struct Results {
    size: u32,
    rounds: u16,
    seconds: f64,
    cold_bytes: u64,
    node_cpu_from: CpuSource,
    pairs: Vec<Line>,
    #[serde(rename = "match")]
    matching: Option<MatchLine>,
}

impl CompareStream {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let cold_bytes = Machine::this().cold_bytes();
        let node = self.node_process()?;
        let address = match (&self.node, &node) {
            (Some(address), _) => address.clone(),
            (None, Some(node)) => node.address().to_string(),
            (None, None) => unreachable!("a node is started where none is named"),
        };
        let server = stream_server::start(cold_bytes)?;
        let mut stream = StreamClient::connect(server.address(), cold_bytes)?;
        let mut pairs = self.pairs(&address, cold_bytes)?;
        let mut matching = self.matching(&address)?;
        let mut matches = Vec::new();
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            for pair in &mut pairs {
                pair.round(&mut stream, self.size, self.seconds)?;
            }
            if let Some(load) = &mut matching {
                matches.push(load.run(self.seconds, |_| ())?);
            }
        }
        let costs: Vec<Cost> = matches.into_iter().map(|round| round.cost).collect();
        let results = Results {
            size: self.size,
            rounds: self.rounds,
            seconds: self.seconds.as_secs_f64(),
            cold_bytes,
            node_cpu_from: pairs[0].load.cpu_source(),
            pairs: pairs.iter().map(Pair::line).collect(),
            matching: matching.map(|_| match_line(self.match_keys, &costs)),
        };
        self.output.emit("compare-stream", &results, &table(&results))?;
        let failures = pairs.iter().map(|pair| pair.failures).sum::<u64>();
        Ok(if failures > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn node_process(&self) -> Result<Option<NodeProcess>, Failure> {
        if self.node.is_some() {
            return Ok(None);
        }
        let shape = NodeShape { shards: 1, memory_bytes: self.memory, is_pinned: true, unix: None };
        Ok(Some(NodeProcess::start(self.node_program.as_deref(), &shape)?))
    }

    fn pairs(&self, address: &str, cold_bytes: u64) -> Result<Vec<Pair>, Failure> {
        let mut pairs = Vec::new();
        for (&batch, &inflight) in
            self.batch.iter().flat_map(|batch| self.inflight.iter().map(move |i| (batch, i)))
        {
            let message_bytes = u64::from(batch) * u64::from(self.size);
            if message_bytes > MESSAGE_BYTES_MAX {
                let most = format_bytes(MESSAGE_BYTES_MAX);
                return Err(format!("an operation has at most {most}, not {batch} objects").into());
            }
            for direction in [Direction::Get, Direction::Put] {
                let plan = self.plan(address, direction, batch, inflight, cold_bytes);
                let load = Load::prepare(plan)?;
                let (larder, stream) = (Vec::new(), Vec::new());
                pairs.push(Pair { direction, batch, inflight, load, larder, stream, failures: 0 });
            }
        }
        Ok(pairs)
    }

    fn plan(
        &self,
        address: &str,
        direction: Direction,
        batch: u16,
        inflight: u16,
        cold_bytes: u64,
    ) -> Plan {
        // Cold to both processors' caches, and no more than half of what the node can hold.
        let room = cold_bytes.min(self.memory / 2) / u64::from(self.size);
        Plan {
            op: match direction {
                Direction::Get => Op::Get,
                Direction::Put => Op::Put,
            },
            object_bytes: self.size,
            keys: room.clamp(u64::from(batch), KEYS_MAX),
            batch: usize::from(batch),
            inflight: usize::from(inflight),
            cold_bytes,
            ..plan(address)
        }
    }

    fn matching(&self, address: &str) -> Result<Option<Load>, Failure> {
        if self.match_keys == 0 {
            return Ok(None);
        }
        let keys = u64::from(self.match_keys);
        let batch = usize::from(self.match_keys);
        let plan = Plan { op: Op::Match, object_bytes: 64, keys, batch, ..plan(address) };
        Ok(Some(Load::prepare(plan)?))
    }
}

/// What all loads of a comparison share.
fn plan(address: &str) -> Plan {
    Plan {
        node: address.to_owned(),
        op: Op::Get,
        object_bytes: 1,
        keys: 1,
        batch: 1,
        inflight: 1,
        clients: 1,
        put_percent: 0,
        key_of,
        verify_one_in: 0,
        rate_per_s: None,
        deadline: Duration::from_secs(10),
        reads: Reads::Own,
        path: PathChoice::Tcp,
        rdma_device: None,
        cold_bytes: 0,
    }
}

impl Pair {
    fn round(
        &mut self,
        stream: &mut StreamClient,
        size: u32,
        duration: Duration,
    ) -> Result<(), Failure> {
        let shape = Shape {
            direction: self.direction,
            message_bytes: u64::from(self.batch) * u64::from(size),
            inflight: usize::from(self.inflight),
        };
        self.stream.push(stream.run(shape, duration)?);
        let round = self.load.run(duration, |_| ())?;
        // A miss moves no bytes, and would look fast.
        self.failures += round.score.errors + round.score.misses;
        if let Some(error) = &round.score.first_error {
            eprintln!("{:?} of {}: {error}", self.direction, self.batch);
        }
        self.larder.push(round.cost);
        Ok(())
    }

    fn line(&self) -> Line {
        let ratio_of = |value: fn(&Rates) -> f64| {
            let pairs = self.larder.iter().zip(&self.stream);
            let ratios =
                pairs.map(|(larder, stream)| ratio(value(&larder.rates()), value(&stream.rates())));
            median(&ratios.collect::<Vec<_>>())
        };
        Line {
            op: self.direction,
            batch: self.batch,
            inflight: self.inflight,
            throughput_ratio: ratio_of(|rates| rates.bytes_per_s),
            cpu_ratio: ratio_of(|rates| rates.cpu_us_per_op),
            larder_bytes_per_s: middle(&self.larder, |cost| cost.rates().bytes_per_s),
            stream_bytes_per_s: middle(&self.stream, |cost| cost.rates().bytes_per_s),
            larder_cpu_us_per_op: middle(&self.larder, |cost| cost.rates().cpu_us_per_op),
            stream_cpu_us_per_op: middle(&self.stream, |cost| cost.rates().cpu_us_per_op),
            larder_cpu_us_per_object: middle(&self.larder, |cost| cost.rates().cpu_us_per_object),
            larder_p50_us: middle(&self.larder, |cost| cost.latency.percentiles().p50_us),
            stream_p50_us: middle(&self.stream, |cost| cost.latency.percentiles().p50_us),
            errors: self.failures,
        }
    }
}

fn middle(rounds: &[Cost], value: fn(&Cost) -> f64) -> f64 {
    median(&rounds.iter().map(value).collect::<Vec<_>>())
}

fn match_line(keys: u16, rounds: &[Cost]) -> MatchLine {
    MatchLine {
        keys,
        p50_us: middle(rounds, |cost| cost.latency.percentiles().p50_us),
        p99_us: middle(rounds, |cost| cost.latency.percentiles().p99_us),
        cpu_us_per_op: middle(rounds, |cost| cost.rates().cpu_us_per_op),
    }
}

fn table(results: &Results) -> Table {
    let mut table = Table::new(&[
        "op",
        "batch",
        "in flight",
        "GB/s",
        "stream GB/s",
        "ratio",
        "CPU us/op",
        "stream",
        "CPU ratio",
        "CPU us/object",
        "p50 us",
        "errors",
    ]);
    for line in &results.pairs {
        let gigabytes = |bytes_per_s: f64| format!("{:.2}", bytes_per_s / 1e9);
        table.row(&[
            format!("{:?} {}", line.op, format_bytes(u64::from(results.size))),
            line.batch.to_string(),
            line.inflight.to_string(),
            gigabytes(line.larder_bytes_per_s),
            gigabytes(line.stream_bytes_per_s),
            format!("{:.2}", line.throughput_ratio),
            format!("{:.1}", line.larder_cpu_us_per_op),
            format!("{:.1}", line.stream_cpu_us_per_op),
            format!("{:.2}", line.cpu_ratio),
            format!("{:.2}", line.larder_cpu_us_per_object),
            format!("{:.1}", line.larder_p50_us),
            line.errors.to_string(),
        ]);
    }
    if let Some(line) = &results.matching {
        let mut row = vec!["-".to_owned(); 12];
        row[0] = format!("match {} keys", line.keys);
        row[6] = format!("{:.1}", line.cpu_us_per_op);
        row[10] = format!("{:.1}", line.p50_us);
        table.row(&row);
    }
    table
}

const KEYS_MAX: u64 = 100_000;
