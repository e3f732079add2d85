//! Request traces, one request at a time: Mooncake's JSON lines, or `t_ms input_tokens id0 id1 …`.
//!
//! Which of the two a file holds, and whether it is compressed, shows in its first bytes. Ids are
//! chained, so each has one parent and one depth for ever; a file where that is not so is refused,
//! for what is replayed from it would mean nothing.

mod line;
mod lineage;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use line::Format;
pub use line::Malformed;
use lineage::Lineages;
pub use lineage::{Lineage, NotAChain};

/// One request of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// When it came, in milliseconds since the trace began.
    pub t_ms: u64,
    /// Tokens of its prompt.
    pub input_tokens: u32,
    /// What its prompt is made of, 512 tokens an id, the head first.
    pub ids: Vec<u64>,
}

impl Request {
    /// Whether the last of its objects stands for fewer tokens than an object has.
    pub fn ends_partly(&self) -> bool {
        ends_partly(self.input_tokens, self.ids.len())
    }
}

/// Whether the last of so many objects stands for fewer tokens than an object has.
pub(crate) fn ends_partly(input_tokens: u32, objects: usize) -> bool {
    u64::from(input_tokens) < TOKENS_PER_OBJECT * objects as u64
}

/// What one id of a trace stands for.
pub(crate) const TOKENS_PER_OBJECT: u64 = 512;

/// Why a trace ended early.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be opened.
    #[error("cannot open the trace {path:?}: {source}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be read on, or is not what its first bytes promise.
    #[error("cannot read the trace after line {line}: {source}")]
    Read {
        /// The last line that was read, from 1; 0 for none.
        line: u64,
        /// What the system, or the decompressor, said.
        source: io::Error,
    },
    /// A line is not a request.
    #[error("line {line} of the trace: {reason}")]
    Malformed {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: Malformed,
    },
    /// A line contradicts an earlier one.
    #[error("line {line} of the trace: {reason}")]
    NotAChain {
        /// Which line, from 1.
        line: u64,
        /// Which id, and how.
        reason: NotAChain,
    },
}

/// A trace being read. Ends after its first error.
pub struct Trace {
    lines: Box<dyn BufRead + Send>,
    format: Option<Format>,
    lineages: Lineages,
    text: Vec<u8>,
    line: u64,
    ended: bool,
}

impl Trace {
    /// Reads a file, compressed with zstd or not.
    ///
    /// # Errors
    /// [`TraceError::Open`] and [`TraceError::Read`].
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let file = File::open(path)
            .map_err(|source| TraceError::Open { path: path.to_path_buf(), source })?;
        Self::from_reader(file)
    }

    /// Reads bytes, compressed with zstd or not.
    ///
    /// # Errors
    /// [`TraceError::Read`].
    pub fn from_reader(bytes: impl Read + Send + 'static) -> Result<Self, TraceError> {
        let read = |source| TraceError::Read { line: 0, source };
        let mut bytes = BufReader::new(bytes);
        let is_compressed = bytes.fill_buf().map_err(read)?.starts_with(&ZSTD_MAGIC);
        let lines: Box<dyn BufRead + Send> = if is_compressed {
            Box::new(BufReader::new(zstd::Decoder::with_buffer(bytes).map_err(read)?))
        } else {
            Box::new(bytes)
        };
        let (lineages, text) = (Lineages::default(), Vec::new());
        Ok(Self { lines, format: None, lineages, text, line: 0, ended: false })
    }

    /// The next line that is not empty, without its end; `None` at the end of the trace.
    fn read_line(&mut self) -> Result<Option<&[u8]>, TraceError> {
        loop {
            self.text.clear();
            let mut limited = (&mut self.lines).take(LINE_BYTES_MAX + 1);
            let read = limited.read_until(b'\n', &mut self.text);
            let bytes = read.map_err(|source| TraceError::Read { line: self.line, source })?;
            if bytes == 0 {
                return Ok(None);
            }
            self.line += 1;
            if bytes as u64 > LINE_BYTES_MAX {
                return Err(TraceError::Malformed { line: self.line, reason: Malformed::TooLong });
            }
            if !self.text.trim_ascii().is_empty() {
                return Ok(Some(self.text.trim_ascii()));
            }
        }
    }

    fn read_request(&mut self) -> Result<Option<Request>, TraceError> {
        let known = self.format;
        let Some(text) = self.read_line()? else { return Ok(None) };
        let format = known.unwrap_or_else(|| Format::of(text));
        let request = format.parse(text);
        let line = self.line;
        self.format = Some(format);
        let request = request.map_err(|reason| TraceError::Malformed { line, reason })?;
        self.lineages
            .check(&request.ids)
            .map_err(|reason| TraceError::NotAChain { line, reason })?;
        Ok(Some(request))
    }
}

impl Iterator for Trace {
    type Item = Result<Request, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let request = self.read_request().transpose();
        self.ended = !matches!(request, Some(Ok(_)));
        request
    }
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("line", &self.line).finish_non_exhaustive()
    }
}

/// The sample that this crate brings along: 3,000 requests of Mooncake's conversation trace.
///
/// # Panics
/// Never: the sample is part of the program, and a test reads all of it.
pub fn bundled() -> Trace {
    Trace::from_reader(SAMPLE).expect("the sample is what it was when this was compiled")
}

static SAMPLE: &[u8] = include_bytes!("../data/conversation-sample.jsonl.zst");
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Longest line: a chain of 8,192 ids of up to 20 digits fits several times.
const LINE_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<Request, TraceError>> {
        Trace::from_reader(io::Cursor::new(text.to_owned())).unwrap().collect()
    }

    fn last_error(text: &str) -> TraceError {
        read(text).pop().unwrap().unwrap_err()
    }

    #[test]
    fn both_formats_say_the_same() {
        let json =
            r#"{"timestamp": 7, "input_length": 900, "output_length": 1, "hash_ids": [0, 5]}"#;
        let wanted = Request { t_ms: 7, input_tokens: 900, ids: vec![0, 5] };
        for text in [json, "7 900 0 5", "\n7 900 0 5\r\n\n"] {
            let requests = read(text);
            assert_eq!(requests.len(), 1, "{text}");
            assert_eq!(*requests[0].as_ref().unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn compressed_lines_are_read_alike() {
        let packed = zstd::encode_all(&b"1 512 0\n2 1024 0 1\n"[..], 3).unwrap();
        let requests: Result<Vec<_>, _> =
            Trace::from_reader(io::Cursor::new(packed)).unwrap().collect();
        assert_eq!(requests.unwrap()[1].ids, [0, 1]);
    }

    #[test]
    fn the_sample_is_3000_requests() {
        let requests: Vec<_> = bundled().map(Result::unwrap).collect();
        assert_eq!(requests.len(), 3000);
        assert_eq!(requests.iter().map(|r| r.ids.len()).sum::<usize>(), 80_619);
        assert!(requests.iter().all(|r| r.ids[0] == 0));
    }

    #[test]
    fn an_error_names_its_line_and_ends_the_trace() {
        let requests = read("1 512 0\n\n2 oops 0\n3 512 0\n");
        assert_eq!(requests.len(), 2);
        let Err(TraceError::Malformed { line: 3, reason }) = &requests[1] else {
            panic!("{requests:?}")
        };
        assert_eq!(*reason, Malformed::Number { what: "input_tokens" });
    }

    #[test]
    fn an_id_with_two_parents_is_refused() {
        let error = last_error("1 512 0 1 2\n2 512 0 2\n");
        let TraceError::NotAChain { line: 2, reason } = error else { panic!("{error}") };
        assert_eq!(reason.id, 2);
        assert_eq!(reason.before, Lineage { parent: Some(1), depth: 2 });
        assert_eq!(reason.now, Lineage { parent: Some(0), depth: 1 });
        assert!(matches!(last_error("1 9 4 4"), TraceError::NotAChain { line: 1, .. }));
        assert!(matches!(last_error("1 9 4 5\n1 9 5"), TraceError::NotAChain { line: 2, .. }));
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let packed = zstd::encode_all(&b"1 512 0\n2 1024 0 1\n"[..], 3).unwrap();
        let cut = packed[..packed.len() - 4].to_vec();
        let last = Trace::from_reader(io::Cursor::new(cut)).unwrap().last();
        assert!(matches!(last, Some(Err(TraceError::Read { .. }))), "{last:?}");
    }

    #[test]
    fn an_endless_line_takes_no_endless_memory() {
        let endless = io::repeat(b'1');
        let mut trace = Trace::from_reader(endless).unwrap();
        let error = trace.next().unwrap().unwrap_err();
        let TraceError::Malformed { line: 1, reason: Malformed::TooLong } = error else {
            panic!("{error}")
        };
        assert!(trace.next().is_none());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Trace::open(Path::new("/no/such/trace")).unwrap_err().to_string();
        assert!(error.contains("/no/such/trace"), "{error}");
    }
}
