//! Who copies objects out of a node's memory, and until when.
//!
//! What a reader would get wrong: the session's clock is the test's, the deadline of a call that
//! waits is not. So a test has a deadline pass by beginning long ago, or by sleeping.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Waker};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use larder_protocol::message::{Payload as Form, Sharing};
use larder_protocol::{Code, Header, Status};

use super::host::Host;
use super::talk::object_of;
use crate::call::{Outcome, Pending};
use crate::completion::{Completion, CompletionQueue};
use crate::error::{KeyError, KeyResult};
use crate::object::Object;

type Call = Pending<Vec<KeyResult<Object>>>;

/// A get of two objects, whose deadline is 250 ms from `now`, and how it was asked.
fn get_at(now: Instant) -> (Host, Call, Header) {
    let mut host = Host::new();
    host.talk.now = now;
    let unanswered = vec![Err(KeyError::DeadlineExceeded), Err(KeyError::DeadlineExceeded)];
    let call = host.talk.call(Outcome::Get(unanswered));
    // Or who blocks would leave by itself after the deadline, before there is anything to copy.
    call.hold_memory();
    let (head, keys) = (Host::head(Sharing::LeaseOrInline), Host::keys(&[b"a", b"b"]));
    host.talk.submit(&call, |plan| plan.get(head, &keys, Vec::new()));
    let pending = Pending::new(call, Vec::new(), |_, outcome| match outcome {
        Outcome::Get(keys) => Ok(keys),
        other => panic!("{other:?}"),
    });
    let asked = host.asked();
    (host, pending, asked)
}

/// Has the node answer both with places in its memory, where they are already.
fn answer(host: &mut Host, asked: &Header) {
    let bytes = object_of(LEN);
    host.store(0, &bytes);
    let mut body = vec![2, 0, 0, 0];
    for key in [b"a", b"b"] {
        let place = Form::Shared { region: 3, offset: 0 };
        host.talk.encode_hit(key, &bytes, LEN as u32, place, &mut body);
    }
    host.talk.say(&asked.reply(Code::Ok), &body, b"");
    host.talk.receive().unwrap();
}

fn poll(call: &mut Call) -> Poll<Vec<KeyResult<Object>>> {
    Pin::new(call).poll(&mut Context::from_waker(Waker::noop())).map(Result::unwrap)
}

fn assert_copied(keys: &[KeyResult<Object>]) {
    assert!(keys.iter().all(|key| key.as_ref().is_ok_and(|object| object.bytes == object_of(LEN))));
}

fn assert_late(keys: &[KeyResult<Object>]) {
    assert_eq!(keys, [Err(KeyError::DeadlineExceeded), Err(KeyError::DeadlineExceeded)]);
}

fn taken(mut completions: Vec<Completion>) -> Vec<KeyResult<Object>> {
    let Ok(Outcome::Get(keys)) = completions.remove(0).outcome else { panic!("it was a get") };
    keys
}

/// Whether a wait that begins in another thread, of which it tells through the channel, is not kept
/// past the deadline by an answer that comes after it. A thread that got no CPU before the deadline
/// has come late and gets all, so this is tried again: who is always kept, never passes.
fn assert_not_kept(wait: fn(Call, &Sender<()>) -> Vec<KeyResult<Object>>) {
    let is_let_go = (0..20).any(|_| {
        let (mut host, call, asked) = get_at(Instant::now());
        let deadline = host.talk.now + DEADLINE;
        let (sender, begins) = channel();
        let waiting = spawn(move || wait(call, &sender));
        begins.recv().unwrap();
        sleep(deadline.saturating_duration_since(Instant::now()));
        answer(&mut host, &asked);
        let keys = waiting.join().unwrap();
        host.assert_released(&[0, 0]);
        let is_let_go = keys[0].is_err();
        if is_let_go {
            assert_late(&keys)
        } else {
            assert_copied(&keys)
        }
        is_let_go
    });
    assert!(is_let_go);
}

#[test]
fn whoever_takes_an_answer_makes_its_copies() {
    type Take = fn(&mut Host, Call, &Header) -> Vec<KeyResult<Object>>;
    let takers: [Take; 4] = [
        |host, call, asked| {
            answer(host, asked);
            host.memory[0] ^= 1;
            call.wait().unwrap()
        },
        |host, mut call, asked| {
            assert!(poll(&mut call).is_pending());
            answer(host, asked);
            host.memory[0] ^= 1;
            let Poll::Ready(keys) = poll(&mut call) else { panic!("it was answered") };
            keys
        },
        |host, call, asked| {
            let queue = CompletionQueue::new().unwrap();
            queue.watch(0, call);
            answer(host, asked);
            host.memory[0] ^= 1;
            taken(queue.drain())
        },
        |host, call, asked| {
            let queue = CompletionQueue::new().unwrap();
            answer(host, asked);
            queue.watch(0, call);
            host.memory[0] ^= 1;
            taken(queue.wait(Duration::ZERO))
        },
    ];
    for take in takers {
        let (mut host, call, asked) = get_at(Instant::now() - Duration::from_secs(1));
        // Bytes that go bad after the reply was read are found bad by who copies them only then.
        let keys = take(&mut host, call, &asked);
        assert!(keys.iter().all(|key| *key == Err(KeyError::Status(Status::MissCorrupt))));
        host.assert_released(&[0, 0]);
    }
}

#[test]
fn who_comes_after_the_deadline_gets_all_copies() {
    let long_ago = Instant::now() - Duration::from_secs(1);
    let (mut host, call, asked) = get_at(long_ago);
    answer(&mut host, &asked);
    assert_copied(&call.wait().unwrap());
    let (mut host, mut call, asked) = get_at(long_ago);
    answer(&mut host, &asked);
    let Poll::Ready(keys) = poll(&mut call) else { panic!("it was answered") };
    assert_copied(&keys);
    let (mut host, call, asked) = get_at(long_ago);
    let queue = CompletionQueue::new().unwrap();
    queue.watch(0, call);
    answer(&mut host, &asked);
    assert_copied(&taken(queue.drain()));
    let (mut host, call, asked) = get_at(long_ago);
    answer(&mut host, &asked);
    queue.watch(0, call);
    assert_copied(&taken(queue.wait(Duration::ZERO)));
}

#[test]
fn who_blocks_before_the_deadline_is_not_kept_past_it() {
    assert_not_kept(|call, begins| {
        begins.send(()).unwrap();
        call.wait().unwrap()
    });
}

#[test]
fn who_sleeps_over_a_queue_before_the_deadline_is_not_kept_past_it() {
    assert_not_kept(|call, begins| {
        let queue = CompletionQueue::new().unwrap();
        queue.watch(0, call);
        begins.send(()).unwrap();
        taken(queue.wait(Duration::from_secs(60)))
    });
}

#[test]
fn who_polled_a_future_before_the_deadline_is_not_kept_past_it() {
    assert_not_kept(|mut call, begins| {
        let is_pending = poll(&mut call).is_pending();
        begins.send(()).unwrap();
        assert!(is_pending);
        loop {
            if let Poll::Ready(keys) = poll(&mut call) {
                return keys;
            }
            sleep(Duration::from_millis(1));
        }
    });
}

const LEN: usize = 20_000;
/// That of a talk's calls.
const DEADLINE: Duration = Duration::from_millis(250);
