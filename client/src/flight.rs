//! What is in flight or about to be written: requests that wait for a reply, and frames that have
//! none.
//!
//! What a reader would get wrong: a flight may lose whom its reply is for while it is being
//! written. It is written to its end all the same, from a copy of the frame.

use std::os::fd::BorrowedFd;

use larder_protocol::{Header, Opcode};
use larder_transport::rdma::Reach;

use crate::leg::Leg;
use crate::namespace::Namespace;
use crate::shared::{Offer, PutSource};

/// A request that was given an id and has no reply yet.
pub(crate) struct Flight {
    pub(crate) opcode: Opcode,
    pub(crate) what: What,
    /// The frame, where there is no leg that has it.
    pub(crate) frame: Vec<u8>,
    pub(crate) bytes: u64,
    pub(crate) is_sent: bool,
    /// Its reply, if that came before the last of its bytes was written.
    pub(crate) early: Option<Box<(Header, Vec<u8>)>>,
}

/// What has to be written, or is being written.
pub(crate) enum Unsent {
    /// The request in flight by this id, unless it was taken out meanwhile.
    Flight(u64),
    /// A frame that has no reply.
    Alone(Vec<u8>),
}

/// A frame to be written, with what goes beside and behind it.
pub(crate) struct Outgoing<'a> {
    pub(crate) frame: &'a [u8],
    pub(crate) sources: &'a [PutSource],
    /// What is there of the checksums that follow.
    pub(crate) sums: &'a [u8],
    /// Whether more of them are to be made before anything else can be written.
    pub(crate) is_open: bool,
    /// Travels with its first byte.
    pub(crate) descriptor: Option<BorrowedFd<'a>>,
}

/// Whom a reply is for.
pub(crate) enum What {
    Leg(Box<Leg>),
    /// Nobody any more.
    Abandoned,
    Hello,
    /// Whoever waits for this namespace.
    Open(Namespace),
    View,
    /// Memory that the node was given with it.
    Share(Offer),
    Unshare,
    /// This end of a queue pair.
    Pair(Reach),
}

impl<'a> Outgoing<'a> {
    /// A frame with nothing behind it.
    pub(crate) const fn alone(frame: &'a [u8]) -> Self {
        Self { frame, sources: &[], sums: &[], is_open: false, descriptor: None }
    }
}

impl Flight {
    pub(crate) const fn leg(&self) -> Option<&Leg> {
        match &self.what {
            What::Leg(leg) => Some(leg),
            _ => None,
        }
    }

    pub(crate) fn leg_mut(&mut self) -> Option<&mut Leg> {
        match &mut self.what {
            What::Leg(leg) => Some(leg),
            _ => None,
        }
    }

    /// Lets its leg go, keeping what of the frame may have to be written still.
    pub(crate) fn abandon(&mut self) -> Option<Box<Leg>> {
        match std::mem::replace(&mut self.what, What::Abandoned) {
            What::Leg(leg) => {
                if !self.is_sent {
                    self.frame.extend_from_slice(&leg.frame);
                }
                Some(leg)
            }
            other => {
                self.what = other;
                None
            }
        }
    }

    pub(crate) fn frame(&self) -> &[u8] {
        self.leg().map_or(&self.frame, |leg| &leg.frame)
    }

    pub(crate) fn payload_bytes(&self) -> u64 {
        self.leg().map_or(0, |leg| leg.payload_bytes)
    }

    pub(crate) fn outgoing(&self) -> Outgoing<'_> {
        let sources = self.leg().map_or(&[][..], |leg| &leg.sources);
        let descriptor = match &self.what {
            What::Share(offer) => Some(offer.descriptor()),
            _ => None,
        };
        let (sums, is_open) = self.leg().map_or((&[][..], false), Leg::following);
        Outgoing { frame: self.frame(), sources, sums, is_open, descriptor }
    }
}
