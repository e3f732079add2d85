//! What is aimed at, and what was measured of it: the worst of all that an aim speaks of.
//!
//! What a reader would get wrong: an aim that nothing was measured for is not met.

use serde::Serialize;

use crate::gpu::aboard::Voyage;
use crate::gpu::beside::Loss;
use crate::gpu::pace::Pace;

/// One aim.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Aim {
    /// What it speaks of.
    pub what: &'static str,
    /// What is wanted, in words.
    pub wanted: &'static str,
    /// The worst that was measured, and of what; none if nothing was.
    pub worst: Option<(f64, String)>,
    /// Whether it is as good as wanted.
    pub is_met: bool,
}

/// All aims. `short` is the layout of short pieces, which has one of its own.
pub fn aims(paces: &[Pace], voyages: &[Voyage], losses: &[Loss], short: &str) -> Vec<Aim> {
    let chosen = || paces.iter().filter(|pace| pace.mover == "auto");
    let named = |pace: &Pace| format!("{}, {}", pace.layout, pace.direction);
    let ratios = |is_short: bool| {
        let those = chosen().filter(move |pace| (pace.layout == short) == is_short);
        least(those.map(move |pace| (pace.ratio, named(pace))))
    };
    let submits = chosen().map(|pace| (-pace.submit_us, named(pace)));
    let near = voyages.iter().filter(|voyage| voyage.path == "shm");
    let near = near.map(|voyage| (voyage.ratio, voyage.layout.clone()));
    let lost = losses.iter().map(|loss| (-100.0 * loss.loss, loss.layout.clone()));
    let negative = |worst: Option<(f64, String)>| worst.map(|(value, of)| (-value, of));
    let at_least = |limit: f64| move |value: f64| value >= limit;
    let at_most = |limit: f64| move |value: f64| value <= limit;
    vec![
        aim("every layout, of a plain copy", ">= 0.95", ratios(false), at_least(0.95)),
        aim("short pieces, of a plain copy", ">= 0.9", ratios(true), at_least(0.9)),
        aim("microseconds to submit", "<= 200", negative(least(submits)), at_most(200.0)),
        aim("from a node on this host, of a plain copy", ">= 0.9", least(near), at_least(0.9)),
        aim("percent that a product loses", "<= 3", negative(least(lost)), at_most(3.0)),
    ]
}

fn aim(
    what: &'static str,
    wanted: &'static str,
    worst: Option<(f64, String)>,
    is_good: impl Fn(f64) -> bool,
) -> Aim {
    let is_met = worst.as_ref().is_some_and(|(value, _)| is_good(*value));
    Aim { what, wanted, worst, is_met }
}

fn least(values: impl Iterator<Item = (f64, String)>) -> Option<(f64, String)> {
    values.min_by(|one, other| one.0.total_cmp(&other.0))
}

impl std::fmt::Display for Aim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, wanted, worst, is_met } = self;
        let met = if *is_met { "met" } else { "NOT MET" };
        match worst {
            Some((value, of)) => write!(f, "{what}: {value:.3} ({of}), wanted {wanted}: {met}"),
            None => write!(f, "{what}: not measured, wanted {wanted}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(layout: &str, mover: &'static str, ratio: f64, submit_us: f64) -> Pace {
        Pace {
            layout: layout.into(),
            piece_bytes: 1,
            pieces: 1,
            direction: "to",
            mover,
            objects: 1,
            bytes_per_s: 1.0,
            plain_bytes_per_s: 1.0,
            ratio,
            submit_us,
        }
    }

    #[test]
    fn worst_of_what_an_aim_speaks_of_decides() {
        let paces = [
            pace("a", "auto", 0.96, 150.0),
            pace("b", "auto", 0.99, 201.0),
            pace("a", "each", 0.2, 9000.0),
            pace("short", "auto", 0.91, 20.0),
        ];
        let found = aims(&paces, &[], &[], "short");
        let told: Vec<_> = found.iter().map(ToString::to_string).collect();
        let expected = [
            "every layout, of a plain copy: 0.960 (a, to), wanted >= 0.95: met",
            "short pieces, of a plain copy: 0.910 (short, to), wanted >= 0.9: met",
            "microseconds to submit: 201.000 (b, to), wanted <= 200: NOT MET",
            "from a node on this host, of a plain copy: not measured, wanted >= 0.9",
            "percent that a product loses: not measured, wanted <= 3",
        ];
        assert_eq!(told, expected);
        let loss = Loss {
            layout: "a".into(),
            piece_bytes: 1,
            direction: "to",
            bytes_per_s: 1.0,
            flops_alone: 1.0,
            loss: 0.025,
        };
        let losses = [Loss { loss: 0.01, ..loss.clone() }, loss];
        let found = aims(&[], &[], &losses, "short").pop().unwrap();
        assert!(found.is_met && found.worst.unwrap().0 == 2.5);
    }
}
