//! How a client ends: by a word, with its last clone, or by not being there in a forked child.
//!
//! What a reader would get wrong: closing ends the I/O for every clone, and waits for nobody. Calls
//! under way are answered by the end of the I/O, and their answers say when memory is free.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use larder_transport::process_id;

use crate::client::{Client, Shared};
use crate::error::Error;

impl Client {
    /// Ends the client and all its clones. Never waits, and again is fine.
    ///
    /// Calls under way are answered within microseconds: keys without an answer get
    /// [`KeyError::Closed`](crate::KeyError::Closed). As always, only the answer says that nothing
    /// touches landings and sources any more. Leases live on.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn close(&self) -> Result<(), Error> {
        self.check_process()?;
        if !self.shared.is_closed.swap(true, Ordering::Relaxed) {
            self.shared.remote.close();
        }
        Ok(())
    }

    /// In a forked child there is no I/O thread.
    pub(crate) fn check_process(&self) -> Result<(), Error> {
        if self.shared.pid != process_id() {
            return Err(Error::Forked);
        }
        Ok(())
    }

    /// Who closes at the same time is told by the keys.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        self.check_process()?;
        if self.shared.is_closed.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // In a forked child there is no thread to end, and its locks may be held for ever.
        if self.pid != process_id() {
            return;
        }
        self.remote.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // It never blocks, so this is short. If it panicked, that was reported already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread::JoinHandle;
    use std::time::Duration;

    use larder_protocol::message::{HelloReply, SocketPath};
    use larder_protocol::view::{Member, MemberState, View};
    use larder_protocol::{Key, NamespaceSpec, Status};

    use super::*;
    use crate::config::{Config, GetOptions, PutOptions};
    use crate::error::{KeyError, KeyResult};
    use crate::inbox::Remote;
    use crate::io::start_io;
    use crate::namespace::Namespace;
    use crate::object::{Object, Payload, Pieces, PutObject};
    use crate::shared::SharedMemory;

    /// The I/O of a client that knows one node, on this host at `port`.
    fn io_to(port: u16) -> (Remote, JoinHandle<()>) {
        let member = Member {
            id: 1,
            incarnation: 0,
            weight: 1,
            state: MemberState::Serving,
            shard_count: 1,
            port,
            host: "127.0.0.1".into(),
            capabilities: 0,
        };
        let view = View::new(1, vec![member]).unwrap();
        let seed = HelloReply {
            version: 1,
            capabilities: 0,
            node_id: 1,
            incarnation: 0,
            shard: 0,
            shard_count: 1,
            object_bytes_max: 1,
            uds: SocketPath::NONE,
        };
        start_io(Config::default(), crate::bootstrap::Learnt { view, seed }, Arc::default())
            .unwrap()
    }

    fn get(client: &Client) -> Result<Vec<KeyResult<Object>>, Error> {
        let namespace = Namespace::describe(NamespaceSpec::new("t", "m")).unwrap();
        client.get(&namespace, &[Key::new(b"k").unwrap()], &GetOptions::default())
    }

    #[test]
    fn a_forked_child_is_refused_and_ends_nothing_of_its_parents() {
        let (remote, thread) = io_to(1);
        let parent = process_id();
        let client = |pid| {
            let shared =
                Shared::new(remote.clone(), Arc::default(), None, Duration::from_millis(50), pid);
            Client { shared: Arc::new(shared) }
        };
        let child = client(parent + 1);
        assert_eq!(get(&child), Err(Error::Forked));
        assert_eq!(child.close(), Err(Error::Forked));
        puts_are_refused_without_a_lock(&child);
        drop(child);
        // Nobody listens there, which only a living I/O thread can tell.
        let answer = get(&client(parent)).unwrap().remove(0).unwrap_err();
        assert!(answer.is_unanswered() && answer.status() != Some(Status::Miss), "{answer}");
        thread.join().unwrap();
    }

    fn puts_are_refused_without_a_lock(child: &Client) {
        let memory = SharedMemory::new(1 << 20, &child.shared.memories).unwrap();
        let held = child.shared.memories.held();
        let (tell, told) = std::sync::mpsc::channel();
        let child = child.clone();
        let putting = std::thread::spawn(move || {
            let namespace = Namespace::describe(NamespaceSpec::new("t", "m")).unwrap();
            let (key, options) = (Key::new(b"k").unwrap(), PutOptions::default());
            let object = PutObject::new(key, Pieces::from(&memory[..]));
            let _ = tell.send(child.put(&namespace, &[object], &options));
            let object = PutObject::new(key, Payload::Bytes(vec![0; 100_000].into()));
            let _ = tell.send(child.put_owned(&namespace, vec![object], &options));
        });
        let answers = [(); 2].map(|()| told.recv_timeout(Duration::from_secs(5)));
        drop(held);
        putting.join().unwrap();
        assert_eq!(answers, [const { Ok(Err(Error::Forked)) }; 2]);
    }

    #[test]
    fn a_client_that_is_closed_answers_what_is_under_way_and_refuses_the_rest() {
        // Takes connections and never says a word.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (remote, thread) = io_to(silent.local_addr().unwrap().port());
        let shared = Shared::new(
            remote,
            Arc::default(),
            Some(thread),
            Duration::from_secs(600),
            process_id(),
        );
        let client = Client { shared: Arc::new(shared) };
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let client = client.clone();
                std::thread::spawn(move || get(&client))
            })
            .collect();
        // Whoever asks must be connected, and the others wait behind.
        let _connection = silent.accept().unwrap();
        client.close().unwrap();
        for call in waiting {
            let answer = call.join().unwrap();
            // Who comes too late to be answered is refused.
            assert!(answer == Ok(vec![Err(KeyError::Closed)]) || answer == Err(Error::Closed));
        }
        client.close().unwrap();
        assert_eq!(get(&client), Err(Error::Closed));
    }
}
