//! Whether to look for the next bytes again and again, or to sleep at once: what a caller at the
//! client's helm and a connection of a node's decide alike.
//!
//! What a reader would get wrong: this neither waits nor reads a clock. It only remembers what came
//! of earlier looks, and whoever waits says how a look ended.

use std::time::Duration;

/// How a thread with nothing to do waits: one that sleeps has to be woken, which takes longer than
/// a small request or answer does; one that looks again and again takes CPU from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spin {
    /// Looks before it sleeps, for as long as that mostly pays: a caller that waits for its answer
    /// for up to 50 us, or longer after a large put; a node's shard for up to 200 us. Now and then
    /// a look offers the core to whoever wants it.
    #[default]
    Auto,
    /// Sleeps at once.
    Off,
    /// Always looks for this long before it sleeps.
    For(Duration),
}

/// What is known of whether looking pays, in one place where somebody waits.
#[derive(Debug, Clone, Copy)]
pub struct Luck {
    spin: Spin,
    /// Above 0 if it mostly paid to look, below if it did not.
    score: i32,
}

impl Luck {
    /// Nothing is known yet, so looking is tried.
    pub const fn new(spin: Spin) -> Self {
        Self { spin, score: 0 }
    }

    /// How long to look from now on, `auto_max` where nobody chose; zero to sleep at once. To be
    /// asked once a wait, since each that sleeps brings the next try nearer.
    pub const fn look_for(&mut self, auto_max: Duration) -> Duration {
        match self.spin {
            Spin::Off => Duration::ZERO,
            Spin::For(duration) => duration,
            Spin::Auto if self.score >= 0 => auto_max,
            Spin::Auto => {
                self.score += 1;
                Duration::ZERO
            }
        }
    }

    /// Whether a look would be tried now, as far as it depends on how earlier ones ended.
    pub const fn pays(&self) -> bool {
        match self.spin {
            Spin::Off => false,
            Spin::For(_) => true,
            Spin::Auto => self.score >= 0,
        }
    }

    /// What was looked for came.
    pub fn paid(&mut self) {
        self.score = (self.score + 1).min(SCORE_MAX);
    }

    /// What was looked for did not come in time.
    pub fn did_not_pay(&mut self) {
        self.score = (self.score - UNLUCKY).max(-SCORE_MAX);
    }

    /// Whether somebody else had the core in the time of one look that found nothing. If so the
    /// core is left to others for a while: whoever looks is made to wait for those who slept.
    pub fn is_crowded(&mut self, look: Duration) -> bool {
        let is_crowded = self.spin == Spin::Auto && look > CROWDED;
        if is_crowded {
            self.score = -SCORE_MAX;
        }
        is_crowded
    }
}

/// A look that finds nothing takes a microsecond. If it took this long, others ran meanwhile.
const CROWDED: Duration = Duration::from_micros(100);
/// A look that did not pay counts as much as so many that did. A guess: it has to pay mostly.
const UNLUCKY: i32 = 4;
/// After so many waits that slept, looking is tried again. A guess: one look in 64 waits is cheap.
const SCORE_MAX: i32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: Duration = Duration::from_micros(7);

    /// How many of 1000 waits begin with a look, each of which `ends` so.
    fn looks(luck: &mut Luck, ends: fn(&mut Luck)) -> usize {
        let looks = (0..1000).filter(|_| {
            let is_look = !luck.look_for(AUTO).is_zero();
            if is_look {
                ends(luck);
            }
            is_look
        });
        looks.count()
    }

    #[test]
    fn looking_stops_where_it_does_not_pay_and_is_tried_again() {
        let mut luck = Luck::new(Spin::Auto);
        assert_eq!(luck.look_for(AUTO), AUTO);
        // One try, then one in five: the waits between bring back what the try cost.
        assert_eq!(looks(&mut luck, Luck::did_not_pay), 200);
        assert!(looks(&mut luck, Luck::paid) > 990);
        // However long it paid, it stops soon.
        assert!((200..220).contains(&looks(&mut luck, Luck::did_not_pay)));
    }

    #[test]
    fn a_core_that_others_want_is_left_to_them_for_a_while() {
        let mut luck = Luck::new(Spin::Auto);
        assert_eq!(looks(&mut luck, Luck::paid), 1000);
        assert!(!luck.is_crowded(CROWDED));
        assert_eq!(luck.look_for(AUTO), AUTO);
        assert!(luck.is_crowded(CROWDED + Duration::from_nanos(1)));
        assert!((0..SCORE_MAX).all(|_| !luck.pays() && luck.look_for(AUTO).is_zero()));
        assert!(luck.pays());
        assert_eq!(luck.look_for(AUTO), AUTO);
    }

    #[test]
    fn what_was_chosen_is_done_whatever_comes_of_it() {
        let chosen = Duration::from_secs(1);
        for (spin, expected) in [(Spin::Off, Duration::ZERO), (Spin::For(chosen), chosen)] {
            let mut luck = Luck::new(spin);
            for _ in 0..100 {
                assert_eq!(luck.look_for(AUTO), expected);
                luck.did_not_pay();
                assert!(!luck.is_crowded(Duration::MAX));
            }
        }
    }
}
