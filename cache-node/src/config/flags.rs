//! The command line and the configuration file, and how they become a [`Config`].
//!
//! A key of the file is the flag's name without its dashes in front (`memory = "4GiB"`,
//! `connections-max = 1000`). A flag wins over the file, the file over the default. Defaults are
//! written twice, in the help of a flag and in `meaning.rs`, and a test compares them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser};

use super::check::refused;
use super::given::Given;
use super::{Config, ConfigError};

impl Config {
    /// Reads the configuration from command line arguments, the program's name first, and from
    /// the file that `--config` names, and checks it.
    ///
    /// # Errors
    /// [`ConfigError`]; [`ConfigError::Shown`] if help or the version was asked for.
    pub fn from_args<I>(args: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item: Into<OsString> + Clone>,
    {
        let line = CommandLine::try_parse_from(args).map_err(|error| usage(&error))?;
        let file = line.config.as_deref().map_or_else(|| Ok(Flags::default()), Flags::from_file)?;
        let config = line.flags.over(file).config()?;
        if config.listen.port() == 0 {
            return Err(refused("listen", config.listen, "a port that clients can know, not 0"));
        }
        config.check()?;
        Ok(config)
    }
}

/// A node of Larder: keeps objects in memory and serves them to clients over TCP, and by shared
/// memory to those on its own host.
///
/// What ends in -max bounds one shard, but for --lease-bytes-max, which bounds one connection;
/// --memory is for all shards together. Sizes take B, KiB, MiB, GiB or TiB, durations ms, s or m,
/// and that of --spin us or ms.
#[derive(Debug, Parser)]
#[command(name = "larder-node", version)]
struct CommandLine {
    /// TOML file whose keys are these flags, such as `memory = "4GiB"`; flags win over the file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// What was given, still as text.
#[derive(Debug, Default, Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Flags {
    /// Address of the first shard; shard i listens on the port plus i [default: 127.0.0.1:7400]
    #[arg(long, value_name = "IP:PORT")]
    pub(super) listen: Option<Given>,
    /// Host that clients reach this node by; needed if --listen has no address that they can use
    /// [default: the address of --listen]
    #[arg(long, value_name = "HOST")]
    pub(super) advertise: Option<Given>,
    /// Shards, one core each [default: one for each core, if each gets 16MiB of memory]
    #[arg(long, value_name = "COUNT")]
    pub(super) shards: Option<Given>,
    /// Memory for objects, shared by all shards [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub(super) memory: Option<Given>,
    /// Address of the admin HTTP listener, or off; port 0 picks one [default: 127.0.0.1:7480]
    #[arg(long, value_name = "IP:PORT")]
    pub(super) admin: Option<Given>,
    /// Names the node for placement: the same over restarts, another for each node
    /// [default: host and port that clients reach it by]
    #[arg(long, value_name = "NAME")]
    pub(super) node_name: Option<Given>,
    /// Share of the objects relative to other members [default: 100]
    #[arg(long, value_name = "NUMBER")]
    pub(super) weight: Option<Given>,
    /// Other members of the cluster, `name@host:port/shards[*weight]` with commas between; in the
    /// file an array of such texts may be given [default: none]
    #[arg(long, value_name = "LIST")]
    pub(super) peers: Option<Given>,
    /// Keep each shard on a core of its own: auto (if one is left over for others), on or off
    /// [default: auto]
    #[arg(long, value_name = "auto|on|off")]
    pub(super) pin_cores: Option<Given>,
    /// Ask for memory in huge pages: try or off [default: try]
    #[arg(long, value_name = "try|off")]
    pub(super) huge_pages: Option<Given>,
    /// Who is evicted: hazard (what is least likely to be used soon, as past requests tell, and
    /// small objects by two queues), hazard-cost (the same, weighed by what it costs to make
    /// again), lru or s3fifo [default: hazard]
    #[arg(long, value_name = "hazard|hazard-cost|lru|s3fifo")]
    pub(super) policy: Option<Given>,
    /// Namespaces whose objects are kept by hits and by what it costs to make them again (GPU
    /// time, guessed from how deep in its chain an object is), tenant[/model] with commas between,
    /// `*` for any. It moves memory within each of them, hardly from one to another. In the file
    /// an array may be given [default: none]
    #[arg(long, value_name = "LIST")]
    pub(super) cost_weighted: Option<Given>,
    /// Memory that namespaces are sure of and the most that they get,
    /// tenant[/model][#class]=floor..ceiling with commas between, `*` for any tenant, `#7` for
    /// their objects of class hint 7; of several that name an object the first. In the file an
    /// array of such texts may be given [default: none]
    #[arg(long, value_name = "LIST")]
    pub(super) budgets: Option<Given>,
    /// Most objects of a shard [default: one for each 192 bytes of its memory]
    #[arg(long, value_name = "COUNT")]
    pub(super) objects_max: Option<Given>,
    /// Most connections of a shard [default: 4096]
    #[arg(long, value_name = "COUNT")]
    pub(super) connections_max: Option<Given>,
    /// Most bytes of a shard that puts are filling; bounds the largest object that can be put
    /// [default: an eighth of its memory, or one largest object if that is more]
    #[arg(long, value_name = "SIZE")]
    pub(super) inflight_bytes_max: Option<Given>,
    /// Most bytes of a shard held for sending
    /// [default: a quarter of its memory, or one largest object if that is more]
    #[arg(long, value_name = "SIZE")]
    pub(super) reply_bytes_max: Option<Given>,
    /// Path of the Unix socket of the first shard, for clients on this host; shard i listens at the
    /// path with .i behind it. Or off [default: off]
    #[arg(long, value_name = "PATH")]
    pub(super) uds: Option<Given>,
    /// Ids of the users that may connect to --uds, with commas between [default: the node's own]
    #[arg(long, value_name = "UID,...")]
    pub(super) uds_allow: Option<Given>,
    /// Most bytes that one connection may hold under lease
    /// [default: a quarter of a shard's memory, or one largest object if that is more]
    #[arg(long, value_name = "SIZE")]
    pub(super) lease_bytes_max: Option<Given>,
    /// Most bytes that a tenant may have pinned; all together may have twice that
    /// [default: an eighth of a shard's memory]
    #[arg(long, value_name = "SIZE")]
    pub(super) pinned_bytes_max: Option<Given>,
    /// Network cards that may reach the memory of clients, with commas between: each shard uses the
    /// one next to its core. Or auto (the first with an active port, if this build knows cards), or
    /// off [default: auto]
    #[arg(long, value_name = "NAME,...|auto|off")]
    pub(super) rdma_device: Option<Given>,
    /// How long a shard with nothing to do looks for requests before it sleeps, off or auto
    /// [default: auto, up to 200us for as long as that mostly pays]
    #[arg(long, value_name = "DURATION|off|auto")]
    pub(super) spin: Option<Given>,
    /// Longest wait for the rest of a header that has begun [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub(super) header_timeout: Option<Given>,
    /// Longest time without a byte moved in the middle of a request or reply [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub(super) progress_timeout: Option<Given>,
    /// Longest wait for the first request of a new connection [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub(super) hello_timeout: Option<Given>,
    /// Longest time that a draining node works on what it had accepted [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub(super) drain_timeout: Option<Given>,
    /// Longest time that a connection may be idle between requests, or off [default: off]
    #[arg(long, value_name = "DURATION")]
    pub(super) connection_idle_timeout: Option<Given>,
    /// Log lines to write, as a tracing filter such as warn,larder_node=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    pub(super) log: Option<Given>,
    /// Allow addresses that other machines reach, although nobody is asked for credentials
    /// [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub(super) insecure_listen_anywhere: Option<Given>,
}

impl Flags {
    fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let path_owned = || path.to_path_buf();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::FileUnreadable { path: path_owned(), source })?;
        toml::from_str(&text).map_err(|error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or(&text);
            let line = before.matches('\n').count() + 1;
            let message = error.message().replace('\n', ", ");
            ConfigError::File { path: path_owned(), line, message }
        })
    }

    /// These, and what is missing from `file`.
    fn over(self, file: Self) -> Self {
        Self {
            listen: self.listen.or(file.listen),
            advertise: self.advertise.or(file.advertise),
            shards: self.shards.or(file.shards),
            memory: self.memory.or(file.memory),
            admin: self.admin.or(file.admin),
            node_name: self.node_name.or(file.node_name),
            weight: self.weight.or(file.weight),
            peers: self.peers.or(file.peers),
            pin_cores: self.pin_cores.or(file.pin_cores),
            huge_pages: self.huge_pages.or(file.huge_pages),
            policy: self.policy.or(file.policy),
            cost_weighted: self.cost_weighted.or(file.cost_weighted),
            budgets: self.budgets.or(file.budgets),
            objects_max: self.objects_max.or(file.objects_max),
            connections_max: self.connections_max.or(file.connections_max),
            inflight_bytes_max: self.inflight_bytes_max.or(file.inflight_bytes_max),
            reply_bytes_max: self.reply_bytes_max.or(file.reply_bytes_max),
            uds: self.uds.or(file.uds),
            uds_allow: self.uds_allow.or(file.uds_allow),
            lease_bytes_max: self.lease_bytes_max.or(file.lease_bytes_max),
            pinned_bytes_max: self.pinned_bytes_max.or(file.pinned_bytes_max),
            rdma_device: self.rdma_device.or(file.rdma_device),
            spin: self.spin.or(file.spin),
            header_timeout: self.header_timeout.or(file.header_timeout),
            progress_timeout: self.progress_timeout.or(file.progress_timeout),
            hello_timeout: self.hello_timeout.or(file.hello_timeout),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
            connection_idle_timeout: self.connection_idle_timeout.or(file.connection_idle_timeout),
            log: self.log.or(file.log),
            insecure_listen_anywhere: self
                .insecure_listen_anywhere
                .or(file.insecure_listen_anywhere),
        }
    }
}

fn usage(error: &clap::Error) -> ConfigError {
    let text = error.to_string();
    if !error.use_stderr() {
        return ConfigError::Shown(text);
    }
    let first = text.lines().next().unwrap_or_default();
    ConfigError::Usage(first.trim_start_matches("error: ").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parsed(args: &[&str]) -> Result<Config, ConfigError> {
        Config::from_args(["larder-node"].iter().chain(args))
    }

    fn message(args: &[&str]) -> String {
        parsed(args).unwrap_err().to_string()
    }

    /// A configuration file, and the two arguments that name it.
    fn file(text: &str) -> (tempfile::NamedTempFile, [String; 2]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        (file, ["--config".into(), path])
    }

    /// Of each flag a value that is not its default.
    const OTHERS: &[(&str, &str)] = &[
        ("listen", "127.0.0.1:7500"),
        ("advertise", "node-1"),
        ("shards", "7"),
        ("memory", "2GiB"),
        ("admin", "off"),
        ("node-name", "a"),
        ("weight", "200"),
        ("peers", "b@10.0.0.1:7400/8"),
        ("pin-cores", "on"),
        ("huge-pages", "off"),
        ("policy", "lru"),
        ("cost-weighted", "a/b,*/c"),
        ("budgets", "a/b=1MiB..,*=..1MiB"),
        ("objects-max", "5000"),
        ("connections-max", "100"),
        ("inflight-bytes-max", "1MiB"),
        ("reply-bytes-max", "1MiB"),
        ("uds", "/tmp/larder.sock"),
        ("uds-allow", "12345,12346"),
        ("lease-bytes-max", "1MiB"),
        ("pinned-bytes-max", "1MiB"),
        ("rdma-device", "off"),
        ("spin", "off"),
        ("header-timeout", "1s"),
        ("progress-timeout", "500ms"),
        ("hello-timeout", "1m"),
        ("drain-timeout", "1s"),
        ("connection-idle-timeout", "90s"),
        ("log", "warn"),
        ("insecure-listen-anywhere", "true"),
    ];

    #[test]
    fn every_flag_and_every_key_of_the_file_changes_the_configuration_alike() {
        let command = CommandLine::command();
        let flags: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
        assert_eq!(flags[1..], OTHERS.iter().map(|(flag, _)| *flag).collect::<Vec<_>>());
        let plain = parsed(&[]).unwrap();
        for (flag, value) in OTHERS {
            let by_flag = parsed(&[&format!("--{flag}={value}")]).unwrap();
            assert_ne!(by_flag, plain, "{flag}");
            let (_kept, args) = file(&format!("{flag} = \"{value}\""));
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            assert_eq!(parsed(&args).unwrap(), by_flag, "{flag}");
        }
    }

    #[test]
    fn the_help_tells_the_defaults() {
        let plain = parsed(&[]).unwrap();
        let mut literal_count = 0;
        for arg in CommandLine::command().get_arguments().skip(1) {
            let (flag, help) = (arg.get_long().unwrap(), arg.get_help().unwrap().to_string());
            let (_, default) = help.split_once("[default: ").unwrap();
            let default = default.trim_end_matches(']');
            // What follows from other values is said in words.
            if !default.contains(' ') && default != "none" {
                literal_count += 1;
                assert_eq!(parsed(&[&format!("--{flag}={default}")]).unwrap(), plain, "{flag}");
            }
        }
        assert_eq!(literal_count, 17);
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_takes_numbers_and_arrays() {
        let (_kept, [config, path]) = file(
            "shards = 3\nmemory = \"2GiB\"\ninsecure-listen-anywhere = true\n\
             peers = [\"a@h:1/1\", \"b@h:2/1\"]\n",
        );
        let both = parsed(&[&config, &path, "--memory", "4GiB"]).unwrap();
        assert_eq!((both.shards, both.memory_bytes, both.peers.len()), (3, 4 << 30, 2));
        assert!(both.insecure_listen_anywhere);
        let closed = parsed(&[&config, &path, "--insecure-listen-anywhere=false"]).unwrap();
        assert!(!closed.insecure_listen_anywhere);
    }

    #[test]
    fn a_bad_file_is_refused_with_its_line() {
        for (text, line, part) in [
            ("memory = \"1GiB\"\nmemroy = \"1GiB\"\n", 2, "`memroy`"),
            ("node_name = \"a\"\n", 1, "`node-name`"),
            ("config = \"other.toml\"", 1, "`config`"),
            ("\n\nshards = 1.5\n", 3, "floating point"),
            ("shards = \n", 1, ""),
            ("shards = 1\nshards = 2\n", 2, "duplicate"),
            ("[node]\nshards = 1", 1, "`node`"),
        ] {
            let (_kept, [config, path]) = file(text);
            let message = message(&[&config, &path]);
            assert!(message.contains(&format!(" line {line}: ")), "{message}");
            assert!(message.contains(part) && !message.contains('\n'), "{message}");
        }
        assert!(message(&["--config", "/nowhere/x.toml"]).contains("/nowhere/x.toml"));
    }

    #[test]
    fn help_is_shown_and_unknown_arguments_are_named() {
        let help = parsed(&["--help"]);
        assert!(matches!(help, Err(ConfigError::Shown(text)) if text.contains("--memory")));
        assert!(matches!(parsed(&["-V"]), Err(ConfigError::Shown(_))));
        let text = message(&["--memroy", "1GiB"]);
        assert!(text.contains("--memroy") && !text.contains('\n'), "{text}");
        assert!(message(&["stray"]).contains("stray"));
        assert!(message(&["--memory"]).contains("--memory"));
    }
}
