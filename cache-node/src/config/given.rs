//! A value as somebody gave it: as text, whether it came from the command line or from the file.
//!
//! It is not parsed where it is read, so that both sources have one grammar and one error message.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// A value that nobody has looked at yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given(pub(super) String);

impl From<String> for Given {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar)
    }
}

struct Scalar;

impl<'de> Visitor<'de> for Scalar {
    type Value = Given;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a whole number, true, false or an array of strings")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Given, E> {
        Ok(Given(value.to_owned()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Given, E> {
        Ok(Given(value.to_string()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Given, E> {
        Ok(Given(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Given, A::Error> {
        let mut texts: Vec<String> = Vec::new();
        while let Some(text) = items.next_element()? {
            texts.push(text);
        }
        Ok(Given(texts.join(",")))
    }
}
