//! Which node and which shard own a key: a pure function that client and node both link.
//!
//! Weighted rendezvous hashing: every member gets a score for the key, the best score owns it, the
//! order of scores is the list of candidates. Adding or removing a member moves only the keys that
//! it gains or loses. The shard is chosen by a second, independent hash, so a node's shards share
//! its keys evenly whatever the other nodes are.
//!
//! The function is public and fixed: changing a constant here moves every object of a fleet.

use crate::view::{MemberState, View};

/// The hash that placement is made from; an anchor is a key, a run's key or a user id.
pub fn anchor_hash(anchor: &[u8]) -> u64 {
    let mut hash = SEED ^ fold(anchor.len() as u64 ^ MIX_A, MIX_B);
    let mut chunks = anchor.chunks_exact(8);
    for chunk in &mut chunks {
        let word = chunk.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        hash = fold(hash ^ word, MIX_A);
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    fold(fold(hash ^ u64::from_le_bytes(last), MIX_B), MIX_C ^ hash)
}

/// The shard that owns an anchor on a node of `shard_count` shards.
pub fn shard_of(hash: u64, shard_count: u16) -> u16 {
    let mixed = splitmix(hash ^ SHARD_SEED);
    ((u128::from(mixed) * u128::from(shard_count)) >> 64) as u16
}

/// The member (index into `view.members`) that owns an anchor, `None` if no member serves.
pub fn owner_of(view: &View, hash: u64) -> Option<usize> {
    // One member is the common small case and needs no score.
    if let [only] = view.members.as_slice() {
        return (only.state != MemberState::Joining).then_some(0);
    }
    best(view, hash, |_| false)
}

/// The first `count` members for an anchor, best first: owner, next candidate, and so on.
///
/// Members that join are left out; draining ones come after all that serve.
pub fn candidates(view: &View, hash: u64, count: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::with_capacity(count.min(view.members.len()));
    while chosen.len() < count {
        match best(view, hash, |index| chosen.contains(&index)) {
            Some(index) => chosen.push(index),
            None => break,
        }
    }
    chosen
}

fn best(view: &View, hash: u64, skip: impl Fn(usize) -> bool) -> Option<usize> {
    let mut winner: Option<(bool, f64, usize)> = None;
    for (index, member) in view.members.iter().enumerate() {
        if member.state == MemberState::Joining || skip(index) {
            continue;
        }
        let serves = member.state == MemberState::Serving;
        let score = score(hash, member.id, member.weight);
        if winner.is_none_or(|(s, best, _)| (serves, score) > (s, best)) {
            winner = Some((serves, score, index));
        }
    }
    winner.map(|(_, _, index)| index)
}

/// `-weight / ln(u)` for a uniform `u` in (0, 1): the largest of these is distributed by weight.
fn score(hash: u64, id: u64, weight: u32) -> f64 {
    f64::from(weight) / -uniform(splitmix(hash ^ splitmix(id))).ln()
}

/// A number in (0, 1) from 64 random bits.
///
/// 52 bits and a half are exact in an f64, so it is never 0 nor 1 and its logarithm is finite and
/// negative. With 53 bits the half would be rounded away, and the largest value would be 1.
fn uniform(bits: u64) -> f64 {
    ((bits >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

fn splitmix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// High and low half of a 128-bit product, folded: mixes every bit of both into the result.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

const SEED: u64 = 0x243f_6a88_85a3_08d3;
const MIX_A: u64 = 0x1319_8a2e_0370_7345;
const MIX_B: u64 = 0xa409_3822_299f_31d1;
const MIX_C: u64 = 0x082e_fa98_ec4e_6c89;
const SHARD_SEED: u64 = 0x4528_21e6_38d0_1377;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Member;

    fn view(weights: &[u32]) -> View {
        let members = weights.iter().enumerate().map(|(index, &weight)| Member {
            id: index as u64 * 7 + 1,
            incarnation: 0,
            weight,
            state: MemberState::Serving,
            shard_count: 2,
            port: 7400,
            host: format!("node{index}"),
            capabilities: 0,
        });
        View::new(1, members.collect()).unwrap()
    }

    fn hashes(count: u64) -> impl Iterator<Item = u64> {
        (0..count).map(|n| anchor_hash(&n.to_le_bytes()))
    }

    #[test]
    fn known_values_never_change() {
        assert_eq!(anchor_hash(b""), GOLDEN[0]);
        assert_eq!(anchor_hash(b"a"), GOLDEN[1]);
        assert_eq!(anchor_hash(b"a\0"), GOLDEN[2]);
        assert_eq!(anchor_hash(&[0xff; 64]), GOLDEN[3]);
        for (hash, shards) in GOLDEN.into_iter().zip([[0, 24], [3, 107], [5, 183], [3, 113]]) {
            assert_eq!([8, 256].map(|count| shard_of(hash, count)), shards);
        }
        let (equal, weighted) = (view(&[1; 5]), view(&[100, 100, 200, 400]));
        assert_eq!(candidates(&equal, GOLDEN[1], 5), [4, 3, 0, 1, 2]);
        assert_eq!(candidates(&equal, GOLDEN[2], 3), [0, 1, 3]);
        assert_eq!(candidates(&weighted, GOLDEN[1], 4), [3, 0, 2, 1]);
        assert_eq!(candidates(&weighted, GOLDEN[3], 2), [3, 2]);
    }

    /// Computed apart from this code, with 60 digits for the logarithm. A change strands every
    /// object of a fleet: clients would look for it where it is not.
    const GOLDEN: [u64; 4] = [
        0xc589_f306_320d_1812,
        0xefd3_2899_e2ba_7ac1,
        0x1802_f57c_71a7_faa0,
        0xb51c_465f_ed91_f4c5,
    ];

    #[test]
    fn every_score_is_finite() {
        assert!(uniform(0) > 0.0 && uniform(u64::MAX) < 1.0);
    }

    #[test]
    fn load_follows_weight() {
        let weights = [100, 100, 200, 400];
        let mut counts = [0u32; 4];
        hashes(40_000).for_each(|h| counts[owner_of(&view(&weights), h).unwrap()] += 1);
        for (count, weight) in counts.iter().zip(weights) {
            let share = f64::from(*count) / 40_000.0 * 800.0;
            assert!((share / f64::from(weight) - 1.0).abs() < 0.06, "{counts:?}");
        }
    }

    #[test]
    fn losing_a_member_moves_only_its_keys_to_their_next_candidate() {
        let (full, mut less) = (view(&[1; 5]), view(&[1; 5]));
        less.members.remove(2);
        for hash in hashes(5_000) {
            let before = candidates(&full, hash, 2);
            let after = &less.members[owner_of(&less, hash).unwrap()].id;
            let expected = if before[0] == 2 { before[1] } else { before[0] };
            assert_eq!(*after, full.members[expected].id);
        }
    }

    #[test]
    fn shards_share_a_nodes_keys_evenly() {
        let nodes = view(&[1; 4]);
        let mut counts = [0u32; 8];
        for hash in hashes(40_000).filter(|&h| owner_of(&nodes, h) == Some(1)) {
            counts[usize::from(shard_of(hash, 8))] += 1;
        }
        let mean = counts.iter().sum::<u32>() / 8;
        assert!(counts.iter().all(|c| c.abs_diff(mean) < mean / 8), "{counts:?}");
    }

    #[test]
    fn draining_comes_last_and_joining_never() {
        let mut nodes = view(&[1; 3]);
        nodes.members[0].state = MemberState::Draining;
        nodes.members[1].state = MemberState::Joining;
        for hash in hashes(100) {
            assert_eq!(candidates(&nodes, hash, 3), [2, 0]);
        }
        nodes.members.truncate(2);
        nodes.members.remove(0);
        assert_eq!(owner_of(&nodes, 1), None);
    }
}
