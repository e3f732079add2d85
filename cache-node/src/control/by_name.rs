//! What namespaces and classes of objects count, for Prometheus.
//!
//! A series is a tenant and a model, as a budget names them, whatever revisions, ranks and layouts
//! they have. What a reader would get wrong: counters only grow here, also when a shard forgets a
//! namespace and with it what it had counted.

use std::collections::HashMap;
use std::sync::Arc;

use larder_protocol::NamespaceSpec;
use larder_protocol::stats::{Kind, Stat};
use metrics::{Counter, Gauge, Label};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::metrics::{CLASS_PREFIX, NAMESPACE_PREFIX, counter, gauge};
use crate::account::{ACCOUNT_VALUES, Account};
use crate::board::Board;

/// The series there are, and what they are made of.
#[derive(Debug)]
pub(super) struct ByName {
    recorder: PrometheusRecorder,
    names: HashMap<(String, String), usize>,
    of_names: Vec<Series>,
    of_classes: HashMap<u8, Series>,
    shards: Vec<Shard>,
}

/// What was read of a shard the last time.
#[derive(Debug, Default)]
struct Shard {
    namespaces: HashMap<Arc<[u8]>, (usize, Account)>,
    classes: HashMap<u8, Account>,
}

/// The numbers of one name or class.
#[derive(Debug)]
struct Series {
    values: Vec<(Stat, Value)>,
}

#[derive(Debug)]
enum Value {
    Counter(Counter),
    /// With the sum that is being made.
    Gauge(Gauge, u64),
}

impl ByName {
    /// Nothing yet; its series are the recorder's.
    pub(super) fn new(recorder: PrometheusRecorder, shards: usize) -> Self {
        Self {
            recorder,
            names: HashMap::new(),
            of_names: Vec::new(),
            of_classes: HashMap::new(),
            shards: (0..shards).map(|_| Shard::default()).collect(),
        }
    }

    /// Takes over what the shards have published.
    pub(super) fn refresh(&mut self, board: &Board) {
        let Self { recorder, names, of_names, of_classes, shards } = self;
        for (shard, page) in shards.iter_mut().zip(board.pages()) {
            let mut known = std::mem::take(&mut shard.namespaces);
            for (spec, account) in &page.namespaces {
                let (series, before) = known.remove(spec).unwrap_or_else(|| {
                    (series_of(spec, recorder, names, of_names), Account::default())
                });
                of_names[series].add(&before, account);
                shard.namespaces.insert(Arc::clone(spec), (series, *account));
            }
            for (class, account) in &page.classes {
                let before = shard.classes.insert(*class, *account).unwrap_or_default();
                let labels = || vec![Label::new("class", class.to_string())];
                let series = of_classes
                    .entry(*class)
                    .or_insert_with(|| Series::register(recorder, CLASS_PREFIX, labels));
                series.add(&before, account);
            }
        }
        of_names.iter_mut().chain(of_classes.values_mut()).for_each(Series::show_sums);
    }
}

impl Series {
    fn register(
        recorder: &PrometheusRecorder,
        prefix: &str,
        labels: impl Fn() -> Vec<Label>,
    ) -> Self {
        let values = Account::default().values().into_iter().map(|(stat, _)| {
            let name = format!("{prefix}{}", stat.name());
            let value = match stat.kind() {
                Kind::Counter => Value::Counter(counter(recorder, &name, labels())),
                Kind::Gauge => Value::Gauge(gauge(recorder, &name, labels()), 0),
            };
            (stat, value)
        });
        Self { values: values.collect() }
    }

    /// Adds what one shard says now, and said before.
    fn add(&mut self, before: &Account, now: &Account) {
        let changes = before.values().into_iter().zip(now.values());
        for ((_, value), ((_, before), (_, now))) in self.values.iter_mut().zip(changes) {
            match value {
                // Less than before: it began anew.
                Value::Counter(counter) => {
                    counter.increment(now.checked_sub(before).unwrap_or(now));
                }
                Value::Gauge(_, sum) => *sum += now,
            }
        }
    }

    fn show_sums(&mut self) {
        for (_, value) in &mut self.values {
            if let Value::Gauge(gauge, sum) = value {
                gauge.set(std::mem::take(sum) as f64);
            }
        }
    }
}

/// The series of a description: that of all others once there are too many.
fn series_of(
    spec: &[u8],
    recorder: &PrometheusRecorder,
    names: &mut HashMap<(String, String), usize>,
    of_names: &mut Vec<Series>,
) -> usize {
    let mut name = NamespaceSpec::decode(spec).map(|spec| (spec.tenant, spec.model));
    if names.len() >= NAMES_MAX && !name.as_ref().is_ok_and(|name| names.contains_key(name)) {
        name = Ok((OTHERS.into(), OTHERS.into()));
    }
    let name = name.unwrap_or_default();
    *names.entry(name).or_insert_with_key(|(tenant, model)| {
        let labels =
            || vec![Label::new("tenant", tenant.clone()), Label::new("model", model.clone())];
        of_names.push(Series::register(recorder, NAMESPACE_PREFIX, labels));
        of_names.len() - 1
    })
}

/// Most tenants and models that have series of their own: each has as many as an account values.
const NAMES_MAX: usize = 256;
/// Stands for all others.
const OTHERS: &str = "(others)";
const _: () = assert!(NAMES_MAX * ACCOUNT_VALUES < 1 << 12);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    type Named = (Arc<[u8]>, Account);

    fn spec(tenant: &str, rank: &str) -> Arc<[u8]> {
        let spec = NamespaceSpec { rank: rank.into(), ..NamespaceSpec::new(tenant, "m") };
        spec.encode().unwrap().into()
    }

    fn hits(hits: u64) -> Account {
        Account { hits, objects: hits, ..Account::default() }
    }

    #[test]
    fn counters_of_a_name_are_summed_and_never_shrink() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let board = Board::new(2);
        let mut by_name = ByName::new(recorder, 2);
        let mut show = |namespaces: [&[Named]; 2]| {
            for (mut page, told) in board.pages().zip(namespaces) {
                page.namespaces = told.to_vec();
            }
            by_name.refresh(&board);
            let text = handle.render();
            let value = |name: &str| -> u64 {
                let line = format!("larder_namespace_{name}{{tenant=\"a\",model=\"m\"}} ");
                let found = text.lines().find_map(|found| found.strip_prefix(&line));
                found.unwrap().parse().unwrap()
            };
            (value("hits_total"), value("objects"))
        };
        let (first, second) = (spec("a", "tp0/2"), spec("a", "tp1/2"));
        let both = [(first.clone(), hits(3)), (second.clone(), hits(4))];
        assert_eq!(show([&both, &[(first.clone(), hits(5))]]), (12, 12));
        let both = [(first.clone(), hits(6)), (second, hits(4))];
        assert_eq!(show([&both, &[(first.clone(), hits(5))]]), (15, 15));
        // A shard forgot one, and had to begin anew with the other.
        assert_eq!(show([&[(first.clone(), hits(1))], &[(first, hits(5))]]), (16, 6));
    }

    #[test]
    fn names_beyond_the_most_share_a_series() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let board = Board::new(1);
        let mut by_name = ByName::new(recorder, 1);
        let all = 0..NAMES_MAX + 10;
        let told = all.map(|number| (spec(&number.to_string(), ""), hits(1))).collect();
        board.pages().for_each(|mut page| page.namespaces = Vec::clone(&told));
        by_name.refresh(&board);
        by_name.refresh(&board);
        let text = handle.render();
        let others = "larder_namespace_hits_total{tenant=\"(others)\",model=\"(others)\"} 10";
        assert!(text.lines().any(|line| line == others), "{text}");
        let series = text.lines().filter(|line| line.starts_with("larder_namespace_hits_total{"));
        assert_eq!(series.count(), NAMES_MAX + 1);
    }
}
