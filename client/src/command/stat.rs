//! `stat`: what the shards count, each for itself and all together, and which way clients go.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use larder_client::{
    Client, ClientPath, Code, Error, KeyError, Pending, ShardAnswer, ShardValue, Stat as Counter,
};
use serde_json::{Map, Value, json};

use super::Failure;
use super::accounts::Accounts;

#[derive(Debug, Args)]
pub(super) struct Stat {
    /// Everything, as JSON.
    #[arg(long)]
    json: bool,
    /// Also what each namespace and each class of objects takes and finds.
    #[arg(long)]
    by_namespace: bool,
}

impl Stat {
    pub(super) fn run(&self, client: &Client) -> Result<(), Failure> {
        // Both at a time, so that a silent shard costs one deadline.
        let shards = client.start_stats(None)?;
        let accounts = self.by_namespace.then(|| client.start_accounts(None)).transpose()?;
        let (told, shards) = (client.clients(None)?, shards.wait()?);
        let counted = accounts.map(Pending::wait).transpose()?;
        let accounts = counted.as_deref().map(Accounts::of);
        let clients = Clients::of(&told);
        if self.json {
            let mut json = as_json(&shards, &clients);
            accounts.iter().for_each(|accounts| accounts.add_to(&mut json));
            println!("{json:#}");
        } else {
            print_table(&shards);
            accounts.iter().for_each(|accounts| print!("\n{accounts}"));
            clients.print();
        }
        // What was heard is shown; the exit code still says that somebody was silent.
        let heard = shards.into_iter().chain(told).chain(counted.unwrap_or_default());
        let silent = heard.into_iter().find_map(|shard| {
            // A node of an older version counts, and does not know who is connected.
            shard.answer.err().filter(|error| *error != KeyError::Refused(Code::UnknownOpcode))
        });
        silent.map_or(Ok(()), |error| Err(Failure::Call(Error::from(error))))
    }
}

/// Connections of the same name that go the same way.
#[derive(Debug, Default, PartialEq, Eq)]
struct Clients(BTreeMap<(String, ClientPath), Connections>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Connections {
    count: u64,
    longest: Duration,
}

impl Clients {
    fn of(shards: &[ShardAnswer]) -> Self {
        let mut clients = Self::default();
        for shard in shards {
            let Ok(ShardValue::Clients(told)) = &shard.answer else { continue };
            for client in told {
                let known = clients.0.entry((client.name.clone(), client.path)).or_default();
                known.count += 1;
                known.longest = known.longest.max(client.connected);
            }
        }
        clients
    }

    fn print(&self) {
        if self.0.is_empty() {
            return;
        }
        println!("\n{:<26} {:>12} {:>12} {:>12}", "client", "path", "connections", "longest");
        for ((name, path), Connections { count, longest }) in &self.0 {
            // Whatever a client calls itself, it is one line.
            let (name, longest) = (name.escape_debug().to_string(), for_people(*longest));
            println!("{name:<26} {:>12} {count:>12} {longest:>12}", path.name());
        }
    }

    fn as_json(&self) -> Value {
        let each = self.0.iter().map(|((name, path), Connections { count, longest })| {
            json!({
                "name": name,
                "path": path.name(),
                "connections": count,
                "longest_ms": longest.as_millis() as u64,
            })
        });
        each.collect()
    }
}

fn as_json(shards: &[ShardAnswer], clients: &Clients) -> Value {
    let each = shards.iter().map(|shard| match &shard.answer {
        Ok(ShardValue::Stats(stats)) => {
            let stats = stats.iter().map(|(stat, value)| (stat.name().into(), json!(value)));
            let stats: Map<String, Value> = stats.collect();
            json!({
                "node": shard.node_id,
                "address": &*shard.peer,
                "shard": shard.shard,
                "stats": stats,
            })
        }
        Ok(_) => Value::Null,
        Err(error) => json!({
            "node": shard.node_id,
            "address": &*shard.peer,
            "shard": shard.shard,
            "error": error.to_string(),
        }),
    });
    let each: Vec<_> = each.collect();
    let total = Counter::ALL.iter().filter(|stat| !stat.is_of_process());
    let total: Map<String, Value> =
        total.map(|stat| (stat.name().into(), json!(sum(shards, *stat)))).collect();
    json!({ "shards": each, "total": total, "clients": clients.as_json() })
}

fn print_table(shards: &[ShardAnswer]) {
    print!("{:<26}", "shard");
    COLUMNS.iter().for_each(|(name, _)| print!(" {name:>12}"));
    println!();
    for shard in shards {
        print!("{:<26}", format!("{}/{}", shard.peer, shard.shard));
        match &shard.answer {
            Ok(_) => print_row(std::slice::from_ref(shard)),
            Err(error) => println!(" {error}"),
        }
    }
    print!("{:<26}", "total");
    print_row(shards);
    let ratios = Ratios::of(shards);
    if let Some(ratios) = ratios {
        println!("\n{ratios}");
    }
}

/// What was found, and what other sizes of memory would have found.
#[derive(Debug, PartialEq)]
struct Ratios {
    hits: f64,
    at_half: f64,
    at_twice: f64,
}

impl Ratios {
    /// `None` before anything was used.
    ///
    /// The node follows its own policy and the estimate is of another: only what differs between
    /// the estimates is taken of it.
    fn of(shards: &[ShardAnswer]) -> Option<Self> {
        let uses = sum(shards, Counter::SampledUses);
        let part = |stat| sum(shards, stat) as f64 / uses as f64;
        let hits = part(Counter::SampledHits);
        let same = part(Counter::HitsAtSame);
        let other = |stat| (hits + part(stat) - same).clamp(0.0, 1.0);
        let (at_half, at_twice) = (other(Counter::HitsAtHalf), other(Counter::HitsAtTwice));
        (uses > 0).then_some(Self { hits, at_half, at_twice })
    }
}

impl std::fmt::Display for Ratios {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { hits, at_half, at_twice } = self;
        write!(
            f,
            "hits of uses: {:.1} %; about {:.1} % with half the memory, {:.1} % with twice as much",
            100.0 * hits,
            100.0 * at_half,
            100.0 * at_twice,
        )
    }
}

fn print_row(shards: &[ShardAnswer]) {
    COLUMNS.iter().for_each(|&(_, stat)| print!(" {:>12}", sum(shards, stat)));
    println!();
}

fn sum(shards: &[ShardAnswer], stat: Counter) -> u64 {
    let values = shards.iter().filter_map(|shard| match &shard.answer {
        Ok(ShardValue::Stats(stats)) => stats.iter().find(|(found, _)| *found == stat),
        _ => None,
    });
    values.map(|&(_, value)| value).sum()
}

/// A duration in the unit in which it has two or three digits.
fn for_people(duration: Duration) -> String {
    match duration.as_secs() {
        0..100 => format!("{:.1} s", duration.as_secs_f64()),
        seconds @ 100..6_000 => format!("{} min", seconds / 60),
        seconds @ 6_000..360_000 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

const COLUMNS: [(&str, Counter); 9] = [
    ("objects", Counter::Objects),
    ("bytes", Counter::ObjectBytes),
    ("room", Counter::RegionBytes),
    ("hits", Counter::Hits),
    ("misses", Counter::Misses),
    ("stored", Counter::Stored),
    ("evicted", Counter::Evicted),
    ("leased", Counter::LeasedBytes),
    ("connections", Counter::Connections),
];

#[cfg(test)]
mod tests {
    use larder_client::ClientInfo;

    use super::*;

    fn shard(shard: u16, answer: Result<ShardValue, KeyError>) -> ShardAnswer {
        ShardAnswer { peer: "n:1".into(), node_id: 1, shard, answer }
    }

    #[test]
    fn totals_add_up_what_was_heard() {
        let stats =
            |hits| Ok(ShardValue::Stats(vec![(Counter::Hits, hits), (Counter::ProcessId, 9)]));
        let shards =
            [shard(0, stats(3)), shard(1, stats(4)), shard(2, Err(KeyError::DeadlineExceeded))];
        assert_eq!(sum(&shards, Counter::Hits), 7);
        let json = as_json(&shards, &Clients::default());
        assert_eq!(json["total"]["hits_total"], 7);
        assert_eq!(json["total"]["process_id"], Value::Null, "processes do not add up");
        assert_eq!(json["shards"][1]["stats"]["hits_total"], 4);
        assert_eq!(json["shards"][2]["error"], "the deadline passed");
    }

    #[test]
    fn other_sizes_of_memory_are_told_by_their_difference() {
        let stats = vec![
            (Counter::SampledUses, 1000),
            (Counter::SampledHits, 500),
            (Counter::HitsAtHalf, 300),
            (Counter::HitsAtSame, 400),
            (Counter::HitsAtTwice, 650),
        ];
        let ratios = Ratios::of(&[shard(0, Ok(ShardValue::Stats(stats)))]).unwrap();
        let text = ratios.to_string();
        let expected = "50.0 %; about 40.0 % with half the memory, 75.0 % with twice as much";
        assert!(text.ends_with(expected), "{text}");
        assert_eq!(Ratios::of(&[]), None);
    }

    #[test]
    fn connections_of_one_name_and_path_are_one_line() {
        let client = |name: &str, path, seconds| ClientInfo {
            name: name.into(),
            path,
            connected: Duration::from_secs(seconds),
        };
        let told = |clients| Ok(ShardValue::Clients(clients));
        let clients = Clients::of(&[
            shard(0, told(vec![client("a", ClientPath::Tcp, 1), client("a", ClientPath::Rdma, 7)])),
            shard(1, told(vec![client("a", ClientPath::Rdma, 9)])),
            shard(2, Err(KeyError::Refused(Code::UnknownOpcode))),
        ]);
        let expected = json!([
            { "name": "a", "path": "tcp", "connections": 1, "longest_ms": 1000 },
            { "name": "a", "path": "rdma", "connections": 2, "longest_ms": 9000 },
        ]);
        assert_eq!(as_json(&[], &clients)["clients"], expected);
    }

    #[test]
    fn durations_are_short_to_read() {
        let text = |seconds| for_people(Duration::from_secs(seconds));
        let found = [0, 99, 100, 5_999, 6_000, 359_999, 360_000].map(text);
        assert_eq!(found, ["0.0 s", "99.0 s", "1 min", "99 min", "1 h", "99 h", "4 d"]);
    }
}
