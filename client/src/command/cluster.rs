//! `view` and `bump`.

use clap::Args;
use larder_client::{Client, Namespace};
use serde_json::json;

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct View {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl View {
    pub(super) fn run(&self, client: &Client) -> Result<(), Failure> {
        let view = client.view();
        if self.json {
            let members = view.members.iter().map(|member| {
                json!({
                    "id": member.id,
                    "incarnation": member.incarnation,
                    "weight": member.weight,
                    "state": format!("{:?}", member.state).to_lowercase(),
                    "host": member.host,
                    "port": member.port,
                    "shards": member.shard_count,
                    "capabilities": member.capabilities,
                })
            });
            let members: Vec<_> = members.collect();
            println!("{:#}", json!({ "epoch": view.epoch, "members": members }));
            return Ok(());
        }
        println!("epoch {}", view.epoch);
        println!("{:<20} {:<30} {:>6} {:>7} state", "id", "address", "shards", "weight");
        for member in &view.members {
            let address = format!("{}:{}", member.host, member.port);
            let state = format!("{:?}", member.state).to_lowercase();
            let (id, shards, weight) = (member.id, member.shard_count, member.weight);
            println!("{id:<20} {address:<30} {shards:>6} {weight:>7} {state}");
        }
        Ok(())
    }
}

pub(super) fn bump(client: &Client, namespace: &Namespace) -> Result<(), Failure> {
    println!("generation {}", client.bump(namespace)?.generation());
    Ok(())
}
