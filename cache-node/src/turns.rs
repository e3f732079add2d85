//! When a connection that goes on without having to wait gives others their turn.
//!
//! What a reader would get wrong: a turn is not the end of this one's work, and costs it little if
//! nobody is known to wait. How that is known is in `polls.rs`.

use std::{io, mem};

use crate::core::Core;
use crate::outbox::Outbox;
use crate::polls::{POLL_BYTES, POLL_REQUESTS, Turn};
use crate::stalls::Patience;
use crate::tcp::Wire;

impl Wire {
    /// Counts one request; the bytes are counted where they are moved.
    pub(crate) fn spend(&mut self) {
        self.requests += 1;
    }

    /// Gives others their turn if this connection was served for long enough.
    pub(crate) async fn breathe_if_spent(&mut self) {
        let turn = self.turn_of_others();
        self.give(turn).await;
    }

    /// As [`Wire::breathe_if_spent`], but what is answered is sent first; whether others had one.
    pub(crate) async fn give_way(
        &mut self,
        core: &Core,
        patience: &Patience,
        outbox: &mut Outbox,
    ) -> io::Result<bool> {
        let turn = self.turn_of_others();
        if turn == Turn::Breath && !outbox.is_empty() {
            self.send(core, patience, outbox).await?;
            // It may have breathed already.
            if !self.polls.is_owed() {
                return Ok(true);
            }
        }
        self.give(turn).await;
        Ok(turn != Turn::None)
    }

    /// What others are to be given now.
    ///
    /// What may be served until others are asked for is shared by all connections: a lone one needs
    /// to ask for nobody for as many requests as a client has in flight. Of bytes all but a lone
    /// one move as few as take some 100 us: a small get behind a long put waits for that.
    fn turn_of_others(&mut self) -> Turn {
        if self.polls.is_owed() {
            return Turn::Breath;
        }
        let share = self.stalls.len().max(1) as u64;
        let requests_max = (POLL_REQUESTS / share).max(ASK_REQUESTS_MIN);
        let bytes_max = if share == 1 { POLL_BYTES } else { ASK_BYTES };
        if self.requests < requests_max && self.bytes < bytes_max {
            return Turn::None;
        }
        let (requests, bytes) = (mem::take(&mut self.requests), mem::take(&mut self.bytes));
        self.polls.turn_after(requests, bytes)
    }

    async fn give(&mut self, turn: Turn) {
        match turn {
            Turn::None => {}
            Turn::Yield => futures_lite::future::yield_now().await,
            Turn::Breath => self.breathe().await,
        }
    }

    /// Lets the runtime poll.
    pub(crate) async fn breathe(&mut self) {
        (self.requests, self.bytes) = (0, 0);
        self.polls.breathe().await;
    }
}

/// What each of many connections may be served, however many there are, until others are asked for.
const ASK_REQUESTS_MIN: u64 = 16;
/// The same of bytes, where there is more than one. With 4 MiB divided by the connections, received
/// by the MiB, the p99 of small gets beside puts of 2 MiB over TCP was twice as long, and the puts
/// no faster.
const ASK_BYTES: u64 = 256 << 10;
