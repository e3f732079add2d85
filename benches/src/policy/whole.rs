//! A trace in memory, its ids numbered in the order in which they appear.
//!
//! Small numbers make tables of what maps would be, so that the clock measures the policy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ahash::AHashMap;

use crate::trace::{Request, TraceError, ends_partly};

/// A trace that was read to its end.
#[derive(Debug, Default)]
pub struct Whole {
    requests: Vec<Head>,
    ids: Vec<u32>,
    depths: Vec<u16>,
}

#[derive(Debug)]
struct Head {
    t_ms: u64,
    input_tokens: u32,
    hint: u8,
    /// Where its ids end.
    end: usize,
}

/// One request of it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// When it came, in milliseconds since the trace began.
    pub t_ms: u64,
    /// Tokens of its prompt.
    pub input_tokens: u32,
    /// What kind of request it was; 0 if nobody said.
    pub hint: u8,
    /// Whether the last of its objects stands for fewer tokens than an object has.
    pub ends_partly: bool,
    /// Its objects, the head of the chain first.
    pub ids: &'a [u32],
}

/// Why hints cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HintsError {
    /// The file could not be read.
    #[error("cannot read the hints {path:?}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is no hint.
    #[error("line {line} of the hints {path:?} is not a number from 0 to 255")]
    NotANumber {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// There must be one for each request.
    #[error("the hints {path:?} have {hints} lines, the trace has {requests} requests")]
    Count {
        /// Which file.
        path: PathBuf,
        /// Its lines.
        hints: usize,
        /// The trace's requests.
        requests: usize,
    },
}

impl Whole {
    /// Reads requests to their end.
    ///
    /// # Errors
    /// The first error of the trace.
    pub fn read(
        trace: impl IntoIterator<Item = Result<Request, TraceError>>,
    ) -> Result<Self, TraceError> {
        let mut whole = Self::default();
        let mut numbers: AHashMap<u64, u32> = AHashMap::new();
        for request in trace {
            let request = request?;
            for (depth, id) in (0u16..=u16::MAX).chain(std::iter::repeat(u16::MAX)).zip(request.ids)
            {
                let next = whole.depths.len() as u32;
                let number = *numbers.entry(id).or_insert(next);
                if number == next {
                    whole.depths.push(depth);
                }
                whole.ids.push(number);
            }
            let Request { t_ms, input_tokens, .. } = request;
            whole.requests.push(Head { t_ms, input_tokens, hint: 0, end: whole.ids.len() });
        }
        Ok(whole)
    }

    /// Adds a hint to each request: a file with one small number a line.
    ///
    /// # Errors
    /// [`HintsError`].
    pub fn hint(&mut self, path: &Path) -> Result<(), HintsError> {
        let owned = || path.to_path_buf();
        let text = fs::read_to_string(path)
            .map_err(|source| HintsError::Unreadable { path: owned(), source })?;
        let parse = |(line, text): (usize, &str)| {
            text.trim().parse().map_err(|_| HintsError::NotANumber { path: owned(), line })
        };
        let hints = (1..).zip(text.lines()).map(parse).collect::<Result<Vec<u8>, _>>()?;
        let requests = self.requests.len();
        if hints.len() != requests {
            return Err(HintsError::Count { path: owned(), hints: hints.len(), requests });
        }
        self.requests.iter_mut().zip(hints).for_each(|(request, hint)| request.hint = hint);
        Ok(())
    }

    /// The same at so many times its pace.
    pub fn at_speed(mut self, speed: f64) -> Self {
        let hastened = |request: &mut Head| request.t_ms = at_speed(request.t_ms, speed);
        self.requests.iter_mut().for_each(hastened);
        self
    }

    /// Its requests in order.
    pub fn requests(&self) -> impl ExactSizeIterator<Item = Asked<'_>> {
        self.requests.iter().enumerate().map(|(index, head)| {
            let start = index.checked_sub(1).map_or(0, |before| self.requests[before].end);
            let Head { t_ms, input_tokens, hint, end } = *head;
            let ids = &self.ids[start..end];
            let ends_partly = ends_partly(input_tokens, ids.len());
            Asked { t_ms, input_tokens, hint, ends_partly, ids }
        })
    }

    /// How many objects it names.
    pub fn object_count(&self) -> usize {
        self.depths.len()
    }

    /// The place of each object in its chain, from 0.
    pub fn depths(&self) -> &[u16] {
        &self.depths
    }

    /// The objects of all requests, one request behind the other.
    pub(super) fn references(&self) -> &[u32] {
        &self.ids
    }
}

/// When something is due that is due at a time of the trace, at so many times its pace.
pub fn at_speed(t_ms: u64, speed: f64) -> u64 {
    (t_ms as f64 / speed) as u64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::trace::{Trace, bundled};

    /// Of text as a trace file has it.
    pub(in super::super) fn whole(text: &str) -> Whole {
        Whole::read(Trace::from_reader(io::Cursor::new(text.to_owned())).unwrap()).unwrap()
    }

    #[test]
    fn ids_are_numbered_as_they_appear_and_keep_their_depth() {
        let whole = whole("1 512 70 8\n2 512 70 9\n");
        let asked: Vec<_> = whole.requests().map(|asked| asked.ids.to_vec()).collect();
        assert_eq!(asked, [[0, 1], [0, 2]]);
        assert_eq!((whole.object_count(), whole.depths()), (3, &[0, 1, 1][..]));
    }

    #[test]
    fn the_sample_names_55287_objects() {
        let whole = Whole::read(bundled()).unwrap();
        assert_eq!((whole.requests().len(), whole.object_count()), (3000, 55_287));
    }

    #[test]
    fn hints_that_do_not_fit_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hints");
        let mut whole = whole("1 512 70 8\n2 512 70 9\n");
        for (text, part) in [("1\n", "1 lines"), ("1\nx\n", "line 2"), ("1\n256\n", "line 2")] {
            fs::write(&path, text).unwrap();
            let error = whole.hint(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        fs::write(&path, "0\n2\n").unwrap();
        whole.hint(&path).unwrap();
        assert_eq!(whole.requests().map(|asked| asked.hint).collect::<Vec<_>>(), [0, 2]);
    }
}
