//! The quickest that two threads can tell each other something through a socket of this host: both
//! awake, nothing done with what is told.
//!
//! What a reader would get wrong: nobody sleeps here. A look that finds nothing is a system call
//! too, and after some of them the core is offered to others, as nodes and clients do.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use larder_transport::process;

use crate::latency::Latency;
use crate::measure::Cost;

/// Asks with `ask_bytes` and is answered with `answer_bytes` for as long as `duration`. CPU is that
/// of both.
///
/// # Errors
/// If the system gives no sockets or no thread.
pub fn ping_pong(ask_bytes: usize, answer_bytes: usize, duration: Duration) -> io::Result<Cost> {
    let (mut near, mut far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    let echo = std::thread::Builder::new().spawn(move || {
        let (mut ask, answer) = (vec![0; ask_bytes], vec![0; answer_bytes]);
        while look(&mut far, &mut ask)? {
            far.write_all(&answer)?;
        }
        io::Result::Ok(())
    })?;
    let (ask, mut answer) = (vec![0; ask_bytes], vec![0; answer_bytes]);
    let mut latency = Latency::new();
    let cpu_before_us = process::cpu_time_us(None)?;
    let began = Instant::now();
    let mut ops = 0;
    while began.elapsed() < duration {
        let asked = Instant::now();
        near.write_all(&ask)?;
        look(&mut near, &mut answer)?;
        latency.record(asked.elapsed());
        ops += 1;
    }
    let took = began.elapsed();
    let own_cpu_us = process::cpu_time_us(None)?.saturating_sub(cpu_before_us);
    drop(near);
    // If it failed, the loop above did too.
    let _ = echo.join();
    Ok(Cost { ops, objects: ops, took, own_cpu_us, latency, ..Cost::default() })
}

/// Looks until something is there; whether it was a whole message. They are smaller than a socket.
fn look(socket: &mut UnixStream, into: &mut [u8]) -> io::Result<bool> {
    for turn in 1_u32.. {
        match socket.read(into) {
            Ok(count) => return Ok(count == into.len()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if turn.is_multiple_of(YIELD_EVERY) {
            std::thread::yield_now();
        }
    }
    Ok(false)
}

/// As often as a node does.
const YIELD_EVERY: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ask_is_answered_and_counted() {
        let cost = ping_pong(100, 110, Duration::from_millis(20)).unwrap();
        assert!(cost.ops > 0 && cost.took >= Duration::from_millis(20));
        assert_eq!(cost.latency.pairs().iter().map(|(_, count)| count).sum::<u64>(), cost.ops);
    }
}
