//! What a connection has still to send: reply bytes, and the slots of objects in between.
//!
//! An object is never copied unless it is so small that a copy is cheaper than a piece of its own.
//! The outbox holds a clone of each slot until its last byte was handed to the kernel: evicting an
//! object that is being sent frees nothing before that.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use larder_transport::{Region, Slot};

use crate::gauge::Held;

/// Bytes and objects in the order in which they go out.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Headers, bodies and small objects; frames are encoded right into it.
    pub(crate) bytes: Vec<u8>,
    pieces: Vec<Piece>,
    /// How much of `bytes` already stands in `pieces`.
    covered: usize,
    /// First piece not sent in full, and how much of it is sent.
    next: usize,
    sent: usize,
    unsent_bytes: u64,
}

#[derive(Debug)]
enum Piece {
    Bytes(Range<usize>),
    Object {
        slot: Slot,
        range: Range<u32>,
        _held: Held,
    },
    /// A frame that a descriptor travels with.
    Passing {
        range: Range<usize>,
        region: Arc<Region>,
    },
    Sent,
}

impl Outbox {
    /// Queues `range` of a slot behind everything queued so far.
    pub(crate) fn attach(&mut self, slot: Slot, range: Range<u32>, held: Held) {
        self.cover();
        self.unsent_bytes += u64::from(range.end - range.start);
        self.pieces.push(Piece::Object { slot, range, _held: held });
    }

    /// Queues a frame, and the descriptor of `region` with its first byte.
    pub(crate) fn pass(&mut self, region: &Arc<Region>, frame: impl FnOnce(&mut Vec<u8>)) {
        self.cover();
        frame(&mut self.bytes);
        let range = self.covered..self.bytes.len();
        self.covered = range.end;
        self.unsent_bytes += range.len() as u64;
        self.pieces.push(Piece::Passing { range, region: Arc::clone(region) });
    }

    /// Queues all of `other`, of which nothing was sent yet, behind everything queued so far.
    pub(crate) fn append(&mut self, mut other: Self) {
        debug_assert_eq!((other.next, other.sent), (0, 0), "what was begun is not moved");
        if other.pieces.is_empty() {
            self.bytes.append(&mut other.bytes);
            return;
        }
        self.cover();
        other.cover();
        let start = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.covered = self.bytes.len();
        self.unsent_bytes += other.unsent_bytes;
        self.pieces.extend(other.pieces.into_iter().map(|piece| piece.behind(start)));
    }

    /// The region whose descriptor travels with the next byte, if one does.
    pub(crate) fn passing(&self) -> Option<Arc<Region>> {
        match self.pieces.get(self.next) {
            Some(Piece::Passing { region, .. }) if self.sent == 0 => Some(Arc::clone(region)),
            _ => None,
        }
    }

    /// How many bytes wait, of replies and of objects.
    pub(crate) fn len(&self) -> u64 {
        self.unsent_bytes + (self.bytes.len() - self.covered) as u64
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts what comes next into `slices` and answers how many it filled. What travels with a
    /// descriptor is the first of them or comes another time.
    pub(crate) fn slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.cover();
        let (mut count, mut skip) = (0, self.sent);
        for (slice, piece) in slices.iter_mut().zip(&self.pieces[self.next..]) {
            if count > 0 && matches!(piece, Piece::Passing { .. }) {
                break;
            }
            *slice = IoSlice::new(&piece.bytes(&self.bytes)[skip..]);
            (count, skip) = (count + 1, 0);
        }
        count
    }

    /// Notes that `count` bytes went out; slots that went out in full are let go.
    pub(crate) fn advance(&mut self, mut count: usize) {
        self.unsent_bytes -= count as u64;
        while count > 0 {
            let left = self.pieces[self.next].bytes(&self.bytes).len() - self.sent;
            if count < left {
                self.sent += count;
                return;
            }
            count -= left;
            self.pieces[self.next] = Piece::Sent;
            (self.next, self.sent) = (self.next + 1, 0);
        }
        if self.next == self.pieces.len() && self.covered == self.bytes.len() {
            self.reset();
        }
    }

    fn cover(&mut self) {
        if self.covered < self.bytes.len() {
            self.unsent_bytes += (self.bytes.len() - self.covered) as u64;
            self.pieces.push(Piece::Bytes(self.covered..self.bytes.len()));
            self.covered = self.bytes.len();
        }
    }

    fn reset(&mut self) {
        self.bytes.clear();
        // One long reply must not pin its memory for the life of the connection.
        self.bytes.shrink_to(BYTES_KEPT);
        self.pieces.clear();
        self.pieces.shrink_to(PIECES_KEPT);
        (self.covered, self.next, self.sent) = (0, 0, 0);
    }
}

impl Piece {
    /// The same, where the replies that it is of begin at `start`.
    fn behind(self, start: usize) -> Self {
        let moved = |range: Range<usize>| range.start + start..range.end + start;
        match self {
            Self::Bytes(range) => Self::Bytes(moved(range)),
            Self::Passing { range, region } => Self::Passing { range: moved(range), region },
            Self::Object { .. } | Self::Sent => self,
        }
    }

    fn bytes<'a>(&'a self, replies: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Bytes(range) | Self::Passing { range, .. } => &replies[range.clone()],
            Self::Object { slot, range, .. } => &slot[range.start as usize..range.end as usize],
            Self::Sent => &[],
        }
    }
}

/// Reply bytes that a connection keeps room for: a batch of 128 small objects.
const BYTES_KEPT: usize = 256 << 10;
/// Pieces that a connection keeps room for.
const PIECES_KEPT: usize = 256;

#[cfg(test)]
mod tests {
    use larder_transport::Arena;

    use super::*;
    use crate::gauge::Gauge;

    fn slot(arena: &Arena, bytes: &[u8]) -> Slot {
        let mut slot = arena.take(bytes.len() as u32).unwrap();
        slot.write(bytes);
        slot.freeze().unwrap()
    }

    /// What one call sends that takes at most `step` bytes.
    fn send(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 3];
        let count = outbox.slices(&mut slices);
        let mut sent: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        sent.truncate(step);
        outbox.advance(sent.len());
        sent
    }

    /// What such calls send together.
    fn sent_by(mut outbox: Outbox, step: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !outbox.is_empty() {
            sent.extend(send(&mut outbox, step));
        }
        sent
    }

    #[test]
    fn any_split_of_the_sends_gives_the_same_bytes_and_lets_slots_go() {
        let arena = Arena::new(Arc::new(Region::heap(1 << 20).unwrap()));
        let sending = Gauge::default();
        for step in 1..40 {
            let mut outbox = Outbox::default();
            outbox.bytes.extend_from_slice(b"head");
            outbox.attach(slot(&arena, b"0123456789"), 2..8, sending.hold(6));
            outbox.bytes.extend_from_slice(b"middle");
            outbox.attach(slot(&arena, b"abc"), 0..3, sending.hold(3));
            outbox.bytes.extend_from_slice(b"tail");
            assert_eq!((outbox.len(), sending.value()), (23, 9));
            assert_eq!(sent_by(outbox, step), b"head234567middleabctail");
            assert_eq!(arena.stats().slot_bytes, 0, "slots were let go");
            assert_eq!(sending.value(), 0);
        }
    }

    #[test]
    fn what_is_appended_goes_out_behind_what_was_there_and_before_what_comes() {
        let arena = Arena::new(Arc::new(Region::heap(1 << 20).unwrap()));
        let sending = Gauge::default();
        for step in 1..20 {
            let mut outbox = Outbox::default();
            outbox.bytes.extend_from_slice(b"first");
            let mut plain = Outbox::default();
            plain.bytes.extend_from_slice(b"plain");
            outbox.append(plain);
            let mut mixed = Outbox::default();
            mixed.bytes.extend_from_slice(b"head");
            mixed.attach(slot(&arena, b"0123"), 1..3, sending.hold(2));
            mixed.bytes.extend_from_slice(b"tail");
            outbox.append(mixed);
            outbox.append(Outbox::default());
            outbox.bytes.extend_from_slice(b"last");
            assert_eq!(outbox.len(), 24);
            assert_eq!(sent_by(outbox, step), b"firstplainhead12taillast");
            assert_eq!((arena.stats().slot_bytes, sending.value()), (0, 0));
        }
    }

    #[test]
    fn descriptor_goes_with_the_first_byte_of_its_frame_and_only_with_that() {
        let region = Arc::new(Region::heap(4096).unwrap());
        for step in 1..12 {
            let mut outbox = Outbox::default();
            outbox.bytes.extend_from_slice(b"before");
            outbox.pass(&region, |bytes| bytes.extend_from_slice(b"!first"));
            outbox.pass(&region, |bytes| bytes.extend_from_slice(b"!then"));
            outbox.bytes.extend_from_slice(b"after");
            assert_eq!(outbox.len(), 22);
            let mut seen = Vec::new();
            while !outbox.is_empty() {
                let is_passing = outbox.passing().is_some();
                let sent = send(&mut outbox, step);
                assert_eq!(sent[0] == b'!', is_passing);
                assert!(!sent[1..].contains(&b'!'), "one descriptor a call");
                seen.extend(sent);
            }
            assert_eq!(seen, b"before!first!thenafter");
            assert_eq!(Arc::strong_count(&region), 1);
        }
    }
}
