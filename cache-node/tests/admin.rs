//! The admin pages of a real process: what an orchestrator, a scraper and a person read there.
//!
//! Shards publish each 100 ms, so numbers follow a little later than answers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod process;
mod raw;

use std::time::Duration;

use larder_protocol::Status;

use process::{Process, within};
use raw::Raw;

fn start() -> Process {
    Process::start(&["--admin", "127.0.0.1:0", "--shards", "2", "--node-name", "tested"])
}

/// The sum over all shards of a series, if it is there.
fn series(metrics: &str, name: &str) -> Option<f64> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    let values = lines.filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.split('{').next()? == name).then(|| value.parse::<f64>().unwrap())
    });
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[test]
fn a_serving_node_is_healthy_and_ready() {
    let node = start();
    assert_eq!(node.page("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(node.page("/readyz"), (200, "serving\n".to_owned()));
    assert_eq!(node.page("/nothing").0, 404);
    for verb in ["POST", "DELETE"] {
        let (code, _) = node.page_by(verb, "/stats");
        assert_eq!(code, 405, "{verb}: pages tell and change nothing");
    }
}

#[test]
fn numbers_follow_what_was_put_and_read() {
    let node = start();
    let (_, before) = node.page("/metrics");
    assert_eq!(series(&before, "larder_stored_total"), Some(0.0));
    assert_eq!(series(&before, "larder_ready"), Some(1.0));
    // One of the two shards owns the key; the other one says so.
    let mut raw = Raw::open_shard(node.shard(0), 0, "admin");
    let mut other = Raw::open_shard(node.shard(1), 1, "admin");
    let statuses = [raw.put_one("key", &[1; 5000]), other.put_one("key", &[1; 5000])];
    assert!(statuses.contains(&Status::Stored) && statuses.contains(&Status::WrongShard));
    let owner = if statuses[0] == Status::Stored { &mut raw } else { &mut other };
    assert!(owner.get_one("key").is_ok() && owner.get_one("none").is_err());
    within(Duration::from_secs(5), "the numbers have followed", || {
        let (code, text) = node.page("/metrics");
        assert_eq!(code, 200);
        [
            ("larder_stored_total", 1.0),
            ("larder_hits_total", 1.0),
            ("larder_objects", 1.0),
            ("larder_object_bytes", 5000.0),
            ("larder_connections", 2.0),
        ]
        .iter()
        .all(|(name, value)| series(&text, name) == Some(*value))
    });
    let (code, text) = node.page("/stats");
    assert_eq!(code, 200);
    let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stats["node"], "tested");
    assert_eq!(stats["state"], "serving");
    assert_eq!(stats["total"]["stored_total"], 1);
    assert_eq!(stats["total"]["object_bytes"], 5000);
    assert_eq!(stats["total"]["requests_by_op"]["put"], 2);
    assert_eq!(stats["shards"].as_array().map(Vec::len), Some(2));
    assert_eq!(stats["process"]["process_id"], node.pid());
    assert_eq!(stats["addresses"][0], node.address.to_string());
}

#[test]
fn a_draining_node_is_healthy_and_not_ready() {
    let node = Process::start(&["--admin", "127.0.0.1:0", "--drain-timeout", "5s"]);
    // Something unfinished keeps it draining.
    let mut raw = Raw::open(node.address, "drain");
    let frame = raw.put_frame(&[raw::object::Object::new("k", vec![1; 1000])], false);
    raw.send(&frame[..frame.len() - 1]);
    std::thread::sleep(Duration::from_millis(200));
    node.signal("TERM");
    within(Duration::from_secs(4), "it says so", || node.page("/readyz").0 == 503);
    assert_eq!(node.page("/readyz").1, "draining\n");
    assert_eq!(node.page("/healthz"), (200, "ok\n".to_owned()));
    raw.send(&frame[frame.len() - 1..]);
    assert_eq!(raw.reply().statuses(), [Status::Stored]);
}
