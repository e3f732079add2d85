//! What `compare` tells: for each shape and server its figures, and ratios to the best rival's.
//!
//! The best rival of speed and that of CPU may be two. Ratios are medians of the ratios of rounds
//! of one number; a speed above 1 and a CPU below 1 are Larder's advantage.

use std::time::Duration;

use larder_benches::latency::Latency;
use larder_benches::matrix::{Deed, Entrant, Kind, Ran};
use larder_benches::report::{Table, median, ratio};
use larder_benches::units::format_bytes;
use serde::Serialize;

use super::super::Failure;

/// What is compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Shape {
    pub(super) deed: Deed,
    pub(super) size: u32,
    pub(super) clients: u16,
    pub(super) batch: u16,
}

/// Figures of one round, all clients together.
#[derive(Debug, Clone, Default)]
pub(super) struct Round {
    bytes_per_s: f64,
    objects_per_s: f64,
    server_cpu_us_per_object: f64,
    client_cpu_us_per_object: f64,
    cpu_us_per_object: f64,
    cpu_s_per_gib: f64,
    calls: u64,
    errors: u64,
    wrong: u64,
    checked_objects: u64,
    first_bad: Option<String>,
    latency: Latency,
}

/// One server in one shape: medians of the rounds, and the rounds farthest from them. Names are
/// kept: programs read them.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    shape: Shape,
    server: &'static str,
    kind: Kind,
    bytes_per_s: f64,
    bytes_per_s_min: f64,
    bytes_per_s_max: f64,
    objects_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_s_per_gib: f64,
    cpu_us_per_object: f64,
    server_cpu_us_per_object: f64,
    client_cpu_us_per_object: f64,
    /// Larder's speed over the fastest rival's.
    speed_to_best_rival: Option<Against>,
    /// Larder's CPU time over that of the rival that needs least.
    cpu_to_best_rival: Option<Against>,
    /// Speed over that of the fastest copy of memory as cold.
    speed_to_best_copy: Option<Against>,
    /// CPU time over that of the copy that needs least.
    cpu_to_best_copy: Option<Against>,
    calls: u64,
    checked_objects: u64,
    errors: u64,
    wrong: u64,
    first_bad: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Against {
    ratio: f64,
    to: &'static str,
}

/// Everything that `compare` tells. Names are kept: programs read them.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    rounds: u16,
    seconds: f64,
    cold_bytes: u64,
    servers: Vec<Entrant>,
    lines: Vec<Line>,
    checked_before: u64,
    pub(super) notes: [&'static str; 7],
}

impl Round {
    /// Adds up what the clients did in `took`, and what their checks afterwards found.
    pub(super) fn of(ran: &[Ran], took: Duration, checks: &[Ran], server_cpu_us: u64) -> Self {
        let mut round = Self::default();
        let mut objects = 0;
        let mut client_cpu_us = 0;
        for one in ran {
            round.calls += one.ops;
            objects += one.objects;
            client_cpu_us += one.cpu_us;
            round.latency.add_pairs(&one.latency);
        }
        // One client knows best. Several do not begin at one moment where there are fewer cores:
        // the sum of their own speeds would be more than there was at any time.
        let seconds = match ran {
            [one] => one.seconds,
            _ => took.as_secs_f64(),
        };
        let bytes = ran.iter().map(|one| one.bytes).sum::<u64>() as f64;
        round.bytes_per_s = ratio(bytes, seconds);
        round.objects_per_s = ratio(objects as f64, seconds);
        for one in ran.iter().chain(checks) {
            round.errors += one.errors;
            round.wrong += one.wrong;
            round.first_bad = round.first_bad.or_else(|| one.first_bad.clone());
        }
        round.checked_objects = checks.iter().map(|check| check.objects).sum();
        let (server, client) = (server_cpu_us as f64, client_cpu_us as f64);
        round.server_cpu_us_per_object = ratio(server, objects as f64);
        round.client_cpu_us_per_object = ratio(client, objects as f64);
        round.cpu_us_per_object = ratio(server + client, objects as f64);
        round.cpu_s_per_gib = ratio((server + client) / 1e6, bytes / GIB);
        round
    }

    /// Whether every object came, and was right.
    pub(super) const fn is_clean(&self) -> bool {
        self.errors + self.wrong == 0
    }
}

impl Results {
    pub(super) fn new(rounds: u16, seconds: Duration, cold_bytes: u64) -> Self {
        Self {
            rounds,
            seconds: seconds.as_secs_f64(),
            cold_bytes,
            servers: Vec::new(),
            lines: Vec::new(),
            checked_before: 0,
            notes: NOTES,
        }
    }

    /// Takes what reading all objects before anything else found.
    ///
    /// # Errors
    /// If one is missing or wrong: then there is nothing to compare.
    pub(super) fn note_check(&mut self, entrant: &Entrant, ran: &[Ran]) -> Result<(), Failure> {
        if !self.servers.iter().any(|known| known.name == entrant.name) {
            self.servers.push(entrant.clone());
        }
        for one in ran {
            self.checked_before += one.objects;
            if let Some(bad) = &one.first_bad {
                return Err(format!("{} before anything was measured: {bad}", entrant.name).into());
            }
        }
        Ok(())
    }

    /// Adds a shape that all entrants went through.
    pub(super) fn add(
        &mut self,
        shape: Shape,
        cells: impl IntoIterator<Item = (Entrant, Vec<Round>)>,
    ) {
        let cells: Vec<(Entrant, Vec<Round>)> = cells.into_iter().collect();
        for (entrant, rounds) in &cells {
            let against = |kind, value: Value| {
                let others = cells.iter().filter(move |(other, _)| other.kind == kind);
                others.map(move |(other, theirs)| Against {
                    ratio: middle_ratio(rounds, theirs, value),
                    to: other.name,
                })
            };
            let speed = |kind| {
                let ratios = against(kind, |round| round.bytes_per_s);
                ratios.min_by(|a, b| a.ratio.total_cmp(&b.ratio))
            };
            let cpu = |kind| {
                let ratios = against(kind, |round| round.cpu_s_per_gib);
                ratios.max_by(|a, b| a.ratio.total_cmp(&b.ratio))
            };
            let mut line = Line::of(shape, entrant, rounds);
            if entrant.kind == Kind::Larder {
                line.speed_to_best_rival = speed(Kind::Rival);
                line.cpu_to_best_rival = cpu(Kind::Rival);
            }
            line.speed_to_best_copy = speed(Kind::Copy);
            line.cpu_to_best_copy = cpu(Kind::Copy);
            self.lines.push(line);
        }
    }

    /// Whether every object came, and was right.
    pub(super) fn is_clean(&self) -> bool {
        self.lines.iter().all(|line| line.errors + line.wrong == 0)
    }

    /// The shape added last, for whoever waits.
    pub(super) fn last_line(&self) -> String {
        let Some(last) = self.lines.last() else { return String::new() };
        let same = self.lines.iter().filter(|line| line.shape == last.shape);
        let servers = same.map(|line| {
            let bad = if line.errors + line.wrong > 0 { " BAD" } else { "" };
            format!("{} {:.3}{bad}", line.server, line.bytes_per_s / 1e9)
        });
        let servers: Vec<String> = servers.collect();
        format!("{}, GB/s: {}", last.shape, servers.join(", "))
    }

    pub(super) fn table(&self) -> Table {
        let headings = [
            "op",
            "size",
            "clients",
            "keys",
            "server",
            "GB/s",
            "objects/s",
            "p50 us",
            "p99 us",
            "CPU s/GiB",
            "CPU us/object",
            "speed / best rival",
            "CPU / best rival",
            "speed / best copy",
            "errors, wrong",
        ];
        let mut table = Table::markdown(&headings, 5);
        for line in &self.lines {
            let against = |against: Option<Against>| {
                against.map_or_else(|| "-".to_owned(), |one| format!("{:.2} {}", one.ratio, one.to))
            };
            table.row(&[
                format!("{:?}", line.shape.deed).to_lowercase(),
                format_bytes(line.shape.size.into()),
                line.shape.clients.to_string(),
                line.shape.batch.to_string(),
                line.server.to_owned(),
                format!("{:.3}", line.bytes_per_s / 1e9),
                format!("{:.0}", line.objects_per_s),
                format!("{:.1}", line.p50_us),
                format!("{:.1}", line.p99_us),
                format!("{:.3}", line.cpu_s_per_gib),
                format!("{:.2}", line.cpu_us_per_object),
                against(line.speed_to_best_rival),
                against(line.cpu_to_best_rival),
                against(line.speed_to_best_copy),
                match &line.first_bad {
                    None => (line.errors + line.wrong).to_string(),
                    Some(first) => format!("{}: {first}", line.errors + line.wrong),
                },
            ]);
        }
        table
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let deed = format!("{:?}", self.deed).to_lowercase();
        let (size, clients, batch) = (format_bytes(self.size.into()), self.clients, self.batch);
        write!(f, "{deed} {size}, clients {clients}, keys {batch}")
    }
}

type Value = fn(&Round) -> f64;

impl Line {
    fn of(shape: Shape, entrant: &Entrant, rounds: &[Round]) -> Self {
        let middle = |value: Value| median(&rounds.iter().map(value).collect::<Vec<_>>());
        let speeds = || rounds.iter().map(|round| round.bytes_per_s);
        let sum = |count: fn(&Round) -> u64| rounds.iter().map(count).sum();
        let mut latency = Latency::new();
        rounds.iter().for_each(|round| latency.merge(&round.latency));
        let percentiles = latency.percentiles();
        Self {
            shape,
            server: entrant.name,
            kind: entrant.kind,
            bytes_per_s: middle(|round| round.bytes_per_s),
            bytes_per_s_min: speeds().fold(f64::INFINITY, f64::min),
            bytes_per_s_max: speeds().fold(0.0, f64::max),
            objects_per_s: middle(|round| round.objects_per_s),
            p50_us: percentiles.p50_us,
            p99_us: percentiles.p99_us,
            cpu_s_per_gib: middle(|round| round.cpu_s_per_gib),
            cpu_us_per_object: middle(|round| round.cpu_us_per_object),
            server_cpu_us_per_object: middle(|round| round.server_cpu_us_per_object),
            client_cpu_us_per_object: middle(|round| round.client_cpu_us_per_object),
            speed_to_best_rival: None,
            cpu_to_best_rival: None,
            speed_to_best_copy: None,
            cpu_to_best_copy: None,
            calls: sum(|round| round.calls),
            checked_objects: sum(|round| round.checked_objects),
            errors: sum(|round| round.errors),
            wrong: sum(|round| round.wrong),
            first_bad: rounds.iter().find_map(|round| round.first_bad.clone()),
        }
    }
}

fn middle_ratio(ours: &[Round], theirs: &[Round], value: Value) -> f64 {
    let ratios = ours.iter().zip(theirs).map(|(our, their)| ratio(value(our), value(their)));
    median(&ratios.collect::<Vec<_>>())
}

const GIB: f64 = (1u64 << 30) as f64;
/// How it is fair, and what differs.
const NOTES: [&str; 7] = [
    "each client is a process with one connection to each server, the same processes and the \
     same receiving memory for all servers; each has one call in flight; keys are drawn anew, \
     the same sequence for all; servers have work one at a time, rounds are interleaved there \
     and back",
    "memory is colder than the caches on both sides: the objects of a server, and what is \
     received into or put from",
    "rivals are asked for all keys in one request (MGET, get) and answer straight into the \
     caller's memory; whole answers are compared with what they must be",
    "Larder's client checks the checksum of all it copies, and makes that of all it puts; of a \
     leased object it checks the seal, the node having checked the bytes when it took them; \
     rivals have no checksums",
    "every object is held against its length, its first and its last 8 bytes while it is timed \
     (that is all that is read of a leased object), every byte of one more call behind each \
     round, and every byte of up to 65,536 objects of each server before",
    "CPU is that of both sides, whole processes, the kernel's share included; of servers it is \
     read thread by thread, to the microsecond",
    "a put of `larder shm copy` is named from memory that is shared with the node; copies are \
     made by the same processes from cold memory into cold memory: memcpy, past the caches \
     (streamed), and that with a checksum in the same pass",
];

#[cfg(test)]
mod tests {
    use larder_benches::matrix::{Copying, LinkSpec};

    use super::*;

    fn entrant(name: &'static str, kind: Kind) -> Entrant {
        let (version, arguments) = (String::new(), String::new());
        let link = LinkSpec::Copy(Copying::Plain);
        Entrant { name, kind, puts: true, version, arguments, link, pid: None }
    }

    fn ran(objects: u64, seconds: f64, cpu_us: u64) -> Ran {
        let latency = vec![(1000, objects)];
        let bytes = objects << 20;
        Ran { ops: objects, objects, bytes, seconds, cpu_us, latency, ..Ran::default() }
    }

    fn round(objects: u64, cpu_us: u64) -> Round {
        Round::of(&[ran(objects, 1.0, cpu_us)], SECOND, &[], 0)
    }

    const SECOND: Duration = Duration::from_secs(1);
    const SHAPE: Shape = Shape { deed: Deed::Get, size: 1 << 20, clients: 1, batch: 1 };

    #[test]
    fn clients_add_up_and_both_sides_cpu_counts() {
        let clients = [ran(512, 1.0, 100_000), ran(512, 1.5, 300_000)];
        let round = Round::of(&clients, 2 * SECOND, &[], 600_000);
        assert_eq!((round.objects_per_s, round.calls), (512.0, 1024));
        assert_eq!(round.cpu_s_per_gib, 1.0);
        assert_eq!(round.cpu_us_per_object, 1_000_000.0 / 1024.0);
        assert_eq!(round.latency.count(), 1024);
        assert!(round.is_clean());
    }

    #[test]
    fn a_wrong_byte_that_only_the_check_finds_makes_the_run_unclean() {
        let mut results = Results::new(1, Duration::from_secs(1), 0);
        let check = Ran { wrong: 1, first_bad: Some("byte 7".into()), ..Ran::default() };
        let bad = Round::of(&[ran(1, 1.0, 0)], SECOND, std::slice::from_ref(&check), 0);
        results.add(SHAPE, [(entrant("larder", Kind::Larder), vec![round(1, 1)])]);
        assert!(results.is_clean());
        results.add(SHAPE, [(entrant("larder", Kind::Larder), vec![bad])]);
        assert!(!results.is_clean());
        assert!(results.table().text().trim_end().ends_with("| 1: byte 7 |"));
        let error = results.note_check(&entrant("redis", Kind::Rival), &[check]).unwrap_err();
        assert!(error.to_string().contains("redis") && error.to_string().contains("byte 7"));
    }

    #[test]
    fn each_ratio_is_to_the_rival_that_is_best_at_it() {
        let mut results = Results::new(1, Duration::from_secs(1), 0);
        results.add(
            SHAPE,
            [
                (entrant("memcpy", Kind::Copy), vec![round(4000, 100), round(2000, 100)]),
                // A machine that is half as fast in the second round changes no ratio.
                (entrant("fast", Kind::Rival), vec![round(1000, 9000), round(500, 4500)]),
                (entrant("frugal", Kind::Rival), vec![round(500, 500), round(250, 250)]),
                (entrant("larder", Kind::Larder), vec![round(3000, 1500), round(1500, 750)]),
            ],
        );
        let ours = results.lines.last().unwrap();
        assert_eq!(ours.speed_to_best_rival, Some(Against { ratio: 3.0, to: "fast" }));
        assert_eq!(ours.cpu_to_best_rival, Some(Against { ratio: 0.5, to: "frugal" }));
        assert_eq!(ours.speed_to_best_copy, Some(Against { ratio: 0.75, to: "memcpy" }));
        assert_eq!(results.lines[1].speed_to_best_rival, None);
        let text = results.table().text();
        assert!(text.starts_with("| op | size |") && text.contains("| 3.00 fast | 0.50 frugal |"));
        assert_eq!(text.lines().count(), 2 + 4);
        assert!(results.last_line().starts_with("get 1MiB, clients 1, keys 1, GB/s: memcpy "));
    }
}
