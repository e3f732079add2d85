//! After an answer, silence: whatever was reported as ended is never written again.
//!
//! The node is stopped in the middle of a long reply, so that the rest of it arrives long after the
//! call has ended. Its memory was filled with a canary by then.

use std::time::{Duration, Instant};

use larder_client::{
    Client, GetOptions, Key, KeyError, KeyResult, Landed, Namespace, OwnedPlace, PutObject,
    PutOptions, Stat,
};
use larder_transport::lend;

use crate::calls::{PATIENCE, by, connect, get, key, open, put, stat};
use crate::content::content;
use crate::limit::{Nodes, alone};
use crate::process::{IS_OVER_SHM, Process};
use crate::room::Room;

const DEADLINE: Duration = Duration::from_millis(250);
const OBJECTS: usize = 12;
const OBJECT_BYTES: usize = 8 << 20;
const CANARY: [u8; 4096] = [0xa5; 4096];
/// Calls that were cut in the middle of their reply, and how often that is tried: where others take
/// the cores, most tries come too early or too late.
const CUTS: usize = 3;
const TRIES_MAX: usize = 200;

/// One node, and what lies on it.
struct Rig {
    node: Process,
    client: Client,
    namespace: Namespace,
    keys: Vec<Key>,
    objects: Vec<Vec<u8>>,
    /// How long after its begin a call is cut.
    pause: Duration,
}

impl Rig {
    fn new(nodes: &Nodes) -> Self {
        let node = nodes.start(&["--memory", "256MiB"]);
        let client = connect(&node, DEADLINE);
        let namespace = open(&client);
        let keys: Vec<_> = (0..OBJECTS).map(|n| key("large", n)).collect();
        let objects = keys.iter().map(|key| content(key.as_bytes(), 1, OBJECT_BYTES));
        let objects: Vec<_> = objects.collect();
        let options = PutOptions { deadline: Some(PATIENCE), ..PutOptions::default() };
        for (key, object) in keys.iter().zip(&objects) {
            let stored = client.put(&namespace, &[PutObject::new(*key, object)], &options);
            assert_eq!(stored.unwrap(), [Ok(())]);
        }
        assert_eq!(put(&client, &namespace, key("small", 0), b"small"), Ok(()));
        Self { node, client, namespace, keys, objects, pause: Duration::from_millis(20) }
    }

    /// Cuts one get of everything by `cut`. Whether that was in the middle of its reply; then the
    /// node stands still.
    fn is_cut_midway(
        &mut self,
        memory: &mut [Room],
        cut: impl FnOnce(&Self, &mut [Room]) -> Vec<KeyResult<Landed>>,
    ) -> bool {
        memory.iter_mut().for_each(|place| place[..64].fill(0));
        let answers = cut(self, memory);
        for ((answer, place), object) in answers.iter().zip(&*memory).zip(&self.objects) {
            match answer {
                Ok(_) => assert!(place[..] == object[..], "what was answered is right"),
                Err(KeyError::DeadlineExceeded | KeyError::Cancelled) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        if answers.iter().all(Result::is_ok) {
            self.pause = self.pause.mul_f64(0.8);
        } else if memory[0][..64] == [0; 64] {
            self.pause = self.pause.mul_f64(1.3);
        } else {
            return true;
        }
        self.node.signal("CONT");
        false
    }

    /// Other gets on the same connection for a while: they are right, and the canary stays.
    fn serves_and_leaves_alone(&self, memory: &[Room]) {
        let (began, mut right) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(1) {
            match by(DEADLINE, || get(&self.client, &self.namespace, key("small", 0))) {
                Ok(object) => {
                    assert_eq!(object.bytes, &b"small"[..]);
                    right += 1;
                }
                Err(error) => assert!(error.is_unanswered(), "{error:?}"),
            }
            assert!(is_untouched(memory), "written after the answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(right > 0, "the node answers again");
    }

    fn lands_whole(&self, memory: &mut [Room]) {
        let mut places: Vec<_> =
            self.keys.iter().copied().zip(memory.iter_mut().map(|place| &mut place[..])).collect();
        let options = GetOptions { deadline: Some(PATIENCE), ..GetOptions::default() };
        let landed = self.client.get_into(&self.namespace, &mut places, &options).unwrap();
        assert!(landed.iter().all(Result::is_ok), "{landed:?}");
        let is_right =
            memory.iter().zip(&self.objects).all(|(place, object)| place[..] == object[..]);
        assert!(is_right, "later gets are right");
    }
}

fn is_untouched(memory: &[Room]) -> bool {
    memory.iter().all(|place| place.chunks(CANARY.len()).all(|part| *part == CANARY[..part.len()]))
}

fn stop_midway_again_and_again(
    rig: &mut Rig,
    cut: impl Fn(&Rig, &mut [Room]) -> Vec<KeyResult<Landed>>,
) {
    let memory = (0..OBJECTS).map(|_| Room::new(&rig.client, OBJECT_BYTES, 0));
    let mut memory: Vec<_> = memory.collect();
    let mut cuts = 0;
    for _ in 0..TRIES_MAX {
        if !rig.is_cut_midway(&mut memory, &cut) {
            continue;
        }
        cuts += 1;
        memory.iter_mut().for_each(|place| place.fill(CANARY[0]));
        rig.node.signal("CONT");
        rig.serves_and_leaves_alone(&memory);
        rig.lands_whole(&mut memory);
        if cuts == CUTS {
            return;
        }
    }
    panic!("{cuts} of {TRIES_MAX} calls were cut midway");
}

#[test]
fn nothing_is_written_after_a_deadline_has_ended_a_get() {
    alone(|nodes| {
        let mut rig = Rig::new(nodes);
        stop_midway_again_and_again(&mut rig, |rig, memory| {
            let places = memory.iter_mut().map(|place| &mut place[..]);
            let mut places: Vec<_> = rig.keys.iter().copied().zip(places).collect();
            std::thread::scope(|scope| {
                let (client, namespace) = (&rig.client, &rig.namespace);
                // Over shared memory the answer comes at once, and it is the caller who copies: the
                // deadline has to pass while it does.
                let deadline = if IS_OVER_SHM { rig.pause } else { DEADLINE };
                let getter = scope.spawn(move || {
                    let options = GetOptions { deadline: Some(deadline), ..GetOptions::default() };
                    by(DEADLINE, || client.get_into(namespace, &mut places, &options)).unwrap()
                });
                std::thread::sleep(rig.pause);
                rig.node.signal("STOP");
                getter.join().unwrap()
            })
        });
    });
}

#[test]
fn nothing_is_written_after_a_get_was_cancelled() {
    alone(|nodes| {
        let mut rig = Rig::new(nodes);
        let accepted = stat(&rig.client, Stat::Accepted);
        stop_midway_again_and_again(&mut rig, |rig, memory| {
            lend(memory.iter_mut().map(|place| [&mut place[..]]), |landings| {
                let places = rig.keys.iter().zip(landings);
                let places = places.map(|(&key, landing)| OwnedPlace { key, landing }).collect();
                let options = GetOptions { deadline: Some(PATIENCE), ..GetOptions::default() };
                let call = rig.client.start_get_into(&rig.namespace, places, &options).unwrap();
                std::thread::sleep(rig.pause);
                rig.node.signal("STOP");
                call.cancel();
                by(Duration::ZERO, || call.wait()).unwrap()
            })
        });
        // Else what was left of the replies would never have arrived.
        assert_eq!(stat(&rig.client, Stat::Accepted), accepted, "one connection for all of it");
    });
}
