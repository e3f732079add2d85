//! The control thread: everything a node does besides requests, on one ordinary thread.
//!
//! Only this folder names tokio. Nothing here is on the path of a request, and executors never wait
//! for this thread: they publish what they count and read flags, both at their own tick.

mod admin;
mod by_name;
mod door;
mod metrics;
mod signals;
mod watchdog;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use larder_transport::process;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::config::Config;
use crate::counters::NodeState;
use door::Door;
use metrics::Metrics;
use signals::{Signals, heed};
use watchdog::{Verdict, Watch, Watchdog};

/// What the control thread works with.
#[derive(Debug)]
pub struct Control {
    state: Arc<NodeState>,
    metrics: Metrics,
    /// Number of a shard that stands still, [`NOBODY`] if all move.
    still_shard: AtomicU64,
}

/// A running control thread and watchdog. Both end when this is dropped.
#[derive(Debug)]
pub struct ControlHandle {
    admin: Option<SocketAddr>,
    /// Taken when the thread shall end: it waits for the other side to hang up.
    alive: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    watchdog: Option<Watchdog>,
}

impl Control {
    /// Starts the control thread and the watchdog of a node.
    ///
    /// Call it when the shards' executors run: once `state` is ready, a shard that stands still
    /// ends the process.
    ///
    /// # Errors
    /// If the admin address cannot be had, with a message that names address and flag, or if the
    /// system has no thread or descriptors left.
    pub fn spawn(config: &Config, state: Arc<NodeState>) -> io::Result<ControlHandle> {
        let mut handle = Self::spawn_unwatched(config, Arc::clone(&state))?;
        handle.watchdog = Some(Watchdog::spawn(state)?);
        Ok(handle)
    }

    /// The control thread alone.
    fn spawn_unwatched(config: &Config, state: Arc<NodeState>) -> io::Result<ControlHandle> {
        let listener = config.admin.map(listen).transpose()?;
        let admin = listener.as_ref().map(TcpListener::local_addr).transpose()?;
        if let Some(admin) = admin {
            // A state has one control thread; a second one would not change what the first said.
            let _ = state.admin.set(admin);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = config.signals.then(|| Signals::new(&runtime)).transpose()?;
        let metrics = Metrics::new(&state);
        let control = Arc::new(Self { state, metrics, still_shard: AtomicU64::new(NOBODY) });
        let (alive, hung_up) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("larder-control".into())
            .spawn(move || runtime.block_on(control.run(listener, signals, hung_up)))?;
        Ok(ControlHandle { admin, alive: Some(alive), thread: Some(thread), watchdog: None })
    }

    async fn run(
        self: Arc<Self>,
        listener: Option<TcpListener>,
        signals: Option<Signals>,
        hung_up: oneshot::Receiver<()>,
    ) {
        tokio::select! {
            _ = hung_up => {}
            () = self.look_around() => {}
            () = heed(signals, &self.state) => {}
            () = serve(listener, &self) => {}
        }
    }

    /// Looks at shards and process again and again, the first time before anybody is served.
    async fn look_around(&self) {
        let mut watch = Watch::new(self.state.shards.len(), STILL_LOOKS, LOOK_PERIOD);
        for look in 0u64.. {
            let still = match watch.observe_node(&self.state) {
                Verdict::Moving | Verdict::Starved { .. } => NOBODY,
                Verdict::Still { shard, .. } => shard as u64,
            };
            self.still_shard.store(still, Ordering::Relaxed);
            // What cannot be read keeps its last value.
            if let (Ok(cpu_us), Ok(bytes)) = (process::cpu_time_us(None), process::rss_bytes(None))
            {
                self.state.publish_process(cpu_us, bytes);
            }
            if look.is_multiple_of(LOOKS_A_REFRESH) {
                self.metrics.refresh(&self.state, Instant::now());
                self.state.judgement.refit();
            }
            // Not a fixed rhythm: after a pause of the machine, shards get a whole period again.
            sleep(LOOK_PERIOD).await;
        }
    }

    /// The shard that stands still, if one does.
    fn still_shard(&self) -> Option<u64> {
        let shard = self.still_shard.load(Ordering::Relaxed);
        (shard != NOBODY).then_some(shard)
    }
}

impl ControlHandle {
    /// Where the admin pages are, `None` if they are off.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }
}

impl Drop for ControlHandle {
    fn drop(&mut self) {
        drop((self.alive.take(), self.watchdog.take()));
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the control thread had panicked");
        }
    }
}

async fn serve(listener: Option<TcpListener>, control: &Arc<Control>) {
    let listener = listener.map(tokio::net::TcpListener::from_std).transpose();
    match listener {
        Ok(Some(listener)) => {
            let pages = admin::pages(Arc::clone(control));
            if let Err(error) = axum::serve(Door::new(listener), pages).await {
                tracing::error!(%error, "the admin listener ended");
            }
        }
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "the admin listener cannot be used"),
    }
    // Without pages the rest goes on.
    std::future::pending().await
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("--admin {address}: cannot listen there: {error}"))
    })
}

const NOBODY: u64 = u64::MAX;
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// 600 ms, so that probes hear of it before the watchdog ends the process.
const STILL_LOOKS: u32 = 3;
/// A second.
const LOOKS_A_REFRESH: u64 = 5;

#[cfg(test)]
mod tests {
    use larder_protocol::stats::Stat;

    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    /// A control thread with pages over a node whose shards never tick: a watchdog would end the
    /// test.
    fn spawn(shards: u16) -> (ControlHandle, Arc<NodeState>) {
        let admin = Some("127.0.0.1:0".parse().unwrap());
        let config = Config { shards, admin, ..Config::default() };
        let state = NodeState::new(&config);
        (Control::spawn_unwatched(&config, Arc::clone(&state)).unwrap(), state)
    }

    /// Status and body of a page.
    fn page(control: &ControlHandle, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(control.admin().unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    #[test]
    fn readiness_follows_the_node_and_health_does_not() {
        let (control, state) = spawn(1);
        assert_eq!(page(&control, "/readyz"), (503, "starting\n".into()));
        state.set_ready();
        state.shards[0].retire();
        assert_eq!(page(&control, "/readyz"), (200, "serving\n".into()));
        state.drain();
        assert_eq!(page(&control, "/readyz"), (503, "draining\n".into()));
        assert_eq!(page(&control, "/healthz"), (200, "ok\n".into()));
        assert_eq!(page(&control, "/elsewhere").0, 404);
    }

    #[test]
    fn health_names_the_shard_that_stands_still() {
        let (control, state) = spawn(2);
        state.set_ready();
        state.shards[0].retire();
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut answer = page(&control, "/healthz");
        while answer == (200, "ok\n".into()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            answer = page(&control, "/healthz");
        }
        assert_eq!(answer, (503, "shard 1 stands still\n".into()));
        // It moves again.
        state.shards[1].retire();
        while answer.0 == 503 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            answer = page(&control, "/healthz");
        }
        assert_eq!(answer, (200, "ok\n".into()));
    }

    #[test]
    fn numbers_are_taken_when_they_are_asked_for() {
        let (control, state) = spawn(1);
        let mut values = [0; larder_protocol::stats::STAT_NUMBERS];
        values[Stat::Stored as usize] = 12;
        state.shards[0].publish(&values);
        let (code, text) = page(&control, "/metrics");
        assert!(code == 200 && text.contains("larder_stored_total{shard=\"0\"} 12\n"), "{text}");
        let (code, text) = page(&control, "/stats");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &json["total"]["stored_total"]), (200, &12.into()));
        assert_eq!(json["admin"], control.admin().unwrap().to_string());
        assert!(json["process"]["process_rss_bytes"].as_u64() > Some(0));
    }

    #[test]
    fn a_taken_admin_address_is_named_with_its_flag() {
        let (control, _state) = spawn(1);
        let config = Config { admin: control.admin(), ..Config::default() };
        let error = Control::spawn(&config, NodeState::new(&config)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let flag_and_address = format!("--admin {}: ", control.admin().unwrap());
        assert!(error.to_string().starts_with(&flag_and_address), "{error}");
    }

    #[test]
    fn a_dropped_control_frees_its_address_and_its_threads() {
        let (mut control, state) = spawn(1);
        control.watchdog = Some(Watchdog::spawn(Arc::clone(&state)).unwrap());
        let admin = control.admin().unwrap();
        let _silent_caller = TcpStream::connect(admin).unwrap();
        drop(control);
        assert_eq!(Arc::strong_count(&state), 1);
        TcpListener::bind(admin).unwrap();
    }
}
