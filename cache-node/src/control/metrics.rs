//! A node's numbers for Prometheus.
//!
//! The recorder belongs to the node and is never the process's global one: a process may embed
//! several nodes, and may have a recorder of its own.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use larder_protocol::Opcode;
use larder_protocol::stats::{Kind, Stat};
use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::by_name::ByName;
use crate::account::Account;
use crate::counters::{Counters, NodeState, OPCODE_NUMBERS, Phase};

/// Every number of a node, registered once.
#[derive(Debug)]
pub(super) struct Metrics {
    handle: PrometheusHandle,
    shards: Vec<ShardMetrics>,
    ready: Gauge,
    uptime: Gauge,
    process: Vec<(Stat, Gauge)>,
    by_name: Mutex<ByName>,
}

#[derive(Debug)]
struct ShardMetrics {
    stats: Vec<(Stat, Series)>,
    requests: Vec<(Opcode, Counter)>,
}

#[derive(Debug)]
enum Series {
    Counter(Counter),
    Gauge(Gauge),
}

impl Metrics {
    /// Registers all series of a node.
    pub(super) fn new(state: &NodeState) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        describe(&recorder);
        let info = vec![
            Label::new("node", state.name.clone()),
            Label::new("version", env!("CARGO_PKG_VERSION")),
        ];
        gauge(&recorder, "larder_info", info).set(1.0);
        let process = Stat::ALL.iter().filter(|stat| stat.is_of_process());
        Self {
            handle: recorder.handle(),
            shards: (0..state.shards.len()).map(|shard| register(&recorder, shard)).collect(),
            ready: gauge(&recorder, "larder_ready", Vec::new()),
            uptime: gauge(&recorder, "larder_uptime_seconds", Vec::new()),
            process: process.map(|&s| (s, gauge(&recorder, &name(s), Vec::new()))).collect(),
            by_name: Mutex::new(ByName::new(recorder, state.shards.len())),
        }
    }

    /// Takes over what the shards have published.
    pub(super) fn refresh(&self, state: &NodeState, now: Instant) {
        for (metrics, counters) in self.shards.iter().zip(&state.shards) {
            metrics.refresh(counters);
        }
        self.ready.set(f64::from(u8::from(state.phase() == Phase::Serving)));
        self.uptime.set(now.saturating_duration_since(state.started).as_secs_f64());
        for (stat, gauge) in &self.process {
            gauge.set(state.process(*stat) as f64);
        }
        let by_name = self.by_name.lock();
        by_name.unwrap_or_else(PoisonError::into_inner).refresh(&state.board);
    }

    /// All series as text, as they were last refreshed.
    pub(super) fn render(&self) -> String {
        self.handle.render()
    }
}

impl ShardMetrics {
    fn refresh(&self, counters: &Counters) {
        for (stat, series) in &self.stats {
            match series {
                Series::Counter(counter) => counter.absolute(counters.read(*stat)),
                Series::Gauge(gauge) => gauge.set(counters.read(*stat) as f64),
            }
        }
        for (opcode, counter) in &self.requests {
            counter.absolute(counters.requests(*opcode));
        }
    }
}

fn register(recorder: &PrometheusRecorder, shard: usize) -> ShardMetrics {
    let labels = || vec![Label::new("shard", shard.to_string())];
    let stats = Stat::ALL.iter().filter(|stat| !stat.is_of_process()).map(|&stat| {
        let series = match stat.kind() {
            Kind::Counter => Series::Counter(counter(recorder, &name(stat), labels())),
            Kind::Gauge => Series::Gauge(gauge(recorder, &name(stat), labels())),
        };
        (stat, series)
    });
    let requests = opcodes().map(|(opcode, op)| {
        let labels = [labels(), vec![Label::new("op", op)]].concat();
        (opcode, counter(recorder, REQUESTS_BY_OP, labels))
    });
    ShardMetrics { stats: stats.collect(), requests: requests.collect() }
}

fn describe(recorder: &PrometheusRecorder) {
    let text = |text: &'static str| SharedString::const_str(text);
    for &stat in Stat::ALL {
        match stat.kind() {
            Kind::Counter => recorder.describe_counter(name(stat).into(), None, text(stat.help())),
            Kind::Gauge => recorder.describe_gauge(name(stat).into(), None, text(stat.help())),
        }
    }
    for (stat, _) in Account::default().values() {
        for prefix in [NAMESPACE_PREFIX, CLASS_PREFIX] {
            let name = format!("{prefix}{}", stat.name()).into();
            match stat.kind() {
                Kind::Counter => recorder.describe_counter(name, None, text(stat.help())),
                Kind::Gauge => recorder.describe_gauge(name, None, text(stat.help())),
            }
        }
    }
    recorder.describe_counter(
        REQUESTS_BY_OP.into(),
        None,
        text("Requests answered, by operation."),
    );
    for (name, help) in [
        ("larder_info", "Always 1; the labels say what runs."),
        ("larder_ready", "1 while the node takes requests."),
        ("larder_uptime_seconds", "Time since the node began to start."),
    ] {
        recorder.describe_gauge(name.into(), None, text(help));
    }
}

/// All operations with their names in labels and JSON.
pub(super) fn opcodes() -> impl Iterator<Item = (Opcode, String)> {
    let numbers = 0..OPCODE_NUMBERS as u8;
    let known = numbers.filter_map(|number| Opcode::try_from(number).ok());
    known.map(|opcode| (opcode, format!("{opcode:?}").to_lowercase()))
}

fn name(stat: Stat) -> String {
    format!("larder_{}", stat.name())
}

pub(super) fn counter(recorder: &PrometheusRecorder, name: &str, labels: Vec<Label>) -> Counter {
    recorder.register_counter(&Key::from_parts(name.to_owned(), labels), &METADATA)
}

pub(super) fn gauge(recorder: &PrometheusRecorder, name: &str, labels: Vec<Label>) -> Gauge {
    recorder.register_gauge(&Key::from_parts(name.to_owned(), labels), &METADATA)
}

/// Of a tenant and a model, and of a class of objects.
pub(super) const NAMESPACE_PREFIX: &str = "larder_namespace_";
pub(super) const CLASS_PREFIX: &str = "larder_class_";
const REQUESTS_BY_OP: &str = "larder_requests_by_op_total";
const METADATA: Metadata<'_> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use larder_protocol::stats::STAT_NUMBERS;

    #[test]
    fn every_stat_of_every_shard_is_rendered_with_its_help() {
        let state = NodeState::new(&Config { shards: 2, ..Config::default() });
        let mut values = [0; STAT_NUMBERS];
        values[Stat::Hits as usize] = 5;
        values[Stat::ObjectBytes as usize] = 1 << 40;
        state.shards[1].publish(&values);
        let mut requests = [0; OPCODE_NUMBERS];
        requests[Opcode::Get as usize] = 7;
        state.shards[0].publish_requests(&requests);
        state.publish_process(1_500, 4096);
        state.set_ready();
        let metrics = Metrics::new(&state);
        metrics.refresh(&state, state.started + std::time::Duration::from_secs(3));
        let text = metrics.render();
        for line in [
            "# HELP larder_hits_total Objects found by gets.",
            "# TYPE larder_hits_total counter",
            "larder_hits_total{shard=\"0\"} 0",
            "larder_hits_total{shard=\"1\"} 5",
            "# TYPE larder_object_bytes gauge",
            "larder_object_bytes{shard=\"1\"} 1099511627776",
            "larder_requests_by_op_total{shard=\"0\",op=\"get\"} 7",
            "larder_process_cpu_us 1500",
            "larder_process_rss_bytes 4096",
            "larder_ready 1",
            "larder_uptime_seconds 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for stat in Stat::ALL {
            assert!(text.contains(&format!("# HELP {} {}", name(*stat), stat.help())), "{stat:?}");
        }
    }

    #[test]
    fn two_nodes_of_a_process_have_their_own_numbers() {
        let states = [(); 2].map(|()| NodeState::new(&Config::default()));
        let metrics = [Metrics::new(&states[0]), Metrics::new(&states[1])];
        states[0].shards[0].publish(&[9; STAT_NUMBERS]);
        metrics.iter().zip(&states).for_each(|(m, state)| m.refresh(state, state.started));
        assert!(metrics[0].render().contains("larder_hits_total{shard=\"0\"} 9"));
        assert!(metrics[1].render().contains("larder_hits_total{shard=\"0\"} 0"));
    }
}
