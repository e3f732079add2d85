//! What namespaces and classes of objects take and find, of all shards together.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use larder_client::{AccountName, NamespaceSpec, ShardAnswer, ShardValue, Stat};
use serde_json::{Map, Value, json};

type Values = BTreeMap<Stat, u64>;

/// Added up over shards.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// Those that take most memory first.
    namespaces: Vec<(NamespaceSpec, Values)>,
    classes: BTreeMap<u8, Values>,
}

impl Accounts {
    pub(super) fn of(shards: &[ShardAnswer]) -> Self {
        let (mut accounts, mut places) = (Self::default(), std::collections::HashMap::new());
        for shard in shards {
            let Ok(ShardValue::Accounts(told)) = &shard.answer else { continue };
            for account in told {
                let sums = match &account.name {
                    AccountName::Namespace(spec) => {
                        let place = *places.entry(spec).or_insert_with(|| {
                            accounts.namespaces.push((spec.clone(), Values::new()));
                            accounts.namespaces.len() - 1
                        });
                        &mut accounts.namespaces[place].1
                    }
                    AccountName::Class(class) => accounts.classes.entry(*class).or_default(),
                    _ => continue,
                };
                account.values.iter().for_each(|(s, value)| *sums.entry(*s).or_default() += value);
            }
        }
        accounts.namespaces.sort_by_key(|(_, values)| Reverse(value(values, Stat::SlotBytes)));
        accounts
    }

    /// Adds `namespaces` and `classes` to a JSON object.
    pub(super) fn add_to(&self, json: &mut Value) {
        let stats = |values: &Values| -> Map<String, Value> {
            values.iter().map(|(stat, value)| (stat.name().into(), json!(value))).collect()
        };
        let namespaces = self.namespaces.iter().map(|(spec, values)| {
            json!({
                "tenant": spec.tenant, "model": spec.model, "revision": spec.revision,
                "dtype": spec.dtype, "layout": spec.layout, "rank": spec.rank,
                "extra": spec.extra, "part_bytes": spec.part_bytes, "stats": stats(values),
            })
        });
        json["namespaces"] = namespaces.collect();
        let classes = self.classes.iter();
        json["classes"] = classes
            .map(|(class, values)| json!({ "class": class, "stats": stats(values) }))
            .collect();
    }
}

impl fmt::Display for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading = |f: &mut fmt::Formatter<'_>, what| {
            write!(f, "{what:<26}")?;
            COLUMNS.iter().try_for_each(|(name, _)| write!(f, " {name:>12}"))?;
            writeln!(f, " {:>12}", "hit ratio")
        };
        heading(f, "namespace")?;
        for (spec, values) in &self.namespaces {
            row(f, &name(spec), values)?;
        }
        if self.classes.is_empty() {
            return Ok(());
        }
        writeln!(f)?;
        heading(f, "class of objects")?;
        self.classes.iter().try_for_each(|(class, values)| row(f, &class.to_string(), values))
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, values: &Values) -> fmt::Result {
    write!(f, "{name:<26}")?;
    COLUMNS.iter().try_for_each(|(_, stat)| write!(f, " {:>12}", value(values, *stat)))?;
    let (hits, misses) = (value(values, Stat::Hits), value(values, Stat::Misses));
    // Nobody knows of what class an object is that is not there.
    match hits + misses {
        asked if asked > 0 && misses > 0 => {
            writeln!(f, " {:>10.1} %", 100.0 * hits as f64 / asked as f64)
        }
        _ => writeln!(f, " {:>12}", "-"),
    }
}

/// Tenant and model, and whatever else tells the namespace apart.
fn name(spec: &NamespaceSpec) -> String {
    let all = [
        &spec.tenant,
        &spec.model,
        &spec.revision,
        &spec.dtype,
        &spec.layout,
        &spec.rank,
        &spec.extra,
    ];
    let said = all.into_iter().filter(|field| !field.is_empty());
    // Whatever is in it, it is one line.
    let fields: Vec<_> = said.map(|field| field.escape_debug().to_string()).collect();
    fields.join("/")
}

fn value(values: &Values, stat: Stat) -> u64 {
    values.get(&stat).copied().unwrap_or_default()
}

const COLUMNS: [(&str, Stat); 7] = [
    ("objects", Stat::Objects),
    ("bytes", Stat::SlotBytes),
    ("hits", Stat::Hits),
    ("misses", Stat::Misses),
    ("stored", Stat::Stored),
    ("evicted", Stat::Evicted),
    ("not wanted", Stat::NotWanted),
];

#[cfg(test)]
mod tests {
    use larder_client::{AccountInfo, KeyError};

    use super::*;

    fn shard(answer: Result<ShardValue, KeyError>) -> ShardAnswer {
        ShardAnswer { peer: "n:1".into(), node_id: 1, shard: 0, answer }
    }

    #[test]
    fn accounts_of_one_name_are_added_up_and_the_largest_comes_first() {
        let of = |name, values: &[(Stat, u64)]| AccountInfo { name, values: values.to_vec() };
        let namespace = |model| {
            let spec = NamespaceSpec { rank: "tp0/2".into(), ..NamespaceSpec::new("t", model) };
            AccountName::Namespace(spec)
        };
        let told = |accounts| shard(Ok(ShardValue::Accounts(accounts)));
        let accounts = Accounts::of(&[
            told(vec![of(namespace("small"), &[(Stat::SlotBytes, 64), (Stat::Hits, 1)])]),
            told(vec![
                of(namespace("small"), &[(Stat::Hits, 2), (Stat::Misses, 1)]),
                of(namespace("large"), &[(Stat::SlotBytes, 128)]),
                of(AccountName::Class(7), &[(Stat::Evicted, 5)]),
            ]),
            shard(Err(KeyError::DeadlineExceeded)),
        ]);
        let text = accounts.to_string();
        let words = |line: usize| text.lines().nth(line).unwrap().split_whitespace();
        let expected = ["t/large/tp0/2", "0", "128", "0", "0", "0", "0", "0", "-"];
        assert_eq!(words(1).collect::<Vec<_>>(), expected);
        let expected = ["t/small/tp0/2", "0", "64", "3", "1", "0", "0", "0", "75.0", "%"];
        assert_eq!(words(2).collect::<Vec<_>>(), expected);
        assert_eq!(words(5).collect::<Vec<_>>(), ["7", "0", "0", "0", "0", "0", "5", "0", "-"]);
        let mut json = json!({});
        accounts.add_to(&mut json);
        assert_eq!(json["namespaces"][1]["stats"]["hits_total"], 3);
        assert_eq!(json["namespaces"][0]["rank"], "tp0/2");
        assert_eq!(json["classes"][0], json!({ "class": 7, "stats": { "evicted_total": 5 } }));
    }
}
