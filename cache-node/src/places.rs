//! Things with numbers that are used again: connections of a core or shard.
//!
//! What a reader would get wrong: a number means its thing only until that is taken out. Whoever
//! keeps one must be told, or be the one who takes it out.

/// Things by their numbers.
#[derive(Debug)]
pub(crate) struct Places<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Places<T> {
    /// Puts a thing in; its number until it is taken out.
    pub(crate) fn enter(&mut self, thing: T) -> usize {
        match self.free.pop() {
            Some(number) => {
                self.places[number] = Some(thing);
                number
            }
            None => {
                self.places.push(Some(thing));
                self.places.len() - 1
            }
        }
    }

    /// Takes out the thing with this number, if there is one.
    pub(crate) fn leave(&mut self, number: usize) -> Option<T> {
        let thing = self.places.get_mut(number)?.take()?;
        self.free.push(number);
        Some(thing)
    }

    /// The thing with this number, if there is one.
    pub(crate) fn at(&mut self, number: usize) -> Option<&mut T> {
        self.places.get_mut(number)?.as_mut()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// All of them, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_what_left_are_used_again() {
        let mut places = Places::default();
        assert_eq!(['a', 'b', 'c'].map(|thing| places.enter(thing)), [0, 1, 2]);
        assert_eq!((places.leave(1), places.leave(1), places.leave(7)), (Some('b'), None, None));
        assert_eq!((places.at(1).copied(), places.at(2).copied()), (None, Some('c')));
        assert_eq!(places.len(), 2);
        assert_eq!(['d', 'e'].map(|thing| places.enter(thing)), [1, 3]);
        assert_eq!(places.iter().collect::<String>(), "adce");
    }
}
