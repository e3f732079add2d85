//! What is said on the command line, and what a failure means to a shell.

mod accounts;
mod cluster;
mod objects;
mod stat;

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use larder_client::{Client, Config, Error, Key, KeyError, NamespaceSpec, PathChoice, Status};

/// Talks to a Larder cluster.
///
/// Exit codes: 0 done, 1 a key was not there or not stored, 2 usage, 3 no node answered in time,
/// 4 refused or broken.
#[derive(Debug, Parser)]
#[command(name = "larder", version)]
pub(crate) struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    #[command(flatten)]
    namespace: NamespaceArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Cluster {
    /// A node to start from, as host:port or unix:PATH [default: $LARDER_NODE, those of
    /// $LARDER_NODES with commas between, or 127.0.0.1:7400].
    #[arg(long, global = true, value_name = "ADDR")]
    node: Option<String>,
    /// Which way objects go.
    #[arg(long, global = true, value_enum, default_value = "auto")]
    path: Way,
    /// How long anything may take: a number with us, ms, s, m or h.
    #[arg(long, global = true, default_value = "1s", value_parser = duration)]
    deadline: Duration,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    /// Shared memory where a node offers it, else TCP.
    Auto,
    /// TCP only.
    Tcp,
    /// Shared memory only.
    Shm,
}

impl From<Way> for PathChoice {
    fn from(way: Way) -> Self {
        match way {
            Way::Auto => Self::Auto,
            Way::Tcp => Self::Tcp,
            Way::Shm => Self::Shm,
        }
    }
}

#[derive(Debug, Args)]
struct NamespaceArguments {
    /// Who owns the bytes.
    #[arg(long, global = true, default_value = "default")]
    tenant: String,
    /// Model, encoder or feature view.
    #[arg(long, global = true, default_value = "default")]
    model: String,
    /// Tenant and model in one.
    #[arg(long, global = true, value_name = "TENANT/MODEL")]
    namespace: Option<String>,
    /// Which weights.
    #[arg(long, global = true, default_value = "")]
    revision: String,
    /// Element type and quantisation.
    #[arg(long, global = true, default_value = "")]
    dtype: String,
    /// Order of the bytes inside an object.
    #[arg(long, global = true, default_value = "")]
    layout: String,
    /// Parallel rank that the bytes belong to.
    #[arg(long, global = true, default_value = "")]
    rank: String,
    /// Anything else that tells bytes apart.
    #[arg(long, global = true, default_value = "")]
    extra: String,
    /// Bytes of one part of an object; 0 makes it one part.
    #[arg(long, global = true, default_value_t = 0)]
    part_bytes: u32,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stores an object from a file or from standard input.
    Put(objects::Put),
    /// Writes an object to a file or to standard output.
    Get(objects::Get),
    /// Says which keys are there.
    Match(objects::Match),
    /// Removes objects by key or by tag.
    Rm(objects::Remove),
    /// Has objects evicted last for a while.
    Pin(objects::Pin),
    /// Shows what the shards count.
    Stat(stat::Stat),
    /// Begins a new generation: nothing stored before is found any more.
    Bump,
    /// Shows the membership.
    View(cluster::View),
}

/// Why the command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A key was not there, or was not stored.
    Key(Key, KeyError),
    /// Nothing carries this tag.
    NoTag(u64),
    /// The call failed.
    Call(Error),
    /// What was asked makes no sense.
    Usage(String),
    /// A file could not be read or written.
    File(String, std::io::Error),
}

impl Arguments {
    /// Does it.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let node = self.cluster.node.or_else(|| std::env::var("LARDER_NODE").ok());
        let nodes = node.or_else(|| std::env::var("LARDER_NODES").ok());
        let nodes = nodes.unwrap_or_else(|| "127.0.0.1:7400".into());
        let config = Config {
            seeds: nodes.split(',').map(|node| node.trim().to_owned()).collect(),
            deadline: self.cluster.deadline,
            connect_timeout: self.cluster.deadline,
            name: "larder".into(),
            path: self.cluster.path.into(),
            ..Config::default()
        };
        // One object is here before two network cards have found each other.
        let client = Client::connect_over(config, None)?;
        let spec = self.namespace.spec()?;
        let namespace = || client.namespace(spec);
        match self.command {
            Command::Put(put) => put.run(&client, &namespace()?),
            Command::Get(get) => get.run(&client, &namespace()?),
            Command::Match(matching) => matching.run(&client, &namespace()?),
            Command::Rm(remove) => remove.run(&client, &namespace()?),
            Command::Pin(pin) => pin.run(&client, &namespace()?),
            Command::Stat(stat) => stat.run(&client),
            Command::Bump => cluster::bump(&client, &namespace()?),
            Command::View(view) => view.run(&client),
        }
    }
}

impl NamespaceArguments {
    fn spec(self) -> Result<NamespaceSpec, Failure> {
        let (tenant, model) = match self.namespace {
            None => (self.tenant, self.model),
            Some(both) => match both.split_once('/') {
                Some((tenant, model)) => (tenant.to_owned(), model.to_owned()),
                None => return Err(Failure::Usage("a namespace is TENANT/MODEL".into())),
            },
        };
        Ok(NamespaceSpec {
            tenant,
            model,
            revision: self.revision,
            dtype: self.dtype,
            layout: self.layout,
            rank: self.rank,
            extra: self.extra,
            part_bytes: self.part_bytes,
        })
    }
}

impl Failure {
    /// What the shell is told.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let unanswered = |error: &Error| {
            matches!(error, Error::Unavailable(_) | Error::DeadlineExceeded | Error::Closed)
        };
        ExitCode::from(match self {
            Self::Key(_, KeyError::Status(Status::MissCorrupt | Status::Corrupt)) => OTHER,
            Self::Key(_, KeyError::Status(_)) | Self::NoTag(_) => MISS,
            Self::Key(_, error) if error.is_unanswered() => UNAVAILABLE,
            Self::Call(error) if unanswered(error) => UNAVAILABLE,
            Self::Usage(_) => USAGE,
            Self::Call(Error::TooLarge { .. } | Error::InvalidArgument { .. }) => USAGE,
            _ => OTHER,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key, error) => write!(f, "{key}: {error}"),
            Self::NoTag(tag) => write!(f, "nothing carries tag {tag}"),
            Self::Call(error) => error.fmt(f),
            Self::Usage(what) => f.write_str(what),
            Self::File(name, error) => write!(f, "{name}: {error}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

/// A key as typed.
fn key(text: &str) -> Result<Key, String> {
    Key::try_from(text).map_err(|error| error.to_string())
}

/// A duration as typed: `250ms`, `1s`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a duration ends in us, ms, s, m or h".into()),
    };
    let number: f64 = number.parse().map_err(|_| "a duration begins with a number".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

const MISS: u8 = 1;
const USAGE: u8 = 2;
const UNAVAILABLE: u8 = 3;
const OTHER: u8 = 4;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use larder_client::{Reason, Unavailable};

    use super::*;

    #[test]
    fn arguments_make_sense() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "5", "s", "1d", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn exit_codes_tell_a_miss_from_a_failure() {
        let code = |failure: Failure| format!("{:?}", failure.exit_code());
        let expected = |code: u8| format!("{:?}", ExitCode::from(code));
        let of_key = |error| Failure::Key(Key::new(b"k").expect("one byte"), error);
        assert_eq!(code(of_key(KeyError::Status(Status::Miss))), expected(1));
        assert_eq!(code(of_key(KeyError::DeadlineExceeded)), expected(3));
        let gone = Unavailable { peer: "a:1".into(), reason: Reason::Lost };
        assert_eq!(code(Failure::Call(Error::Unavailable(gone))), expected(3));
        assert_eq!(code(Failure::Call(Error::Denied)), expected(4));
        assert_eq!(code(of_key(KeyError::Status(Status::MissCorrupt))), expected(4));
    }
}
