//! What one stretch of work cost: operations, bytes, time, CPU of both sides.
//!
//! CPU is the sum over all threads of a process, the kernel's share included. Where client and node
//! are one process it cannot be told apart, and `other_cpu_us` is 0.

use std::io;
use std::time::{Duration, Instant};

use larder_transport::process;
use serde::Serialize;

use crate::latency::Latency;
use crate::report::ratio;

/// Costs of a stretch of work.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    /// Operations done.
    pub ops: u64,
    /// Objects moved or asked about by them.
    pub objects: u64,
    /// Bytes of objects moved.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// CPU time of this process, in microseconds.
    pub own_cpu_us: u64,
    /// CPU time of the process at the other end, in microseconds.
    pub other_cpu_us: u64,
    /// How long each operation took.
    pub latency: Latency,
}

/// The same as rates, for tables and JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Operations a second.
    pub ops_per_s: f64,
    /// Bytes of objects a second.
    pub bytes_per_s: f64,
    /// CPU time of both sides for one operation, in microseconds.
    pub cpu_us_per_op: f64,
    /// CPU time of both sides for one object, in microseconds.
    pub cpu_us_per_object: f64,
    /// Cores that both sides kept busy.
    pub cores_busy: f64,
}

impl Cost {
    /// The rates that follow.
    pub fn rates(&self) -> Rates {
        let seconds = self.took.as_secs_f64();
        let cpu_us = (self.own_cpu_us + self.other_cpu_us) as f64;
        Rates {
            ops_per_s: ratio(self.ops as f64, seconds),
            bytes_per_s: ratio(self.bytes as f64, seconds),
            cpu_us_per_op: ratio(cpu_us, self.ops as f64),
            cpu_us_per_object: ratio(cpu_us, self.objects as f64),
            cores_busy: ratio(cpu_us / 1e6, seconds),
        }
    }
}

/// Measures time and CPU from its start on.
#[derive(Debug)]
pub struct Stopwatch {
    started: Instant,
    own_cpu_us: u64,
}

impl Stopwatch {
    /// Starts now.
    ///
    /// # Errors
    /// If the kernel does not tell CPU times.
    pub fn start() -> io::Result<Self> {
        Ok(Self { own_cpu_us: process::cpu_time_us(None)?, started: Instant::now() })
    }

    /// Time since the start, and CPU time of this process in microseconds.
    ///
    /// # Errors
    /// If the kernel does not tell CPU times.
    pub fn read(&self) -> io::Result<(Duration, u64)> {
        let took = self.started.elapsed();
        Ok((took, process::cpu_time_us(None)?.saturating_sub(self.own_cpu_us)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_both_sides() {
        let cost = Cost {
            ops: 10,
            objects: 20,
            bytes: 4000,
            took: Duration::from_secs(2),
            own_cpu_us: 600_000,
            other_cpu_us: 400_000,
            latency: Latency::new(),
        };
        let rates = cost.rates();
        assert_eq!((rates.ops_per_s, rates.bytes_per_s), (5.0, 2000.0));
        assert_eq!((rates.cpu_us_per_op, rates.cpu_us_per_object), (100_000.0, 50_000.0));
        assert_eq!(rates.cores_busy, 0.5);
        assert_eq!(Cost::default().rates(), Rates::default());
    }
}
