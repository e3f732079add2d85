//! Any bytes as a view, then the placement that clients compute from it.
//!
//! A view comes from a node that may be wrong, so whatever is accepted must place every key.
#![no_main]

use larder_protocol::placement::{anchor_hash, candidates, owner_of, shard_of};
use larder_protocol::view::View;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(view) = View::decode(bytes) else { return };
    let mut written = Vec::new();
    view.encode(&mut written);
    assert_eq!(View::decode(&written).as_ref(), Ok(&view));

    let hash = anchor_hash(bytes);
    let chosen = candidates(&view, hash, 3);
    assert_eq!(owner_of(&view, hash), chosen.first().copied());
    for index in chosen {
        let member = &view.members[index];
        let shard = shard_of(hash, member.shard_count);
        assert!(shard < member.shard_count);
        assert!(member.port.checked_add(shard).is_some(), "every shard has a port");
    }
});
