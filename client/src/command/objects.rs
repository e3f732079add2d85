//! `put`, `get`, `match`, `rm` and `pin`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use larder_client::{
    Client, GetOptions, Key, KeyError, MatchOptions, Namespace, PutObject, PutOptions, ShardValue,
};

use super::{Failure, duration, key};

#[derive(Debug, Args)]
pub(super) struct Put {
    /// Its name, 1 to 64 bytes.
    #[arg(value_parser = key)]
    key: Key,
    /// Reads this file instead of standard input.
    #[arg(long, short, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Time to live.
    #[arg(long, value_parser = duration)]
    ttl: Option<Duration>,
    /// Version, as the writer counts.
    #[arg(long, default_value_t = 0)]
    version: u64,
    /// A number by which it can be removed with others; up to 4 times.
    #[arg(long = "tag", value_name = "NUMBER")]
    tags: Vec<u64>,
    /// Up to 64 bytes that come back with it.
    #[arg(long, default_value = "")]
    meta: String,
    /// Keeps what is there already.
    #[arg(long)]
    if_absent: bool,
}

#[derive(Debug, Args)]
pub(super) struct Get {
    /// Its name.
    #[arg(value_parser = key)]
    key: Key,
    /// Writes to this file instead of standard output.
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Match {
    /// The chain, head first.
    #[arg(value_parser = key, required = true)]
    keys: Vec<Key>,
    /// Counts as a use of what is there.
    #[arg(long)]
    touch: bool,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The objects to remove.
    #[arg(value_parser = key, required_unless_present = "tag")]
    keys: Vec<Key>,
    /// Removes everything with this tag.
    #[arg(long, conflicts_with = "keys", value_name = "NUMBER")]
    tag: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Pin {
    /// The objects.
    #[arg(value_parser = key, required = true)]
    keys: Vec<Key>,
    /// For how long from now: a number with us, ms, s, m or h; 0s ends the pins that there are.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    keep_for: Duration,
}

impl Pin {
    pub(super) fn run(self, client: &Client, namespace: &Namespace) -> Result<(), Failure> {
        all_of(&self.keys, client.pin(namespace, &self.keys, self.keep_for, None)?)
    }
}

impl Put {
    pub(super) fn run(self, client: &Client, namespace: &Namespace) -> Result<(), Failure> {
        let bytes = self.read(u64::from(namespace.spec().object_bytes_max()))?;
        let object = PutObject {
            ttl: self.ttl,
            version: self.version,
            tags: self.tags,
            user_meta: self.meta.into(),
            ..PutObject::new(self.key, &bytes)
        };
        let options = PutOptions { if_absent: self.if_absent, ..PutOptions::default() };
        let stored = client.put(namespace, &[object], &options)?;
        all_of(&[self.key], stored)
    }

    /// Reads no more than one byte above the limit, whatever there is.
    fn read(&self, limit: u64) -> Result<Vec<u8>, Failure> {
        let (name, from): (String, Box<dyn Read>) = match &self.file {
            None => ("standard input".into(), Box::new(std::io::stdin())),
            Some(path) => {
                let name = path.display().to_string();
                match File::open(path) {
                    Ok(file) => (name, Box::new(file)),
                    Err(error) => return Err(Failure::File(name, error)),
                }
            }
        };
        let mut bytes = Vec::new();
        from.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Failure::File(name, e))?;
        if bytes.len() as u64 > limit {
            return Err(Failure::Usage(format!("an object has at most {limit} bytes")));
        }
        Ok(bytes)
    }
}

impl Get {
    pub(super) fn run(self, client: &Client, namespace: &Namespace) -> Result<(), Failure> {
        let mut found = client.get(namespace, &[self.key], &GetOptions::default())?;
        let object = found.remove(0).map_err(|error| Failure::Key(self.key, error))?;
        let (name, written) = match &self.output {
            None => {
                let mut out = std::io::stdout().lock();
                let written = out.write_all(&object.bytes).and_then(|()| out.flush());
                ("standard output".into(), written)
            }
            Some(path) => (path.display().to_string(), std::fs::write(path, &object.bytes)),
        };
        written.map_err(|error| Failure::File(name, error))
    }
}

impl Match {
    pub(super) fn run(self, client: &Client, namespace: &Namespace) -> Result<(), Failure> {
        let options =
            MatchOptions { touch: self.touch, with_meta: true, ..MatchOptions::default() };
        let result = client.match_chain(namespace, &self.keys, &options)?;
        let mut lines = vec![String::new(); self.keys.len()];
        for hit in result.hits() {
            let meta = String::from_utf8_lossy(hit.user_meta).escape_default().to_string();
            lines[hit.index] = format!("hit {} {meta}", hit.object_bytes).trim_end().to_owned();
        }
        for (index, (key, line)) in self.keys.iter().zip(lines).enumerate() {
            match result.error(index) {
                Some(error) => println!("{key} unknown: {error}"),
                None if result.is_hit(index) => println!("{key} {line}"),
                None if result.is_wanted(index) => println!("{key} miss, wanted"),
                None => println!("{key} miss"),
            }
        }
        let first_bad = (0..self.keys.len()).find(|&index| !result.is_hit(index));
        match first_bad {
            None => Ok(()),
            Some(index) => {
                let miss = KeyError::Status(larder_client::Status::Miss);
                let error = (0..self.keys.len()).find_map(|index| result.error(index));
                Err(Failure::Key(self.keys[index], error.cloned().unwrap_or(miss)))
            }
        }
    }
}

impl Remove {
    pub(super) fn run(self, client: &Client, namespace: &Namespace) -> Result<(), Failure> {
        let Some(tag) = self.tag else {
            let removed = client.remove(namespace, &self.keys, None)?;
            return all_of(&self.keys, removed);
        };
        let mut is_removed = false;
        for shard in client.remove_tag(namespace, tag, None)? {
            is_removed |=
                shard.answer.map_err(larder_client::Error::from)? == ShardValue::Removed(true);
        }
        if is_removed { Ok(()) } else { Err(Failure::NoTag(tag)) }
    }
}

/// Fails with the first key that did.
fn all_of(keys: &[Key], answers: Vec<Result<(), KeyError>>) -> Result<(), Failure> {
    let mut both = keys.iter().zip(answers);
    both.try_for_each(|(key, answer)| answer.map_err(|error| Failure::Key(*key, error)))
}
