//! `reconnect`: clients that come, store and read one object, and go, one after the other.
//!
//! What it is for is what the node has afterwards: as many descriptors, queue pairs and bytes as
//! before. That is for whoever runs it to look at.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use larder_benches::latency::Latency;
use larder_benches::load::Objects;
use larder_benches::names::key_of;
use larder_benches::paths::{self, PathChoice};
use larder_benches::report::{Output, Table};
use larder_benches::units::{parse_duration, parse_object_bytes};
use larder_client::{Config, GetOptions, KeyResult, NamespaceSpec, Pieces, PutObject, PutOptions};
use serde::Serialize;

use super::Failure;

/// Connect, store and read an object in registered memory, and go, again and again
#[derive(Debug, clap::Args)]
pub(super) struct Reconnect {
    /// Address of a node
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    node: String,
    /// Which way the clients go to the node
    #[arg(long, value_enum, default_value_t)]
    path: PathChoice,
    /// The network card to use [default: the first with an active port]
    #[arg(long, value_name = "NAME")]
    rdma_device: Option<String>,
    /// How many clients
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    count: u64,
    /// Bytes of the object
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = parse_object_bytes)]
    size: u32,
    /// How long one operation may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    deadline: Duration,
    #[command(flatten)]
    output: Output,
}

/// Everything that `reconnect` tells. Names are kept: programs read them.
#[derive(Debug, Serialize)]
struct Results {
    path: PathChoice,
    size: u32,
    clients: u64,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
    wrong: u64,
}

impl Reconnect {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let objects = Objects::new(self.size, 1, 1, key_of);
        let (began, mut latency, mut wrong) = (Instant::now(), Latency::new(), 0);
        for version in 0..self.count {
            let begun = Instant::now();
            wrong += u64::from(!self.meet(&objects, version)?);
            latency.record(begun.elapsed());
        }
        let percentiles = latency.percentiles();
        let results = Results {
            path: self.path,
            size: self.size,
            clients: self.count,
            seconds: began.elapsed().as_secs_f64(),
            p50_us: percentiles.p50_us,
            p99_us: percentiles.p99_us,
            wrong,
        };
        let mut table = Table::default();
        table.row(&["clients", &format!("{} in {:.1} s", results.clients, results.seconds)]);
        let times = format!("{:.1} / {:.1}", results.p50_us, results.p99_us);
        table.row(&["us of one, p50 / p99", &times]);
        table.row(&["wrong", &wrong.to_string()]);
        self.output.emit("reconnect", &results, &table)?;
        Ok(if wrong > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// One client from start to end; whether what it read is what it had stored.
    fn meet(&self, objects: &Objects, version: u64) -> Result<bool, Failure> {
        let config = Config {
            deadline: self.deadline,
            connect_timeout: self.deadline,
            name: "larder-bench reconnect".into(),
            rdma_device: self.rdma_device.clone(),
            ..Config::seed(&self.node)
        };
        let client = paths::connect(config, self.path)?;
        let namespace = client.namespace(NamespaceSpec::new("larder-bench", "reconnect"))?;
        let mut memory = client.shared_memory(2 * u64::from(self.size))?;
        let (source, landing) = memory.split_at_mut(self.size as usize);
        let content = objects.content(0, version);
        content.fill(source);
        let object = PutObject::<Pieces<'_>>::new(key_of(0), &*source);
        let insist = PutOptions { insist: true, ..PutOptions::default() };
        let stored = client.put(&namespace, &[object], &insist)?;
        stored.into_iter().collect::<KeyResult<Vec<()>>>()?;
        let landing = &mut landing[..self.size as usize];
        let places = &mut [(key_of(0), &mut *landing)];
        let landed = client.get_into(&namespace, places, &GetOptions::default())?;
        landed.into_iter().collect::<KeyResult<Vec<_>>>()?;
        Ok(content.check(landing).is_ok())
    }
}
