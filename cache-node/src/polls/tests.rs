//! A ledger of polls, and connections on a runtime that polls only when it is made to.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use glommio::{LocalExecutorBuilder, Placement};

use super::*;

/// With time never up.
fn patient() -> Polls {
    Polls { poll_us: u64::MAX, ..Polls::new(Instant::now()).unwrap() }
}

/// A connection whose task waits: both ends, its name, and what was owed before.
fn waiting(polls: &Polls) -> (UnixStream, UnixStream, u64, u64) {
    let (near, far) = UnixStream::pair().unwrap();
    let name = polls.watch(&near);
    let owed = polls.suspend(name);
    (near, far, name, owed)
}

#[test]
fn few_look_at_a_time() {
    let polls = patient();
    let mut looking: Vec<_> = (0..LOOKERS_MAX).map(|_| polls.look().unwrap()).collect();
    assert!(polls.look().is_none());
    drop(looking.pop());
    assert!(polls.look().is_some());
}

#[test]
fn who_waits_is_polled_for_and_who_does_not_is_not() {
    let polls = patient();
    let [mut a, mut b] = [waiting(&polls), waiting(&polls)];
    polls.resume(a.2, a.3);
    a.1.write_all(b"x").unwrap();
    assert_eq!(polls.turn_after(1, 1), Turn::Yield);
    b.1.write_all(b"x").unwrap();
    assert_eq!(polls.turn_after(1, 1), Turn::Breath);
    // Until the runtime has polled: a task knows that which waited since.
    polls.polled(b.3);
    assert!(polls.is_owed());
    polls.polled(polls.owed.get());
    assert_eq!(polls.turn_after(1, 1), Turn::Yield);
    // What came for the first is remembered, until it has found nothing more.
    let owed = polls.suspend(a.2);
    assert!(polls.is_owed());
    polls.resume(a.2, owed);
    a.1.write_all(b"x").unwrap();
    assert_eq!(polls.turn_after(1, 1), Turn::Yield);
    polls.has_read_all(a.2);
    polls.suspend(a.2);
    assert!(!polls.is_owed());
}

#[test]
fn nothing_is_owed_for_those_who_were_woken_meanwhile() {
    let polls = patient();
    let mut all = [waiting(&polls), waiting(&polls)];
    all.iter_mut().for_each(|connection| connection.1.write_all(b"x").unwrap());
    assert_eq!(polls.turn_after(1, 1), Turn::Breath);
    for (connection, is_owed) in all.iter().zip([true, false]) {
        polls.resume(connection.2, connection.3);
        assert_eq!(polls.is_owed(), is_owed);
    }
    let again = polls.suspend(all[0].2);
    all[0].1.write_all(b"x").unwrap();
    assert_eq!(polls.turn_after(1, 1), Turn::Breath);
    polls.owe();
    polls.resume(all[0].2, again);
    assert!(polls.is_owed(), "to others too");
}

#[test]
fn names_are_used_again() {
    let polls = patient();
    let [a, b] = [waiting(&polls), waiting(&polls)];
    polls.forget(a.2);
    let mut c = waiting(&polls);
    assert_eq!((b.2, c.2), (1, 0));
    polls.resume(c.2, c.3);
    drop(a);
    c.1.write_all(b"x").unwrap();
    assert_eq!(polls.turn_after(1, 1), Turn::Yield);
}

#[test]
fn time_and_work_are_up_even_if_nobody_is_known_to_wait() {
    let polls = Polls::new(Instant::now()).unwrap();
    std::thread::sleep(Duration::from_micros(POLL_US));
    polls.ask_in_time();
    assert!(polls.is_owed());
    let polls = patient();
    assert_eq!(polls.turn_after(POLL_REQUESTS - 1, POLL_BYTES - 1), Turn::Yield);
    assert_eq!(polls.turn_after(1, 0), Turn::Breath);
}

#[test]
fn what_comes_during_a_breath_is_owed_after_it() {
    let polls = patient();
    let [mut a, mut b] = [waiting(&polls), waiting(&polls)];
    a.1.write_all(b"x").unwrap();
    assert_eq!(polls.turn_after(1, 1), Turn::Breath);
    let breath = polls.owed.get();
    // The runtime polls; before the task runs that took the breath, others do.
    polls.polled(breath);
    b.1.write_all(b"x").unwrap();
    assert_eq!(polls.turn_after(1, 1), Turn::Breath);
    polls.polled(breath);
    assert!(polls.is_owed());
    polls.polled(polls.owed.get());
    assert!(!polls.is_owed());
}

/// Serves echoes on a connection whose task is never done at once: it looks, or waits.
async fn echo(polls: Rc<Polls>, mut stream: TcpStream, looks: bool) {
    let name = polls.watch(&stream);
    let mut byte = [0];
    loop {
        let _looking = if looks { polls.look() } else { None };
        for _ in 0..if looks { 300 } else { 0 } {
            polls.ask_in_time();
            if polls.is_owed() {
                polls.breathe().await;
            } else {
                futures_lite::future::yield_now().await;
            }
        }
        let (read, _) = polls.wait(name, stream.read(&mut byte)).await;
        if read.unwrap_or(0) == 0 {
            return polls.forget(name);
        }
        // One byte is all that is ever asked.
        polls.has_read_all(name);
        match polls.turn_after(0, 0) {
            Turn::Breath => polls.breathe().await,
            _ => futures_lite::future::yield_now().await,
        }
        stream.write_all(&byte).await.unwrap();
    }
}

#[test]
fn nobody_is_overlooked_while_others_look() {
    let (echoes, asks): (Vec<_>, Vec<_>) = (0..8).map(|_| UnixStream::pair().unwrap()).unzip();
    let asking: Vec<_> = asks
        .into_iter()
        .map(|mut far| {
            far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            std::thread::spawn(move || {
                (0..300_u32).for_each(|round| {
                    let byte = [round as u8];
                    far.write_all(&byte).unwrap();
                    let mut back = [0];
                    far.read_exact(&mut back).expect("it is answered");
                    assert_eq!(back, byte);
                });
            })
        })
        .collect();
    // The runtime would poll of itself ten times a second: whoever is overlooked shall stay so.
    let never = Duration::from_secs(3600);
    let executor = LocalExecutorBuilder::new(Placement::Unbound).preempt_timer(never);
    executor.make().unwrap().run(async move {
        let polls = Rc::new(patient());
        // Somebody who looks for ever, so that the runtime polls only when it is made to.
        let for_ever = {
            let polls = Rc::clone(&polls);
            let began = Instant::now();
            glommio::spawn_local(async move {
                loop {
                    assert!(began.elapsed() < Duration::from_secs(30), "somebody is overlooked");
                    polls.ask_in_time();
                    if polls.is_owed() {
                        polls.breathe().await;
                    } else {
                        futures_lite::future::yield_now().await;
                    }
                }
            })
        };
        let tasks: Vec<_> = echoes
            .into_iter()
            .enumerate()
            .map(|(at, near)| {
                let stream = TcpStream::from(socket2::Socket::from(near));
                glommio::spawn_local(echo(Rc::clone(&polls), stream, at % 3 == 0))
            })
            .collect();
        for task in tasks {
            task.await;
        }
        for_ever.cancel().await;
    });
    asking.into_iter().for_each(|thread| thread.join().unwrap());
}
