//! What a connection has received and not yet served: whole requests, and the start of the next.
//!
//! It grows as bytes arrive, never because a peer announced a length: a header that claims a body
//! of 4 MiB costs nothing until the body comes.

use larder_protocol::limits::{HEADER_BYTES, HELLO_BODY_BYTES_MAX};
use larder_protocol::{DecodeError, Header};

/// Received bytes of one connection.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// When the latest of them came, by the core's clock. Set by the driver.
    pub(crate) arrived_us: u64,
}

impl Inbox {
    /// With these bytes, which came then.
    pub(crate) fn holding(bytes: &[u8], arrived_us: u64) -> Self {
        Self { bytes: bytes.to_vec(), start: 0, end: bytes.len(), arrived_us }
    }

    /// The header of the next request, once all its 64 bytes are here.
    ///
    /// # Errors
    /// [`DecodeError`] if they are not a header, or announce more than a stranger may send.
    pub(crate) fn header(&self, greeted: bool) -> Result<Option<Header>, DecodeError> {
        let Some(bytes) = self.bytes[self.start..self.end].first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = Header::decode(bytes)?;
        if header.is_reply {
            return Err(DecodeError::Value { what: "request flag", found: 1 });
        }
        if !greeted {
            let (body, limit) = (u64::from(header.body_bytes), u64::from(HELLO_BODY_BYTES_MAX));
            larder_protocol::wire::within(body, limit, "body before hello")?;
            larder_protocol::wire::within(header.payload_bytes, 0, "payload before hello")?;
        }
        Ok(Some(header))
    }

    /// Body of the next request and whatever is here behind it, once the body is here in full.
    pub(crate) fn body(&self, header: &Header) -> Option<(&[u8], &[u8])> {
        self.bytes[self.start + HEADER_BYTES..self.end].split_at_checked(header.body_bytes as usize)
    }

    /// Everything that is here and was not served.
    pub(crate) fn unserved(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Forgets the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end, "only what is here can be consumed");
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > BYTES_KEPT {
                self.bytes.truncate(BYTES_KEPT);
                self.bytes.shrink_to_fit();
            }
        }
    }

    /// Forgets the first `count` bytes; if others `came` behind them, that is all there was.
    pub(crate) fn pass(&mut self, count: usize, came: Option<Self>) {
        self.consume(count);
        if let Some(came) = came {
            debug_assert!(self.is_empty(), "what was behind is in what came");
            *self = came;
        }
    }

    /// Room for the next bytes, at the end of what is here.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.bytes.len() {
            let grown = (self.bytes.len() * 2).max(BYTES_FIRST);
            self.bytes.resize(grown, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Notes that `count` bytes were received into the room.
    pub(crate) fn received(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.bytes.len(), "no more than there was room for");
    }

    /// Whether nothing is here, not even the start of a request.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// First size: a few small requests, and little enough for thousands of idle connections.
const BYTES_FIRST: usize = 8 << 10;
/// What an idle connection keeps.
const BYTES_KEPT: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use larder_protocol::Opcode;

    use super::*;

    fn feed(inbox: &mut Inbox, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = inbox.room();
            let now = room.len().min(bytes.len());
            room[..now].copy_from_slice(&bytes[..now]);
            inbox.received(now);
            bytes = &bytes[now..];
        }
    }

    fn frame(id: u64, body: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let at = Header::begin(&mut out);
        out.resize(out.len() + body, id as u8);
        Header::request(Opcode::Match, id, 1000).finish(0, at, &mut out);
        out
    }

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let stream: Vec<u8> = (0..30).flat_map(|id| frame(id, (id * 1000) as usize)).collect();
        for step in [1, 7, 64, 1000, 100_000] {
            let (mut inbox, mut seen) = (Inbox::default(), 0);
            for piece in stream.chunks(step) {
                feed(&mut inbox, piece);
                while let Some(header) = inbox.header(true).unwrap() {
                    let Some((body, _)) = inbox.body(&header) else { break };
                    assert_eq!(header.request_id, seen);
                    assert!(body.iter().all(|&b| b == seen as u8));
                    inbox.consume(HEADER_BYTES + header.body_bytes as usize);
                    seen += 1;
                }
            }
            assert_eq!(seen, 30);
            assert!(inbox.is_empty());
        }
    }

    #[test]
    fn announced_length_alone_takes_no_memory() {
        let mut inbox = Inbox::default();
        feed(&mut inbox, &frame(1, 4 << 20)[..HEADER_BYTES]);
        assert!(inbox.header(true).unwrap().is_some());
        assert!(inbox.room().len() <= BYTES_FIRST);
    }

    #[test]
    fn stranger_may_send_little() {
        let mut inbox = Inbox::default();
        feed(&mut inbox, &frame(1, 5000)[..HEADER_BYTES]);
        assert!(matches!(inbox.header(false), Err(DecodeError::TooLong { .. })));
        assert!(inbox.header(true).unwrap().is_some());
    }
}
