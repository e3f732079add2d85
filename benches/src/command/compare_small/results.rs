//! What `compare-small` tells: each server's figures, and Larder's as ratios to the others'.
//!
//! Three ratios, because each alone misleads: operations a second hold the client's cost, those of
//! a server core do not, and those of all cores hold both but not the waiting.

use larder_benches::load::Round;
use larder_benches::report::{Table, median, ratio};
use larder_benches::units::format_bytes;
use serde::Serialize;

use super::{CompareSmall, VERIFY_ONE_IN};

/// What asks the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Driver {
    /// The client that belongs to it.
    Client,
    /// The loop over a bare socket.
    Bare,
}

/// A server, and how it is driven.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Side {
    pub(super) server: &'static str,
    pub(super) driver: Driver,
    pub(super) version: String,
    pub(super) arguments: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Skipped {
    pub(super) server: &'static str,
    pub(super) why: String,
}

/// Figures of one round. Names are kept: programs read them.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figures {
    ops_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    server_cpu_us_per_op: f64,
    client_cpu_us_per_op: f64,
    cpu_us_per_op: f64,
    /// Operations of one second of the server's CPU.
    ops_per_server_cpu_s: f64,
    /// Operations of one second of both sides' CPU.
    ops_per_cpu_s: f64,
    server_cores_busy: f64,
}

#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    side: Side,
    /// Medians of the rounds.
    #[serde(flatten)]
    middle: Figures,
    misses: u64,
    wrong: u64,
    errors: u64,
    first_error: Option<String>,
    rounds: Vec<Figures>,
}

/// Larder's over a rival's, medians of the ratios of rounds of one number.
#[derive(Debug, Serialize)]
struct Ratios {
    driver: Driver,
    rival: &'static str,
    ops_per_s: f64,
    ops_per_server_cpu_s: f64,
    ops_per_cpu_s: f64,
}

/// The least of the ratios, and whose it is.
#[derive(Debug, Serialize)]
struct Best {
    driver: Driver,
    ops_per_s: Against,
    ops_per_server_cpu_s: Against,
    ops_per_cpu_s: Against,
}

#[derive(Debug, Serialize)]
struct Against {
    ratio: f64,
    rival: &'static str,
}

/// Everything that `compare-small` tells. Names are kept: programs read them.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    size: u32,
    key_bytes: u32,
    keys: u64,
    inflight: u16,
    rounds: u16,
    seconds: f64,
    verified_one_in: u64,
    servers: Vec<Line>,
    skipped: Vec<Skipped>,
    ratios: Vec<Ratios>,
    /// Against the best rival, which may be another one for each ratio.
    against_best: Vec<Best>,
    pub(super) notes: [&'static str; 7],
}

impl Results {
    pub(super) fn of(
        asked: &CompareSmall,
        sides: Vec<(Side, Vec<Round>)>,
        skipped: Vec<Skipped>,
    ) -> Self {
        let servers: Vec<Line> = sides.into_iter().map(|(side, r)| Line::of(side, &r)).collect();
        let is_ours = |line: &&Line| line.side.server == OURS;
        let rivals: Vec<&Line> = servers.iter().filter(|line| !is_ours(line)).collect();
        let ours = servers.iter().filter(is_ours);
        let pairs = ours.flat_map(|line| rivals.iter().map(move |rival| (line, rival)));
        let ratios: Vec<Ratios> = pairs.map(|(line, rival)| Ratios::of(line, rival)).collect();
        let against_best = [Driver::Client, Driver::Bare]
            .into_iter()
            .filter_map(|driver| Best::of(driver, &ratios))
            .collect();
        Self {
            size: asked.size,
            key_bytes: 16,
            keys: asked.keys,
            inflight: asked.inflight,
            rounds: asked.rounds,
            seconds: asked.seconds.as_secs_f64(),
            verified_one_in: VERIFY_ONE_IN,
            servers,
            skipped,
            ratios,
            against_best,
            notes: NOTES,
        }
    }

    /// Whether every object came, and was right.
    pub(super) fn is_clean(&self) -> bool {
        self.servers.iter().all(|line| line.misses + line.wrong + line.errors == 0)
    }

    pub(super) fn table(&self) -> Table {
        let get = format!("get {}", format_bytes(self.size.into()));
        let mut table = Table::new(&[
            &get,
            "driver",
            "ops/s",
            "p50 us",
            "p99 us",
            "server CPU us/op",
            "client",
            "both",
            "ops/server CPU s",
            "missing or wrong",
        ]);
        for line in &self.servers {
            let figures = &line.middle;
            let first = line.first_error.as_ref().map_or(String::new(), |e| format!(" ({e})"));
            table.row(&[
                line.side.server.to_owned(),
                line.side.driver.name().to_owned(),
                format!("{:.0}", figures.ops_per_s),
                format!("{:.1}", figures.p50_us),
                format!("{:.1}", figures.p99_us),
                format!("{:.2}", figures.server_cpu_us_per_op),
                format!("{:.2}", figures.client_cpu_us_per_op),
                format!("{:.2}", figures.cpu_us_per_op),
                format!("{:.0}", figures.ops_per_server_cpu_s),
                format!("{}{first}", line.misses + line.wrong + line.errors),
            ]);
        }
        for best in &self.against_best {
            let against = |one: &Against| format!("{:.2} x {}", one.ratio, one.rival);
            let mut row = vec!["-".to_owned(); 10];
            row[0] = "larder / best rival".to_owned();
            row[1] = best.driver.name().to_owned();
            row[2] = against(&best.ops_per_s);
            row[7] = against(&best.ops_per_cpu_s);
            row[8] = against(&best.ops_per_server_cpu_s);
            table.row(&row);
        }
        for skipped in &self.skipped {
            table.row(&[skipped.server, "left out"]);
        }
        table
    }
}

impl Driver {
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Bare => "bare",
        }
    }
}

impl Figures {
    fn of(round: &Round) -> Self {
        let cost = &round.cost;
        let (ops, rates) = (cost.ops as f64, cost.rates());
        let percentiles = cost.latency.percentiles();
        let (server_us, client_us) = (cost.other_cpu_us as f64, cost.own_cpu_us as f64);
        Self {
            ops_per_s: rates.ops_per_s,
            p50_us: percentiles.p50_us,
            p99_us: percentiles.p99_us,
            server_cpu_us_per_op: ratio(server_us, ops),
            client_cpu_us_per_op: ratio(client_us, ops),
            cpu_us_per_op: rates.cpu_us_per_op,
            ops_per_server_cpu_s: ratio(ops * 1e6, server_us),
            ops_per_cpu_s: ratio(ops * 1e6, server_us + client_us),
            server_cores_busy: ratio(server_us / 1e6, cost.took.as_secs_f64()),
        }
    }

    fn middle(rounds: &[Self]) -> Self {
        let of = |value: fn(&Self) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
        Self {
            ops_per_s: of(|one| one.ops_per_s),
            p50_us: of(|one| one.p50_us),
            p99_us: of(|one| one.p99_us),
            server_cpu_us_per_op: of(|one| one.server_cpu_us_per_op),
            client_cpu_us_per_op: of(|one| one.client_cpu_us_per_op),
            cpu_us_per_op: of(|one| one.cpu_us_per_op),
            ops_per_server_cpu_s: of(|one| one.ops_per_server_cpu_s),
            ops_per_cpu_s: of(|one| one.ops_per_cpu_s),
            server_cores_busy: of(|one| one.server_cores_busy),
        }
    }
}

impl Line {
    fn of(side: Side, measured: &[Round]) -> Self {
        let rounds: Vec<Figures> = measured.iter().map(Figures::of).collect();
        let sum = |count: fn(&Round) -> u64| measured.iter().map(count).sum();
        let mut errors =
            measured.iter().flat_map(|r| r.score.first_wrong.iter().chain(&r.score.first_error));
        Self {
            side,
            middle: Figures::middle(&rounds),
            misses: sum(|round| round.score.misses),
            wrong: sum(|round| round.score.wrong),
            errors: sum(|round| round.score.errors),
            first_error: errors.next().cloned(),
            rounds,
        }
    }
}

impl Ratios {
    fn of(ours: &Line, rival: &Line) -> Self {
        let of = |value: fn(&Figures) -> f64| {
            let pairs = ours.rounds.iter().zip(&rival.rounds);
            let ratios = pairs.map(|(ours, rival)| ratio(value(ours), value(rival)));
            median(&ratios.collect::<Vec<_>>())
        };
        Self {
            driver: ours.side.driver,
            rival: rival.side.server,
            ops_per_s: of(|one| one.ops_per_s),
            ops_per_server_cpu_s: of(|one| one.ops_per_server_cpu_s),
            ops_per_cpu_s: of(|one| one.ops_per_cpu_s),
        }
    }
}

impl Best {
    /// `None` if nobody was compared with.
    fn of(driver: Driver, ratios: &[Ratios]) -> Option<Self> {
        let least = |value: fn(&Ratios) -> f64| {
            let ours = ratios.iter().filter(|one| one.driver == driver);
            let least = ours.min_by(|a, b| value(a).total_cmp(&value(b)))?;
            Some(Against { ratio: value(least), rival: least.rival })
        };
        Some(Self {
            driver,
            ops_per_s: least(|one| one.ops_per_s)?,
            ops_per_server_cpu_s: least(|one| one.ops_per_server_cpu_s)?,
            ops_per_cpu_s: least(|one| one.ops_per_cpu_s)?,
        })
    }
}

const OURS: &str = "larder";
/// How it is fair, and what differs.
const NOTES: [&str; 7] = [
    "same for all: keys and their sequence, objects, one connection, requests in flight, \
     one object a request; one serving thread; interleaved rounds; every object checked before, \
     all lengths and a sample of the bytes while measuring",
    "`bare` is one loop over a socket with requests encoded beforehand; only the words differ",
    "memcached answers each `get` with a system call of its own, so it is asked by `mg` too \
     (memcached-meta), whose answers it sends together as the others do",
    "`client` is Larder's own client, with deadlines, answers in any order, and two threads of \
     this process; the others' clients are not measured",
    "Larder answers with a header that has a checksum, and a checksum and a seal for each object; \
     the client checks them of every object, `bare` the header's always and an object's of a \
     sample; the others have nothing to check",
    "CPU is that of whole processes, all threads and the kernel's share; a server's comes in steps \
     of 10 ms",
    "no thread is pinned, Larder's neither; on two cores `client` competes with the server for \
     them",
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use larder_benches::load::Score;
    use larder_benches::measure::Cost;

    use super::*;

    fn round(ops: u64, server_us: u64, client_us: u64) -> Round {
        let took = Duration::from_secs(2);
        let (own_cpu_us, other_cpu_us) = (client_us, server_us);
        let cost = Cost { ops, objects: ops, took, own_cpu_us, other_cpu_us, ..Cost::default() };
        Round { score: Score { ops, ..Score::default() }, cost, node: None }
    }

    fn line(server: &'static str, driver: Driver, rounds: &[Round]) -> Line {
        let (version, arguments) = (String::new(), String::new());
        Line::of(Side { server, driver, version, arguments }, rounds)
    }

    #[test]
    fn cpu_is_told_for_each_side_and_both() {
        let figures = Figures::of(&round(100, 400, 600));
        assert_eq!(figures.ops_per_s, 50.0);
        assert_eq!((figures.server_cpu_us_per_op, figures.client_cpu_us_per_op), (4.0, 6.0));
        assert_eq!((figures.cpu_us_per_op, figures.ops_per_cpu_s), (10.0, 100_000.0));
        assert_eq!(figures.ops_per_server_cpu_s, 250_000.0);
    }

    #[test]
    fn the_best_rival_of_each_ratio_is_the_one_that_leaves_least() {
        let ours = line("larder", Driver::Bare, &[round(300, 100, 100), round(300, 100, 100)]);
        // Fast on much CPU, and slow on little.
        let fast = line("fast", Driver::Bare, &[round(200, 200, 200), round(200, 200, 200)]);
        let frugal = line("frugal", Driver::Bare, &[round(100, 50, 20), round(100, 50, 20)]);
        let ratios = [Ratios::of(&ours, &fast), Ratios::of(&ours, &frugal)];
        let best = Best::of(Driver::Bare, &ratios).unwrap();
        assert_eq!((best.ops_per_s.ratio, best.ops_per_s.rival), (1.5, "fast"));
        let core = &best.ops_per_server_cpu_s;
        assert_eq!((core.ratio, core.rival), (1.5, "frugal"));
        assert_eq!(best.ops_per_cpu_s.rival, "frugal");
        assert!(Best::of(Driver::Client, &ratios).is_none());
    }

    #[test]
    fn ratios_are_of_rounds_of_one_number() {
        // A machine that is half as fast in every second round changes no ratio.
        let ours = [round(300, 0, 0), round(150, 0, 0), round(300, 0, 0)];
        let rivals = [round(200, 0, 0), round(100, 0, 0), round(200, 0, 0)];
        let (ours, rival) =
            (line("larder", Driver::Client, &ours), line("rival", Driver::Bare, &rivals));
        assert_eq!(Ratios::of(&ours, &rival).ops_per_s, 1.5);
    }
}
