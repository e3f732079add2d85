//! What a policy keeps of every object: 16 bytes beside its entry, and lists that run through them.
//!
//! What a reader would get wrong: these are not the lists of `lru.rs`, which run through the
//! entries and exist once for each namespace, so that a generation goes in one step. These order
//! the objects of all namespaces together, stale ones included.

use larder_transport::prefetch;

/// A list of notes, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List(pub(super) u8);

impl List {
    /// That of an object which no policy of notes has.
    pub(super) const NONE: Self = Self(u8::MAX);
}

/// What is known of one object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Note {
    younger: u32,
    older: u32,
    /// When it was last used, the low bits of milliseconds: 49 days until they come again.
    pub(super) last_ms: u32,
    /// Its place in its chain.
    pub(super) depth: u16,
    /// Where it is listed.
    pub(super) list: List,
    /// What its policy counts of it.
    pub(super) tally: u8,
}

impl Note {
    /// Of an object that is in no list yet.
    pub(super) const fn new(last_ms: u32, depth: u16, tally: u8) -> Self {
        Self { younger: NONE, older: NONE, last_ms, depth, list: List::NONE, tally }
    }
}

/// The notes of all objects of a shard, by the numbers of their entries.
#[derive(Debug)]
pub(super) struct Notes {
    /// Never moved and never given back, as the pieces of entries; made when a number needs one.
    pieces: Vec<Option<Box<[Note]>>>,
    lists: Vec<Ends>,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    youngest: u32,
    oldest: u32,
    len: u32,
}

/// Where an object goes in its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// At the young end.
    Young,
    /// Next to another object of the list, on its older side.
    OlderThan(u32),
    /// Next to another object of the list, on its younger side.
    YoungerThan(u32),
}

impl Notes {
    /// Empty lists with numbers below `lists`.
    pub(super) fn new(lists: u8) -> Self {
        let empty = Ends { youngest: NONE, oldest: NONE, len: 0 };
        Self { pieces: Vec::new(), lists: vec![empty; usize::from(lists)] }
    }

    /// Notes an object that is in no list, and puts it into `list`.
    pub(super) fn add(&mut self, number: u32, note: Note, list: List, at: At) {
        let piece = (number >> PIECE_BITS) as usize;
        if self.pieces.len() <= piece {
            self.pieces.resize_with(piece + 1, || None);
        }
        let unused = || vec![Note::new(0, 0, 0); PIECE_NOTES].into();
        let piece = self.pieces[piece].get_or_insert_with(unused);
        piece[number as usize % PIECE_NOTES] = Note { list, ..note };
        self.link(number, list, at);
    }

    /// Moves an object to the young end of a list, out of the one that it is in.
    pub(super) fn refile(&mut self, number: u32, list: List) {
        self.unlink(number);
        self[number].list = list;
        self.link(number, list, At::Young);
    }

    /// Takes an object out of its list and answers its last note; `None` if it has none.
    pub(super) fn remove(&mut self, number: u32) -> Option<Note> {
        let note = self.find(number)?;
        self.unlink(number);
        self[number].list = List::NONE;
        Some(note)
    }

    /// The note of an object, if it has one.
    pub(super) fn find(&self, number: u32) -> Option<Note> {
        let piece = self.pieces.get((number >> PIECE_BITS) as usize)?.as_ref()?;
        Some(piece[number as usize % PIECE_NOTES]).filter(|note| note.list != List::NONE)
    }

    /// Loads what taking an object out of its list will change.
    pub(super) fn prefetch_neighbours(&self, number: u32) {
        let Some(note) = self.find(number) else { return };
        let others = [note.younger, note.older].into_iter().filter(|&number| number != NONE);
        others.for_each(|number| prefetch(&self[number]));
    }

    /// The note of an object, if it has one, to count in.
    pub(super) fn find_mut(&mut self, number: u32) -> Option<&mut Note> {
        let piece = self.pieces.get_mut((number >> PIECE_BITS) as usize)?.as_mut()?;
        Some(&mut piece[number as usize % PIECE_NOTES]).filter(|note| note.list != List::NONE)
    }

    /// The oldest object of a list, if it has any.
    pub(super) fn oldest(&self, list: List) -> Option<u32> {
        Some(self.lists[usize::from(list.0)].oldest).filter(|&number| number != NONE)
    }

    /// The next younger object of the same list.
    pub(super) fn younger(&self, number: u32) -> Option<u32> {
        Some(self[number].younger).filter(|&number| number != NONE)
    }

    /// How many objects a list has.
    pub(super) fn len(&self, list: List) -> u32 {
        self.lists[usize::from(list.0)].len
    }

    /// Memory that the notes take, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let pieces = self.pieces.iter().flatten().count();
        (pieces * PIECE_NOTES * size_of::<Note>() + self.lists.len() * size_of::<Ends>()) as u64
    }

    fn link(&mut self, number: u32, list: List, at: At) {
        let (older, younger) = match at {
            At::Young => (self.lists[usize::from(list.0)].youngest, NONE),
            At::OlderThan(other) => (self[other].older, other),
            At::YoungerThan(other) => (other, self[other].younger),
        };
        self[number].older = older;
        self[number].younger = younger;
        self.set_younger(older, list, number);
        self.set_older(younger, list, number);
        self.lists[usize::from(list.0)].len += 1;
    }

    fn unlink(&mut self, number: u32) {
        let Note { older, younger, list, .. } = self[number];
        self.set_younger(older, list, younger);
        self.set_older(younger, list, older);
        self.lists[usize::from(list.0)].len -= 1;
    }

    /// Makes `to` the younger neighbour of `number`, or the oldest of the list.
    fn set_younger(&mut self, number: u32, list: List, to: u32) {
        match number {
            NONE => self.lists[usize::from(list.0)].oldest = to,
            number => self[number].younger = to,
        }
    }

    /// Makes `to` the older neighbour of `number`, or the youngest of the list.
    fn set_older(&mut self, number: u32, list: List, to: u32) {
        match number {
            NONE => self.lists[usize::from(list.0)].youngest = to,
            number => self[number].older = to,
        }
    }
}

impl std::ops::Index<u32> for Notes {
    type Output = Note;

    fn index(&self, number: u32) -> &Note {
        let piece = self.pieces[(number >> PIECE_BITS) as usize].as_ref();
        &piece.expect("an object that is listed has a note")[number as usize % PIECE_NOTES]
    }
}

impl std::ops::IndexMut<u32> for Notes {
    fn index_mut(&mut self, number: u32) -> &mut Note {
        let piece = self.pieces[(number >> PIECE_BITS) as usize].as_mut();
        &mut piece.expect("an object that is listed has a note")[number as usize % PIECE_NOTES]
    }
}

/// No object.
const NONE: u32 = u32::MAX;
const PIECE_BITS: u32 = 12;
const PIECE_NOTES: usize = 1 << PIECE_BITS;
const _: () = assert!(size_of::<Note>() == 16);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(notes: &Notes, list: List) -> Vec<u32> {
        std::iter::successors(notes.oldest(list), |&number| notes.younger(number)).collect()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(u32, u8, Side),
        Refile(u32, u8),
        Remove(u32),
    }

    #[derive(Debug, Clone, Copy)]
    enum Side {
        Young,
        OlderThan(usize),
        YoungerThan(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let side = prop_oneof![
            Just(Side::Young),
            any::<usize>().prop_map(Side::OlderThan),
            any::<usize>().prop_map(Side::YoungerThan),
        ];
        // Numbers of two pieces.
        let number = 4090u32..4102;
        prop_oneof![
            4 => (number.clone(), 0u8..3, side).prop_map(|(n, to, side)| Step::Add(n, to, side)),
            2 => (number.clone(), 0u8..3).prop_map(|(n, list)| Step::Refile(n, list)),
            2 => number.prop_map(Step::Remove),
        ]
    }

    proptest! {
        #[test]
        fn lists_agree_with_vectors(steps in prop::collection::vec(step(), 1..200)) {
            let mut notes = Notes::new(3);
            let mut naive = [const { Vec::<u32>::new() }; 3];
            for step in steps {
                let place = |naive: &[Vec<u32>; 3], n| naive.iter().position(|l| l.contains(&n));
                match step {
                    Step::Add(number, to, side) if place(&naive, number).is_none() => {
                        let list = &mut naive[usize::from(to)];
                        let near = |at: usize| (!list.is_empty()).then(|| at % list.len());
                        let (at, index) = match side {
                            Side::OlderThan(at) if let Some(i) = near(at) => {
                                (At::OlderThan(list[i]), i)
                            }
                            Side::YoungerThan(at) if let Some(i) = near(at) => {
                                (At::YoungerThan(list[i]), i + 1)
                            }
                            _ => (At::Young, list.len()),
                        };
                        list.insert(index, number);
                        notes.add(number, Note::new(number, 7, 1), List(to), at);
                    }
                    Step::Refile(number, to) if let Some(from) = place(&naive, number) => {
                        naive[from].retain(|&other| other != number);
                        naive[usize::from(to)].push(number);
                        notes.refile(number, List(to));
                    }
                    Step::Remove(number) => {
                        let from = place(&naive, number);
                        let removed = notes.remove(number);
                        prop_assert_eq!(removed.map(|note| note.last_ms), from.map(|_| number));
                        naive.iter_mut().for_each(|list| list.retain(|&other| other != number));
                    }
                    _ => {}
                }
                for (number, list) in (0..).zip(&naive) {
                    prop_assert_eq!(&order(&notes, List(number)), list);
                    prop_assert_eq!(notes.len(List(number)) as usize, list.len());
                }
            }
        }
    }
}
