//! Lets a bounded number of callers in to the admin listener, each for a bounded time.
//!
//! The HTTP library waits as long as its peer likes: without this, a few silent connections would
//! hold descriptors for ever, or lock the probes of an orchestrator out.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// A listener that lets few in at a time.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    visit_max: Duration,
}

impl Door {
    /// A door before `listener`.
    pub(super) fn new(listener: TcpListener) -> Self {
        Self::with_limits(listener, VISITS_MAX, VISIT_MAX)
    }

    fn with_limits(listener: TcpListener, visits_max: usize, visit_max: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(visits_max)), visit_max }
    }
}

impl Listener for Door {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("this semaphore is never closed");
        // The library's own loop knows which errors pass, and waits after the others.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Visit { stream, ends: Box::pin(sleep(self.visit_max)), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends by itself.
#[derive(Debug)]
pub(super) struct Visit {
    stream: TcpStream,
    ends: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Visit {
    /// Fails what would have to wait once the time is over.
    fn or_ended<T>(
        &mut self,
        poll: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if poll.is_pending() && self.ends.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        poll
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, into);
        self.or_ended(poll, cx)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.or_ended(poll, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.or_ended(poll, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.or_ended(poll, cx)
    }
}

/// Callers at a time: a few probes and scrapers; guessed.
const VISITS_MAX: usize = 32;
/// Longest stay of one caller. The answers are small and made at once.
const VISIT_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::timeout;

    /// Runs `test` with a door of one place, and the address before it.
    fn with_door<F: Future>(visit_max: Duration, test: impl FnOnce(Door, SocketAddr) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            test(Door::with_limits(listener, 1, visit_max), address).await;
        });
    }

    async fn read_one(visit: &mut Visit) -> io::Result<usize> {
        let mut byte = [0; 1];
        let mut into = ReadBuf::new(&mut byte);
        poll_fn(|cx| Pin::new(&mut *visit).poll_read(cx, &mut into)).await?;
        Ok(into.filled().len())
    }

    #[test]
    fn a_silent_caller_is_shown_out() {
        with_door(Duration::from_millis(20), |mut door, address| async move {
            let _caller = TcpStream::connect(address).await.unwrap();
            let (mut visit, _) = door.accept().await;
            for _ in 0..2 {
                let error = read_one(&mut visit).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            }
        });
    }

    #[test]
    fn the_next_caller_waits_for_a_place() {
        with_door(Duration::from_secs(60), |mut door, address| async move {
            let _callers = [TcpStream::connect(address).await, TcpStream::connect(address).await];
            let (visit, _) = door.accept().await;
            assert!(timeout(Duration::from_millis(20), door.accept()).await.is_err());
            drop(visit);
            assert!(timeout(Duration::from_secs(10), door.accept()).await.is_ok());
        });
    }
}
