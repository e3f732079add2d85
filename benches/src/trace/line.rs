//! One line of a trace, in either format.
//!
//! Unknown fields of a JSON line are skipped; the words of a plain line are all numbers.

use serde::Deserialize;

use super::Request;

/// How the lines of a trace are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `{"timestamp": …, "input_length": …, "hash_ids": […]}`
    Mooncake,
    /// `t_ms input_tokens id0 id1 …`
    Plain,
}

/// Why a line is not a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It has more bytes than any request needs.
    #[error("longer than 1 MiB")]
    TooLong,
    /// It is not JSON, or lacks a field, or a field has the wrong type.
    #[error("not a request in JSON: {0}")]
    Json(String),
    /// It is not text.
    #[error("not UTF-8")]
    NotText,
    /// A word is no number, or does not fit.
    #[error("{what} is not a whole number in its range")]
    Number {
        /// Which word.
        what: &'static str,
    },
    /// A word is missing.
    #[error("{what} is missing")]
    Missing {
        /// Which word.
        what: &'static str,
    },
}

#[derive(Deserialize)]
struct Mooncake {
    timestamp: u64,
    input_length: u32,
    hash_ids: Vec<u64>,
}

impl Format {
    /// How `line`, the first of a trace, is written.
    pub(super) fn of(line: &[u8]) -> Self {
        if line.starts_with(b"{") { Self::Mooncake } else { Self::Plain }
    }

    pub(super) fn parse(self, line: &[u8]) -> Result<Request, Malformed> {
        let request = match self {
            Self::Mooncake => mooncake(line)?,
            Self::Plain => plain(line)?,
        };
        if request.ids.is_empty() {
            return Err(Malformed::Missing { what: "the first id" });
        }
        Ok(request)
    }
}

fn mooncake(line: &[u8]) -> Result<Request, Malformed> {
    let request: Mooncake =
        serde_json::from_slice(line).map_err(|error| Malformed::Json(error.to_string()))?;
    let Mooncake { timestamp: t_ms, input_length: input_tokens, hash_ids: ids } = request;
    Ok(Request { t_ms, input_tokens, ids })
}

fn plain(line: &[u8]) -> Result<Request, Malformed> {
    let line = std::str::from_utf8(line).map_err(|_| Malformed::NotText)?;
    let mut words = line.split_ascii_whitespace();
    let t_ms = number(words.next(), "t_ms")?;
    let input_tokens = u32::try_from(number(words.next(), "input_tokens")?)
        .map_err(|_| Malformed::Number { what: "input_tokens" })?;
    let ids = words.map(|word| number(Some(word), "an id")).collect::<Result<_, _>>()?;
    Ok(Request { t_ms, input_tokens, ids })
}

fn number(word: Option<&str>, what: &'static str) -> Result<u64, Malformed> {
    let word = word.ok_or(Malformed::Missing { what })?;
    word.parse().map_err(|_| Malformed::Number { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_request_say_why() {
        for (line, reason) in [
            ("x 1 0", Malformed::Number { what: "t_ms" }),
            ("1", Malformed::Missing { what: "input_tokens" }),
            ("1 2", Malformed::Missing { what: "the first id" }),
            ("1 4294967296 0", Malformed::Number { what: "input_tokens" }),
            ("1 2 0 -3", Malformed::Number { what: "an id" }),
            ("1 2 0 18446744073709551616", Malformed::Number { what: "an id" }),
            ("1 2 0.5", Malformed::Number { what: "an id" }),
        ] {
            assert_eq!(Format::of(line.as_bytes()).parse(line.as_bytes()), Err(reason), "{line}");
        }
        assert_eq!(Format::Plain.parse(b"1 2 \xff"), Err(Malformed::NotText));
    }

    #[test]
    fn json_that_is_no_request_is_refused() {
        for line in [
            "{",
            "{}",
            r#"{"timestamp": 1, "input_length": 2}"#,
            r#"{"timestamp": 1, "input_length": 2, "hash_ids": 3}"#,
            r#"{"timestamp": -1, "input_length": 2, "hash_ids": [3]}"#,
            r#"{"timestamp": 1, "input_length": 2, "hash_ids": ["3"]}"#,
            r#"{"timestamp": 1, "input_length": 2, "hash_ids": [3]} x"#,
        ] {
            let error = Format::of(line.as_bytes()).parse(line.as_bytes()).unwrap_err();
            assert!(matches!(error, Malformed::Json(_)), "{line}: {error}");
        }
        let empty = br#"{"timestamp": 1, "input_length": 2, "hash_ids": []}"#;
        let error = Format::of(empty).parse(empty).unwrap_err();
        assert_eq!(error, Malformed::Missing { what: "the first id" });
    }
}
