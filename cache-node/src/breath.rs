//! What a task does that has not had to wait for a while: it waits for next to nothing.
//!
//! The runtime polls I/O only when no task is runnable, so whoever is never kept waiting keeps the
//! others from being heard. What a reader would get wrong: the shortest timer is no short wait. It
//! takes the kernel 50 us to be late by; a read that is over at once takes a tenth.

use std::rc::Rc;
use std::time::Duration;

use glommio::io::BufferedFile;

/// How the tasks of one core breathe.
#[derive(Debug, Clone)]
pub(crate) struct Breath {
    /// Always at its end.
    file: Rc<Option<BufferedFile>>,
}

impl Breath {
    /// For the tasks of the runtime on whose thread this is.
    pub(crate) async fn new() -> Self {
        let file = BufferedFile::open("/dev/null").await;
        if let Err(error) = &file {
            tracing::warn!(%error, "no /dev/null: connections that do not look are polled later");
        }
        Self { file: Rc::new(file.ok()) }
    }

    /// Lets the runtime poll.
    pub(crate) async fn take(&self) {
        if let Some(file) = &*self.file
            && file.read_at(0, 1).await.is_ok()
        {
            return;
        }
        glommio::timer::sleep(SHORT).await;
    }
}

/// Any timer that is not over at once will do; a short one costs the least.
const SHORT: Duration = Duration::from_micros(1);
