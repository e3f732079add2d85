//! The signals between callers, jobs and the keeper, in every order in which threads can meet.
//!
//! Loom runs the client's own `helm.rs` and `inbox.rs`, amid a `world.rs` that is a model. A signal
//! that is lost leaves somebody asleep for ever, and that fails the test as a deadlock. What a
//! reader would get wrong: the keeper's rest must not save anybody by timing out. So it does not
//! time out here, but for the tests that say so, where it may do so at any moment.

#![forbid(unsafe_code)]
#![expect(clippy::vec_box, reason = "as in the client")]

#[path = "../../src/helm.rs"]
mod helm;
#[expect(dead_code, reason = "the model has no views, names or releases")]
#[path = "../../src/inbox.rs"]
mod inbox;
mod sync;
mod world;

mod call {
    pub(crate) use crate::world::Call;
}
mod error {
    pub(crate) use larder_client::KeyError;
}
mod io {
    pub(crate) use crate::world::{Ended, Io};
}
mod leg {
    pub(crate) use crate::world::Leg;
}
mod router {
    pub(crate) use crate::world::Routes;
}

use std::time::Duration;

use larder_client::Spin;
use loom::thread::{self, JoinHandle};

use crate::inbox::Remote;
use crate::sync::{Waker, set_clock};
use crate::world::{Answer, Call, Io, Routes, When};

/// A call as `Pending::wait` makes it: at the helm, if there is room.
fn steer(remote: &Remote, when: When) -> Answer {
    let call = Call::new();
    remote.helm().steer(remote, &call, call.legs(when));
    call.wait()
}

/// A call that somebody else has to make.
fn submit(remote: &Remote, when: When) -> Answer {
    let call = Call::new();
    remote.submit(call.legs(when));
    call.wait()
}

fn spawn(remote: &Remote, does: impl FnOnce(&Remote) + 'static) -> JoinHandle<()> {
    let remote = remote.clone();
    thread::spawn(move || does(&remote))
}

/// Runs `scene` amid a client's I/O, in every order in which at most `preemptions` threads are
/// interrupted (or `LOOM_MAX_PREEMPTIONS`), and ends the I/O. The keeper's rests may end by
/// themselves `strikes` times.
fn check(preemptions: usize, strikes: u32, scene: impl Fn(&Remote) + Send + Sync + 'static) {
    check_spinning(Spin::Off, preemptions, strikes, scene);
}

fn check_spinning(
    spin: Spin,
    preemptions: usize,
    strikes: u32,
    scene: impl Fn(&Remote) + Send + Sync + 'static,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(preemptions);
    model.check(move || {
        set_clock(strikes);
        let waker = Waker::default();
        let remote = Remote::new(waker.clone(), Routes);
        remote.helm().man(Io::new(remote.clone(), waker, spin));
        let keeper = spawn(&remote, |remote| remote.helm().keep(remote));
        scene(&remote);
        remote.close();
        keeper.join().expect("panics end the model");
        assert!(remote.is_closed());
    });
}

#[test]
fn a_caller_gets_the_helm_whatever_the_keeper_does() {
    check(3, 0, |remote| {
        assert_eq!(steer(remote, When::Next), Answer::Done);
        assert_eq!(steer(remote, When::Next), Answer::Done);
    });
}

#[test]
fn a_caller_gets_the_helm_while_the_keeper_comes_back_by_itself() {
    check(2, 1, |remote| {
        assert_eq!(steer(remote, When::Next), Answer::Done);
        assert_eq!(steer(remote, When::Next), Answer::Done);
    });
}

#[test]
fn looks_pay_if_the_last_caller_at_the_helm_found_so() {
    for (spin, pays) in [(Spin::Off, false), (Spin::For(Duration::ZERO), true)] {
        check_spinning(spin, 2, 0, move |remote| {
            assert!(!remote.helm().looks_pay(), "nobody has looked");
            assert_eq!(steer(remote, When::AtOnce), Answer::Done);
            assert_eq!(remote.helm().looks_pay(), pays);
        });
    }
}

#[test]
fn a_job_is_taken_from_a_keeper_that_rests() {
    check(3, 0, |remote| {
        assert_eq!(steer(remote, When::AtOnce), Answer::Done);
        assert_eq!(submit(remote, When::Next), Answer::Done);
    });
}

#[test]
fn a_job_is_taken_while_a_caller_comes_and_goes() {
    check(3, 0, |remote| {
        let other = spawn(remote, |remote| assert_eq!(submit(remote, When::Next), Answer::Done));
        assert_eq!(steer(remote, When::Next), Answer::Done);
        other.join().unwrap();
    });
}

#[test]
fn a_job_is_taken_while_the_keeper_comes_back_by_itself() {
    check(2, 1, |remote| {
        let other = spawn(remote, |remote| assert_eq!(submit(remote, When::Next), Answer::Done));
        assert_eq!(steer(remote, When::AtOnce), Answer::Done);
        other.join().unwrap();
    });
}

#[test]
fn a_job_reaches_a_caller_that_sleeps_at_the_helm() {
    check(3, 0, |remote| {
        let call = Call::new();
        let cancelled = std::sync::Arc::clone(&call);
        let other = spawn(remote, move |remote| remote.cancel(&cancelled));
        let legs = call.legs(When::Cancelled);
        remote.helm().steer(remote, &call, legs);
        assert_eq!(call.wait(), Answer::Done);
        other.join().unwrap();
    });
}

#[test]
fn two_callers_at_once_are_both_answered() {
    check(2, 0, |remote| {
        let other = spawn(remote, |remote| assert_eq!(steer(remote, When::Next), Answer::Done));
        assert_eq!(steer(remote, When::Next), Answer::Done);
        other.join().unwrap();
    });
}

#[test]
fn callers_and_a_job_at_once_are_all_answered() {
    check(2, 0, |remote| {
        let caller = spawn(remote, |remote| assert_eq!(steer(remote, When::AtOnce), Answer::Done));
        let job = spawn(remote, |remote| assert_eq!(submit(remote, When::Next), Answer::Done));
        assert_eq!(steer(remote, When::AtOnce), Answer::Done);
        caller.join().unwrap();
        job.join().unwrap();
    });
}

#[test]
fn an_end_is_seen_by_two_callers() {
    check(2, 0, |remote| {
        let ends = spawn(remote, Remote::close);
        let other = spawn(remote, |remote| {
            steer(remote, When::Next);
        });
        steer(remote, When::Next);
        ends.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn an_end_is_seen_by_callers_and_by_the_keeper() {
    check(3, 0, |remote| {
        let other = spawn(remote, Remote::close);
        // Whoever comes too late is told so; nobody waits.
        assert_eq!(steer(remote, When::Cancelled), Answer::Closed);
        assert_eq!(submit(remote, When::Next), Answer::Closed);
        other.join().unwrap();
    });
}
