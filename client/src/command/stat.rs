//! `stat`: what the shards count, each for itself and all together.

use clap::Args;
use larder_client::{Client, Error, ShardAnswer, ShardValue, Stat as Counter};
use serde_json::{Map, Value, json};

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct Stat {
    /// Everything, as JSON.
    #[arg(long)]
    json: bool,
}

impl Stat {
    pub(super) fn run(&self, client: &Client) -> Result<(), Failure> {
        let shards = client.stats(None)?;
        if self.json {
            println!("{:#}", as_json(&shards));
        } else {
            print_table(&shards);
        }
        // What was heard is shown; the exit code still says that somebody was silent.
        let silent = shards.into_iter().find_map(|shard| shard.answer.err());
        silent.map_or(Ok(()), |error| Err(Failure::Call(Error::from(error))))
    }
}

fn as_json(shards: &[ShardAnswer]) -> Value {
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
    json!({ "shards": each, "total": total })
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
    use larder_client::KeyError;

    use super::*;

    #[test]
    fn totals_add_up_what_was_heard() {
        let shard = |shard, answer| ShardAnswer { peer: "n:1".into(), node_id: 1, shard, answer };
        let stats =
            |hits| Ok(ShardValue::Stats(vec![(Counter::Hits, hits), (Counter::ProcessId, 9)]));
        let shards =
            [shard(0, stats(3)), shard(1, stats(4)), shard(2, Err(KeyError::DeadlineExceeded))];
        assert_eq!(sum(&shards, Counter::Hits), 7);
        let json = as_json(&shards);
        assert_eq!(json["total"]["hits_total"], 7);
        assert_eq!(json["total"]["process_id"], Value::Null, "processes do not add up");
        assert_eq!(json["shards"][1]["stats"]["hits_total"], 4);
        assert_eq!(json["shards"][2]["error"], "the deadline passed");
    }
}
