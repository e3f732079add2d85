//! `policy`: what eviction policies make of a trace, in its own time, by the node's own code.
//!
//! Nothing here listens or waits: a replay takes as long as the machine needs for it, and comes out
//! the same each time but for the nanoseconds.

use std::path::PathBuf;
use std::process::ExitCode;

use larder_benches::policy::{Chart, Line, Rules, Score, Whole, optimum, replay};
use larder_benches::report::{Output, Table};
use larder_benches::trace::{Trace, bundled};
use larder_benches::units::parse_positive;
use larder_node::store::Policy;
use serde::Serialize;

use super::Failure;

/// Replay a trace through eviction policies, without bytes and in the trace's own time
///
/// For each request all its keys are looked up first, and all hits counted; then what is there is
/// used, and what is missing is written. Policies are the node's own, objects are all of one size
/// and capacity is counted in them. `optimum` knows what comes: nothing hits more. Lines of the
/// trace are Mooncake's JSON or `t_ms tokens id0 id1 …`, plain or compressed with zstd.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    larder-bench policy --capacity 2000 --policy lru\n  \
    larder-bench policy --trace conversation_trace.jsonl --capacity 5% --policy s3fifo --json -\n  \
    larder-bench policy --trace trace.txt.zst --sweep --svg policies.svg")]
pub(super) struct PolicyArgs {
    /// The trace; without it the bundled sample is replayed
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Objects that all shards hold together, or a part of the trace's objects such as 5%
    #[arg(long, value_name = "OBJECTS", default_value = "5%", value_parser = Capacity::parse)]
    capacity: Capacity,
    /// Who is evicted
    #[arg(long, value_enum, default_value_t = Name::Lru)]
    policy: Name,
    /// How many shards share the capacity, each with a part of every chain
    #[arg(long, value_name = "COUNT", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: u16,
    /// Whether `hazard` leaves unwritten what is worth less than whoever would go for it
    #[arg(long, value_enum, value_name = "on|off", default_value_t = Switch::On)]
    admission: Switch,
    /// What clients said of each request: a file with one small number a line, for `hazard`
    #[arg(long, value_name = "FILE")]
    hints: Option<PathBuf>,
    /// Whether requests tell `hazard` that their chain ends in part of an object, as clients do
    /// that give `Hints`
    #[arg(long, value_enum, value_name = "on|off", default_value_t = Switch::On)]
    ends: Switch,
    /// How often the shards of `hazard` learn what all of them saw, in seconds of the replay
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..))]
    refit_seconds: u32,
    /// Replay at so many times the trace's pace, as `replay --speed` does: all times are divided
    /// by it
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = parse_positive)]
    speed: f64,
    /// Replay several policies with several capacities, and draw them
    #[arg(long, conflicts_with_all = ["capacity", "policy"])]
    sweep: bool,
    /// Capacities of the sweep
    #[arg(long, value_name = "OBJECTS,...", value_delimiter = ',', requires = "sweep",
        default_value = "1%,2.5%,5%,10%,25%,50%", value_parser = Capacity::parse)]
    capacities: Vec<Capacity>,
    /// Policies of the sweep
    #[arg(
        long,
        value_enum,
        value_name = "POLICY,...",
        value_delimiter = ',',
        requires = "sweep",
        default_value = "lru,s3fifo,hazard,optimum"
    )]
    policies: Vec<Name>,
    /// Write the picture of the sweep to FILE
    #[arg(long, value_name = "FILE", requires = "sweep")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// What a policy is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Name {
    /// The least recently used first, chains from their tail
    Lru,
    /// Two queues that weed out what is used once
    #[value(name = "s3fifo")]
    #[serde(rename = "s3fifo")]
    S3Fifo,
    /// What is worth least to keep, as past requests of its class tell
    Hazard,
    /// The same, and counts what it would cost to make an object again
    HazardCost,
    /// The best that can be, knowing what comes
    Optimum,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

/// How many objects are held.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Capacity {
    Objects(usize),
    Percent(f64),
}

/// Everything that a replay tells. Names are kept: programs read them.
#[derive(Debug, Serialize)]
struct Results {
    policy: Name,
    capacity: usize,
    shards: u16,
    objects: usize,
    requests: u64,
    references: u64,
    prefix_hit: f64,
    block_hit: f64,
    cost_saved: f64,
    inserts_per_reference: f64,
    policy_ns_per_reference: f64,
    metadata_bytes_per_object: f64,
    ghost_bytes_per_object: f64,
}

/// All replays of a sweep.
#[derive(Debug, Serialize)]
struct Sweep {
    objects: usize,
    replays: Vec<Results>,
}

impl PolicyArgs {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let trace = match &self.trace {
            Some(path) => Trace::open(path)?,
            None => bundled(),
        };
        let mut whole = Whole::read(trace)?;
        if let Some(path) = &self.hints {
            whole.hint(path)?;
        }
        let whole = whole.at_speed(self.speed);
        if self.sweep {
            return self.run_sweep(&whole);
        }
        let results = self.replay(&whole, self.policy, self.capacity)?;
        self.output.emit("policy", &results, &results.table())?;
        Ok(ExitCode::SUCCESS)
    }

    fn run_sweep(&self, whole: &Whole) -> Result<ExitCode, Failure> {
        let mut replays = Vec::new();
        for &policy in &self.policies {
            for &capacity in &self.capacities {
                replays.push(self.replay(whole, policy, capacity)?);
            }
        }
        let sweep = Sweep { objects: whole.object_count(), replays };
        if let Some(path) = &self.svg {
            let svg = sweep.chart(&self.policies).svg();
            std::fs::write(path, svg).map_err(|e| format!("--svg {}: {e}", path.display()))?;
        }
        self.output.emit("policy", &sweep, &sweep.table(&self.policies, self.capacities.len()))?;
        Ok(ExitCode::SUCCESS)
    }

    fn replay(&self, whole: &Whole, name: Name, capacity: Capacity) -> Result<Results, Failure> {
        let (capacity, shards) = (capacity.of(whole.object_count()), self.shards);
        let admission = self.admission == Switch::On;
        let ends = self.ends == Switch::On;
        let refit_ms = 1000 * u64::from(self.refit_seconds);
        let rules = |policy| Rules { policy, capacity, shards, admission, ends, refit_ms };
        let hazard = |by_cost| Policy::Hazard { by_cost, small_bytes_end: 0 };
        let score = match name {
            Name::Lru => replay(whole, &rules(Policy::Lru))?,
            Name::S3Fifo => replay(whole, &rules(Policy::S3Fifo))?,
            Name::Hazard => replay(whole, &rules(hazard(false)))?,
            Name::HazardCost => replay(whole, &rules(hazard(true)))?,
            Name::Optimum => optimum(whole, capacity),
        };
        Ok(Results::new(name, &rules(Policy::Lru), whole, &score))
    }
}

impl Capacity {
    fn parse(text: &str) -> Result<Self, String> {
        let wanted = "expected a number of objects, or a part of the trace's such as 2.5%";
        let parsed = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().map(Self::Percent),
            None => text.parse().ok().map(Self::Objects),
        };
        parsed.filter(|capacity| capacity.is_possible()).ok_or_else(|| wanted.to_owned())
    }

    fn is_possible(self) -> bool {
        match self {
            Self::Objects(objects) => (1..=OBJECTS_MAX).contains(&objects),
            Self::Percent(percent) => percent > 0.0 && percent <= 100.0,
        }
    }

    /// How many that is of so many objects.
    fn of(self, objects: usize) -> usize {
        match self {
            Self::Objects(objects) => objects,
            Self::Percent(percent) => ((objects as f64 * percent / 100.0).round() as usize).max(1),
        }
    }
}

impl Results {
    fn new(policy: Name, rules: &Rules, whole: &Whole, score: &Score) -> Self {
        Self {
            policy,
            capacity: rules.capacity,
            shards: rules.shards,
            objects: whole.object_count(),
            requests: score.tally.requests,
            references: score.tally.references,
            prefix_hit: score.tally.prefix_hit(),
            block_hit: score.tally.block_hit(),
            cost_saved: score.cost_saved(),
            inserts_per_reference: score.tally.inserts_per_reference(),
            policy_ns_per_reference: score.policy_ns_per_reference(),
            metadata_bytes_per_object: score.metadata_bytes_per_object(),
            ghost_bytes_per_object: score.ghost_bytes_per_object(),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::default();
        let mut row = |name: &str, value: String| table.row(&[name, &value]);
        let percent = |part: f64| format!("{:.2} %", 100.0 * part);
        row("requests", self.requests.to_string());
        row("references", self.references.to_string());
        row("objects of the trace", self.objects.to_string());
        row("capacity", self.capacity.to_string());
        row("prefix hit", percent(self.prefix_hit));
        row("block hit", percent(self.block_hit));
        row("cost saved", percent(self.cost_saved));
        row("inserts per reference", format!("{:.4}", self.inserts_per_reference));
        row("policy ns per reference", format!("{:.0}", self.policy_ns_per_reference));
        row("policy B per object", format!("{:.1}", self.metadata_bytes_per_object));
        row("ghost B per object", format!("{:.1}", self.ghost_bytes_per_object));
        table
    }
}

impl Sweep {
    fn table(&self, policies: &[Name], capacities: usize) -> Table {
        let columns = self.replays.iter().take(capacities);
        let mut headings = vec!["prefix hit %".to_owned()];
        headings.extend(columns.map(|replay| replay.capacity.to_string()));
        let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
        for (policy, replays) in policies.iter().zip(self.replays.chunks(capacities.max(1))) {
            let ratios = replays.iter().map(|replay| format!("{:.2}", 100.0 * replay.prefix_hit));
            table.row(&std::iter::once(policy.text()).chain(ratios).collect::<Vec<_>>());
        }
        table
    }

    fn chart(&self, policies: &[Name]) -> Chart {
        let lines = policies.iter().map(|&policy| {
            let replays = self.replays.iter().filter(|replay| replay.policy == policy);
            let percent = |replay: &Results| 100.0 * replay.capacity as f64 / self.objects as f64;
            let mut points: Vec<_> = replays
                .map(|replay| ((100.0 * percent(replay)).round() / 100.0, replay.prefix_hit))
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Line { name: policy.text(), points }
        });
        Chart {
            title: "prefix hit".into(),
            unit: format!("capacity in % of {} objects", self.objects),
            lines: lines.collect(),
        }
    }
}

impl Name {
    /// As it is written on the command line.
    fn text(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Most objects that a replay holds: records of 64 B, in twice the room.
const OBJECTS_MAX: usize = 1 << 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_objects_or_a_part_of_them() {
        assert_eq!(Capacity::parse("2000"), Ok(Capacity::Objects(2000)));
        assert_eq!(Capacity::parse("2.5%"), Ok(Capacity::Percent(2.5)));
        assert_eq!(Capacity::Percent(2.5).of(332_138), 8303);
        assert_eq!(Capacity::Percent(0.001).of(10), 1);
        for text in ["", "0", "-1", "0%", "101%", "x%", "1.5", "NaN%", "300000000"] {
            assert!(Capacity::parse(text).is_err(), "{text}");
        }
    }
}
