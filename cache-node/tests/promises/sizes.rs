//! Sizes at their limits: nothing, one byte, the largest; places too small; parts of objects.

use larder_client::{Client, GetOptions, KeyError, Namespace, NamespaceSpec, Place, Status};

use crate::calls::{PATIENCE, connect, get, is_right, key, open, put, put_version};
use crate::content::content;
use crate::limit::{Nodes, among_others};
use crate::process::Process;
use crate::room::Room;

const LARGEST: usize = 64 << 20;
const TOO_SMALL: KeyError = KeyError::Status(Status::MissSize);

fn setup(nodes: &Nodes, part_bytes: u32) -> (Process, Client, Namespace) {
    let node = nodes.start(&["--memory", "192MiB"]);
    let client = connect(&node, PATIENCE);
    let spec = NamespaceSpec { part_bytes, ..NamespaceSpec::new("promises", "sizes") };
    let namespace = client.namespace(spec).unwrap();
    (node, client, namespace)
}

#[test]
fn objects_of_every_size_come_back_as_they_were() {
    among_others(|nodes| {
        let (_node, client, namespace) = setup(nodes, 0);
        for (number, bytes) in [0, 1, 63, 64, 65, (16 << 10) + 1, LARGEST].into_iter().enumerate() {
            let key = key("size", number);
            assert_eq!(put_version(&client, &namespace, key, 1, bytes), Ok(()));
            let found = get(&client, &namespace, key).unwrap();
            assert_eq!((found.bytes.len(), found.object_bytes as usize), (bytes, bytes));
            assert!(is_right(&key, &found));
            // Into memory with more room than it needs.
            let mut memory = Room::new(&client, bytes + 100, 0xa5);
            let options = GetOptions::default();
            let landed =
                client.get_into(&namespace, &mut [(key, &mut memory[..])], &options).unwrap();
            assert_eq!(landed[0].as_ref().map(|landed| landed.bytes as usize), Ok(bytes));
            assert!(memory[..bytes] == found.bytes, "{bytes}");
            assert_eq!(memory[bytes..], [0xa5; 100], "nothing is written behind it");
        }
    });
}

#[test]
fn an_object_larger_than_its_place_is_a_miss_that_says_so_and_writes_nothing() {
    among_others(|nodes| {
        let (_node, client, namespace) = setup(nodes, 0);
        let sizes = [2, 1000, 100_000, 3 << 20];
        let keys = [0, 1, 2, 3].map(|n| key("large", n));
        for (key, bytes) in keys.into_iter().zip(sizes) {
            put(&client, &namespace, key, &content(key.as_bytes(), 1, bytes)).unwrap();
        }
        // One byte too small each, with guards around, and one that is large enough between them.
        let mut memory = sizes.map(|bytes| Room::new(&client, bytes + 63, 0xa5));
        let mut fits = Room::new(&client, sizes[2], 0);
        let mut places: Vec<_> = keys
            .into_iter()
            .zip(memory.iter_mut().zip(sizes).map(|(place, bytes)| &mut place[32..31 + bytes]))
            .collect();
        places.insert(2, (keys[2], &mut fits));
        let landed = client.get_into(&namespace, &mut places, &GetOptions::default()).unwrap();
        for (at, landed) in landed.iter().enumerate() {
            assert_eq!(landed.as_ref().err(), (at != 2).then_some(&TOO_SMALL), "{at}");
        }
        assert!(fits[..] == content(keys[2].as_bytes(), 1, sizes[2]));
        assert!(
            memory.iter().all(|room| room.iter().all(|&byte| byte == 0xa5)),
            "nothing was written"
        );
        // The same with a place of several pieces.
        let (left, right) = memory[3].split_at_mut(1 << 20);
        let pieces = vec![&mut left[..], &mut right[..sizes[3] - (1 << 20) - 1]];
        let mut places = [Place { key: keys[3], pieces }];
        let landed = client.get_into_pieces(&namespace, &mut places, &GetOptions::default());
        assert_eq!(landed.unwrap(), [Err(TOO_SMALL)]);
        assert!(memory[3].iter().all(|&byte| byte == 0xa5), "nothing was written");
        // The same for a reader that says how much it takes.
        let options = GetOptions { object_bytes_max: 999, ..GetOptions::default() };
        let found = client.get(&namespace, &keys, &options).unwrap();
        assert!(found[0].is_ok());
        assert!(found[1..].iter().all(|found| *found == Err(TOO_SMALL)));
    });
}

#[test]
fn parts_of_an_object_are_slices_of_it() {
    among_others(|nodes| {
        for (part_bytes, object_bytes) in [(1000, 3500), (4096, 8192), (256 << 10, 1_400_000)] {
            let (_node, client, namespace) = setup(nodes, part_bytes);
            let key = key("parts", 0);
            let object = content(key.as_bytes(), 1, object_bytes);
            put(&client, &namespace, key, &object).unwrap();
            let part_bytes = part_bytes as usize;
            let count = object_bytes.div_ceil(part_bytes);
            for first in 0..count {
                for end in first + 1..=count {
                    let slice = first * part_bytes..(end * part_bytes).min(object_bytes);
                    let parts = Some(first as u16..end as u16);
                    let options = GetOptions { parts, ..GetOptions::default() };
                    let found = client.get(&namespace, &[key], &options).unwrap().remove(0);
                    let found = found.unwrap();
                    assert!(found.bytes == object[slice.clone()], "{slice:?}");
                    assert_eq!(found.object_bytes as usize, object_bytes);
                    let mut memory = Room::new(&client, slice.len() + 10, 0xa5);
                    let mut places = [(key, &mut memory[..])];
                    let landed = client.get_into(&namespace, &mut places, &options).unwrap();
                    assert_eq!(landed[0].as_ref().unwrap().bytes as usize, slice.len());
                    assert!(memory[..slice.len()] == object[slice.clone()], "{slice:?}");
                    assert_eq!(memory[slice.len()..], [0xa5; 10]);
                }
            }
            let behind = Some(count as u16 - 1..count as u16 + 1);
            let options = GetOptions { parts: behind, ..GetOptions::default() };
            let found = client.get(&namespace, &[key], &options).unwrap();
            assert_eq!(found, [Err(TOO_SMALL)], "it has no such part");
        }
    });
}

#[test]
fn namespaces_that_differ_in_anything_share_nothing() {
    among_others(|nodes| {
        let (_node, client, namespace) = setup(nodes, 0);
        let other = open(&client);
        let key = key("same", 0);
        put(&client, &namespace, key, b"of one").unwrap();
        assert_eq!(get(&client, &other, key), Err(KeyError::Status(Status::Miss)));
        put(&client, &other, key, b"of two").unwrap();
        assert_eq!(get(&client, &namespace, key).unwrap().bytes, &b"of one"[..]);
        assert_eq!(get(&client, &other, key).unwrap().bytes, &b"of two"[..]);
    });
}
