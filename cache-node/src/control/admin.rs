//! The admin pages over HTTP: health, readiness, numbers.
//!
//! They tell and change nothing. `/healthz` says whether the process should live, `/readyz` whether
//! it should be sent requests: a node that starts or drains is healthy and not ready.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use larder_protocol::stats::Stat;
use serde_json::{Map, Value, json};

use super::Control;
use super::metrics::opcodes;
use crate::counters::{Counters, NodeState, Phase};

/// The pages of a node.
pub(super) fn pages(control: Arc<Control>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/stats", get(stats))
        .fallback(no_such_page)
        .method_not_allowed_fallback(only_read)
        .with_state(control)
}

async fn metrics(State(control): State<Arc<Control>>) -> Response {
    control.metrics.refresh(&control.state, Instant::now());
    answer(StatusCode::OK, "text/plain; version=0.0.4", control.metrics.render())
}

async fn healthz(State(control): State<Arc<Control>>) -> Response {
    match control.still_shard() {
        None => answer(StatusCode::OK, TEXT, "ok\n".into()),
        Some(shard) => {
            answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("shard {shard} stands still\n"))
        }
    }
}

async fn readyz(State(control): State<Arc<Control>>) -> Response {
    let phase = control.state.phase();
    let ready = phase == Phase::Serving;
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(code, TEXT, format!("{}\n", phase.name()))
}

async fn stats(State(control): State<Arc<Control>>) -> Response {
    let text = format!("{:#}\n", describe(&control.state, Instant::now()));
    answer(StatusCode::OK, "application/json", text)
}

async fn no_such_page() -> Response {
    answer(StatusCode::NOT_FOUND, TEXT, "try /metrics, /healthz, /readyz or /stats\n".into())
}

async fn only_read() -> Response {
    answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "pages can only be read\n".into())
}

/// One request a connection: no caller keeps a place that another one needs.
fn answer(code: StatusCode, content_type: &'static str, body: String) -> Response {
    (code, [(CONTENT_TYPE, content_type), (CONNECTION, "close")], body).into_response()
}

/// A node as JSON. Ids are hexadecimal text, since not every reader keeps 64 bits of a number.
fn describe(state: &NodeState, now: Instant) -> Value {
    let process = Stat::ALL.iter().filter(|stat| stat.is_of_process());
    let process: Map<_, _> =
        process.map(|&stat| (stat.name().to_owned(), state.process(stat).into())).collect();
    let shards: Vec<_> = state.shards.iter().map(|shard| numbers(&[shard])).collect();
    let all: Vec<_> = state.shards.iter().collect();
    json!({
        "node": state.name,
        "id": format!("{:016x}", state.id),
        "incarnation": format!("{:016x}", state.incarnation),
        "version": env!("CARGO_PKG_VERSION"),
        "state": state.phase().name(),
        "uptime_s": now.saturating_duration_since(state.started).as_secs(),
        "addresses": state.addresses,
        "admin": state.admin.get(),
        "process": process,
        "total": numbers(&all),
        "shards": shards,
    })
}

/// The sums of all stats and requests over some shards.
fn numbers(shards: &[&Arc<Counters>]) -> Value {
    let sum = |read: &dyn Fn(&Counters) -> u64| shards.iter().map(|shard| read(shard)).sum::<u64>();
    let stats = Stat::ALL.iter().filter(|stat| !stat.is_of_process());
    let mut numbers: Map<_, _> = stats
        .map(|&stat| (stat.name().to_owned(), sum(&|shard| shard.read(stat)).into()))
        .collect();
    let requests: Map<String, Value> =
        opcodes().map(|(opcode, op)| (op, sum(&|shard| shard.requests(opcode)).into())).collect();
    numbers.insert("requests_by_op".into(), requests.into());
    numbers.into()
}

const TEXT: &str = "text/plain";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use larder_protocol::stats::STAT_NUMBERS;
    use std::time::Duration;

    #[test]
    fn stats_have_totals_and_shards_by_name() {
        let state = NodeState::new(&Config { shards: 2, ..Config::default() });
        for shard in &state.shards {
            shard.publish(&[21; STAT_NUMBERS]);
        }
        state.publish_process(7, 8);
        let now = state.started + Duration::from_secs(90);
        let json = describe(&state, now);
        assert_eq!(json["total"]["hits_total"], 42);
        assert_eq!(json["shards"][1]["object_bytes"], 21);
        assert_eq!(json["shards"][0]["requests_by_op"]["get"], 0);
        assert_eq!(json["process"]["process_cpu_us"], 7);
        assert!(json["total"].get("process_id").is_none(), "said once, not summed");
        assert_eq!(json["uptime_s"], 90);
        assert_eq!(json["id"], format!("{:016x}", state.id));
        assert_eq!(json["addresses"].as_array().map(Vec::len), Some(2));
    }
}
