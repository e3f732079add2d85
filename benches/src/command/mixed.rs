//! `mixed`: kinds of state that share one memory, beside the best fixed split of it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use larder_benches::mixed::{KINDS, Mix, Mixed, Popular};
use larder_benches::policy::Whole;
use larder_benches::progress::{Progress, bar};
use larder_benches::report::{Output, Table};
use larder_benches::tally::Tally;
use larder_benches::trace::{Trace, bundled};
use larder_benches::units::{format_bytes, parse_bytes, parse_object_bytes, parse_positive};
use larder_node::store::Policy;
use serde::Serialize;

use super::Failure;

/// Let chains, media and features share one memory, beside the best fixed split of it
///
/// In virtual time and without the objects' bytes, through the node's own store and policy: the
/// chains of a trace, encoder outputs of 4 to 8 MiB and features of 300 B to 4 KiB, both of Zipf
/// popularity. Then each kind alone with parts of the memory: the best split is the one with most
/// hits, an object of each kind taken for equal.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    larder-bench mixed\n  \
    larder-bench mixed --trace conversation_trace.jsonl --memory 16GiB --json -")]
pub(super) struct MixedArgs {
    /// The trace that has the chains; without it the bundled sample is replayed
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Memory that all share
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = parse_bytes)]
    memory: u64,
    /// Who is evicted
    #[arg(long, value_enum, default_value_t = Name::Hazard)]
    policy: Name,
    /// Bytes of an object of a chain
    #[arg(long, value_name = "SIZE", default_value = "2MiB", value_parser = parse_object_bytes)]
    chain_bytes: u32,
    /// How many media there are
    #[arg(long, value_name = "COUNT", default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    media: u32,
    /// Requests for media in a second
    #[arg(long, value_name = "RATE", default_value_t = 2.0, value_parser = parse_positive)]
    media_rate: f64,
    /// How many features there are
    #[arg(long, value_name = "COUNT", default_value_t = 500_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    features: u32,
    /// Requests for features in a second
    #[arg(long, value_name = "RATE", default_value_t = 500.0, value_parser = parse_positive)]
    feature_rate: f64,
    /// Popularity: the n-th of media, and of features, is asked for 1/n^SKEW as often as the first
    #[arg(long, value_name = "SKEW", default_value_t = 0.9, value_parser = parse_positive)]
    skew: f64,
    /// Parts into which memory is cut to find the best split
    #[arg(long, value_name = "COUNT", default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(2..=256))]
    parts: u32,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Name {
    /// The least recently used first
    Lru,
    /// Small objects by two queues, others by what they are worth: the node's default
    Hazard,
}

/// What one kind gets. Names are kept: programs read them.
#[derive(Debug, Serialize)]
struct Results {
    kind: &'static str,
    requests: u64,
    references: u64,
    /// In the memory that all share; of chains what is behind a hole does not count.
    hit: f64,
    /// In its part of the best fixed split, and how large that is.
    split_hit: f64,
    split_bytes: u64,
}

#[derive(Debug, Serialize)]
struct AllResults {
    policy: Name,
    memory_bytes: u64,
    kinds: Vec<Results>,
}

impl MixedArgs {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let trace = match &self.trace {
            Some(path) => Trace::open(path)?,
            None => bundled(),
        };
        let chains = Whole::read(trace)?;
        let skew = self.skew;
        let mix = Mix {
            chain_bytes: self.chain_bytes,
            media: Popular { count: self.media, skew, per_second: self.media_rate },
            features: Popular { count: self.features, skew, per_second: self.feature_rate },
        };
        let policy = match self.policy {
            Name::Lru => Policy::Lru,
            Name::Hazard => Policy::HAZARD,
        };
        let mixed = Mixed::new(&chains, &mix, policy);
        let shared = mixed.run(self.memory, [true; 3])?;
        let mut progress = Progress::new(Instant::now());
        let split = mixed.best_split(self.memory, self.parts, |done, all| {
            let now = Instant::now();
            if progress.is_due(now) {
                let part = done as f64 / all as f64;
                progress.show(now, &[format!("[{}] splits {done} of {all}", bar(part, 40))]);
            }
        })?;
        progress.clear();
        let kinds = (0..KINDS.len()).map(|kind| Results {
            kind: KINDS[kind],
            requests: shared[kind].requests,
            references: shared[kind].references,
            hit: shared[kind].prefix_hit(),
            split_hit: split.tallies[kind].prefix_hit(),
            split_bytes: split.bytes[kind],
        });
        let all =
            AllResults { policy: self.policy, memory_bytes: self.memory, kinds: kinds.collect() };
        let total = |tallies: &[Tally; 3]| tallies.iter().map(|t| t.prefix_hits).sum::<u64>();
        let totals = [total(&shared), total(&split.tallies)];
        self.output.emit("mixed", &all, &all.table(totals))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl AllResults {
    fn table(&self, totals: [u64; 2]) -> Table {
        let mut table = Table::new(&["hit %", "shared", "split", "its part"]);
        let percent = |part: f64| format!("{:.2}", 100.0 * part);
        for kind in &self.kinds {
            let part = format_bytes(kind.split_bytes);
            table.row(&[kind.kind.into(), percent(kind.hit), percent(kind.split_hit), part]);
        }
        let [shared, split] = totals.map(|total| total.to_string());
        table.row(&["hits".into(), shared, split, format_bytes(self.memory_bytes)]);
        table
    }
}
