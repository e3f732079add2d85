//! `instructions`: a conversation between client and shard without sockets, to count its parts in.
//!
//! What a reader would get wrong: this measures nothing by itself. `instructions/run.sh` runs it
//! under callgrind, which counts only while `Probe::serve` (the node), or `Probe::ask` and
//! `Probe::take` (the client), run, or with --pieces `Posting::post` and `Posting::poll`; twice,
//! with N and 2N gets, so that the greeting falls away.

use std::process::ExitCode;

use larder_benches::names::short_key_of;
use larder_benches::posting::Posting;
use larder_benches::units::parse_bytes;
use larder_client::probe::Probe as Client;
use larder_client::{NamespaceSpec, Outcome};
use larder_node::probe::Probe as Node;
use larder_protocol::Key;

use super::Failure;

/// Answer small gets in one thread without sockets, for `instructions/run.sh` to count in
#[derive(Debug, clap::Args)]
pub(crate) struct Instructions {
    /// Bytes of one object
    #[arg(long, default_value = "100B", value_parser = parse_bytes)]
    size: u64,
    /// How many gets
    #[arg(long, value_name = "COUNT", default_value_t = 6400)]
    gets: u64,
    /// Gets that are in flight together
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    inflight: u64,
    /// Post gets of objects with landings of so many pieces to a simulated network card instead
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["size", "inflight"],
        value_parser = clap::value_parser!(u32).range(1..=256))]
    pieces: Option<u32>,
}

impl Instructions {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if let Some(pieces) = self.pieces {
            return self.post(pieces);
        }
        let mut node = Node::new(MEMORY_BYTES)?;
        let (mut frames, mut replies) = (Vec::new(), Vec::new());
        let spec = NamespaceSpec::new("bench", "instructions");
        let mut client = Client::new(node.node_id(), spec, &mut frames)?;
        node.serve(&frames, &mut replies)?;
        client.take(&replies)?;
        let keys: Vec<Key> = (0..KEYS).map(short_key_of).collect();
        for (key, index) in keys.iter().zip(0..) {
            let object = vec![index as u8; usize::try_from(self.size)?];
            frames.clear();
            client.put(*key, object.into(), &mut frames)?;
            // The first put opens the namespace, and is written once that is open.
            while !frames.is_empty() {
                replies.clear();
                node.serve(&frames, &mut replies)?;
                frames.clear();
                client.take(&replies)?;
                client.write(&mut frames);
            }
        }
        let (mut asked, mut came) = (0, 0);
        while asked < self.gets {
            let count = self.inflight.min(self.gets - asked);
            let first = usize::try_from(asked % (KEYS - self.inflight))?;
            let wanted = &keys[first..first + usize::try_from(count)?];
            frames.clear();
            replies.clear();
            client.ask(wanted, &mut frames);
            node.serve(&frames, &mut replies)?;
            for done in client.take(&replies)? {
                let Outcome::Get(objects) = done.outcome? else { return Err("no get".into()) };
                let byte = (first as u64 + done.token) as u8;
                let is_it = |object: &larder_client::Object| {
                    object.bytes.len() as u64 == self.size
                        && object.bytes.iter().all(|&b| b == byte)
                };
                came += objects.iter().filter(|object| object.as_ref().is_ok_and(is_it)).count();
            }
            asked += count;
        }
        println!("{came} of {asked} objects of {} bytes came back right", self.size);
        Ok(if came as u64 == asked { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Instructions {
    fn post(&self, pieces: u32) -> Result<ExitCode, Failure> {
        let mut posting = Posting::new(pieces)?;
        let mut came = 0;
        for token in 0..self.gets {
            posting.post(token);
            posting.arrive();
            came += posting.poll();
        }
        println!("{came} of {} gets of {pieces} pieces were written", self.gets);
        let is_right = came as u64 == self.gets && posting.has_landed();
        Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

const KEYS: u64 = 1000;
const MEMORY_BYTES: u64 = 64 << 20;
