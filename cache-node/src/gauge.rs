//! A level of something in flight or held.
//!
//! A connection may end at any await, so what a task holds counts back by itself when it is dropped
//! ([`Gauge::hold`]). What a reader would get wrong: a bare [`Gauge::raise`] does not. It is for
//! owners that lower it in a `Drop` of their own.

use std::cell::Cell;
use std::rc::Rc;

/// A level on one core.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauge(Rc<Cell<u64>>);

impl Gauge {
    /// What is held now.
    pub(crate) fn value(&self) -> u64 {
        self.0.get()
    }

    /// Raises the level by `amount`, which whoever calls lowers it by again.
    pub(crate) fn raise(&self, amount: u64) {
        self.0.set(self.0.get() + amount);
    }

    /// Lowers the level by what it was raised by.
    pub(crate) fn lower(&self, amount: u64) {
        self.0.set(self.0.get() - amount);
    }

    /// Raises the level by `amount` until the answer is dropped.
    pub(crate) fn hold(&self, amount: u64) -> Held {
        self.raise(amount);
        Held { gauge: self.clone(), amount }
    }
}

/// A share of a gauge's level.
#[derive(Debug)]
pub(crate) struct Held {
    gauge: Gauge,
    amount: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.lower(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_falls_when_its_holder_is_dropped() {
        let gauge = Gauge::default();
        let first = gauge.hold(3);
        let second = gauge.hold(4);
        assert_eq!(gauge.value(), 7);
        drop(first);
        assert_eq!(gauge.value(), 4);
        drop(second);
        assert_eq!(gauge.value(), 0);
    }
}
