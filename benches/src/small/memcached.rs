//! The text protocol of memcached: `get` and `set`, one key for each, and its newer `mg`.
//!
//! memcached sends the answer to a `get` at once, with a call of the system for each, but collects
//! those to `mg` as long as there are requests to read. Only the first repeats its key.

use std::io;

use larder_protocol::Key;

use super::dialect::{END_OF_LINE, Reply, first_line, length, object_behind, odd};

pub(super) fn encode_get(key: &Key, out: &mut Vec<u8>) {
    out.extend_from_slice(b"get ");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(END_OF_LINE);
}

/// `v` wants the object and nothing else.
pub(super) fn encode_meta_get(key: &Key, out: &mut Vec<u8>) {
    out.extend_from_slice(b"mg ");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b" v\r\n");
}

/// One request, whose objects it sends together.
pub(super) fn encode_get_all(keys: &[Key], out: &mut Vec<u8>) {
    out.extend_from_slice(b"get");
    for key in keys {
        out.push(b' ');
        out.extend_from_slice(key.as_bytes());
    }
    out.extend_from_slice(END_OF_LINE);
}

/// What stands before the object in a put; the end of a line stands behind it.
pub(super) fn encode_put_head(key: &Key, object_bytes: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"set ");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(format!(" 0 0 {object_bytes}\r\n").as_bytes());
}

/// What stands between the first `nth` objects of an answer and the next one.
pub(super) fn encode_before(nth: usize, keys: &[Key], object_bytes: usize, out: &mut Vec<u8>) {
    if nth > 0 {
        out.extend_from_slice(END_OF_LINE);
    }
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(keys[nth].as_bytes());
    out.extend_from_slice(format!(" 0 {object_bytes}\r\n").as_bytes());
}

pub(super) fn read<'a>(key: &Key, bytes: &'a [u8]) -> io::Result<Option<Reply<'a>>> {
    let Some(line) = first_line(bytes)? else { return Ok(None) };
    let line_bytes = line.len() + END_OF_LINE.len();
    if line == b"END" {
        return Ok(Some(Reply { reply_bytes: line_bytes, object: None }));
    }
    let rest = line.strip_prefix(b"VALUE ").and_then(|rest| rest.strip_prefix(key.as_bytes()));
    // No flags were stored.
    let digits = rest.and_then(|rest| rest.strip_prefix(b" 0 ")).ok_or_else(|| odd(line))?;
    object_behind(bytes, line_bytes, length(digits)?, END)
}

pub(super) fn read_meta(bytes: &[u8]) -> io::Result<Option<Reply<'_>>> {
    let Some(line) = first_line(bytes)? else { return Ok(None) };
    let line_bytes = line.len() + END_OF_LINE.len();
    match line.strip_prefix(b"VA ") {
        Some(digits) => object_behind(bytes, line_bytes, length(digits)?, END_OF_LINE),
        None if line == b"EN" => Ok(Some(Reply { reply_bytes: line_bytes, object: None })),
        None => Err(odd(line)),
    }
}

/// What stands behind the last object of an answer.
pub(super) const END: &[u8] = b"\r\nEND\r\n";
pub(super) const STORED: &[u8] = b"STORED\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::try_from("abc").unwrap()
    }

    #[test]
    fn requests_are_as_the_protocol_says() {
        let mut out = Vec::new();
        encode_get(&key(), &mut out);
        encode_meta_get(&key(), &mut out);
        encode_put_head(&key(), 5, &mut out);
        encode_get_all(&[key(), key()], &mut out);
        assert_eq!(out, b"get abc\r\nmg abc v\r\nset abc 0 0 5\r\nget abc abc\r\n");
    }

    #[test]
    fn a_reply_is_taken_only_when_it_is_whole() {
        for (reply, object) in [
            (&b"VALUE abc 0 5\r\nEND\r\n\r\nEND\r\n"[..], Some(&b"END\r\n"[..])),
            (b"VALUE abc 0 0\r\n\r\nEND\r\n", Some(b"")),
            (b"END\r\n", None),
        ] {
            for cut in 0..reply.len() {
                assert_eq!(read(&key(), &reply[..cut]).unwrap(), None, "{cut} of {reply:?}");
            }
            let expected = Reply { reply_bytes: reply.len(), object };
            let followed = [reply, b"VALUE"].concat();
            assert_eq!(read(&key(), &followed).unwrap(), Some(expected));
        }
    }

    #[test]
    fn a_meta_reply_is_taken_only_when_it_is_whole() {
        for (reply, object) in
            [(&b"VA 4\r\nEN\r\n\r\n"[..], Some(&b"EN\r\n"[..])), (b"EN\r\n", None)]
        {
            for cut in 0..reply.len() {
                assert_eq!(read_meta(&reply[..cut]).unwrap(), None, "{cut} of {reply:?}");
            }
            let expected = Reply { reply_bytes: reply.len(), object };
            let followed = [reply, b"VA 1"].concat();
            assert_eq!(read_meta(&followed).unwrap(), Some(expected));
        }
        for bytes in [&b"VA 1\r\nxy\r\n"[..], b"HD\r\n", b"VA x\r\n", b"ERROR\r\n"] {
            let error = read_meta(bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_reply_to_this_key_is_an_error() {
        for bytes in [
            &b"ERROR\r\n"[..],
            b"SERVER_ERROR out of memory\r\n",
            b"VALUE abd 0 1\r\nx\r\nEND\r\n",
            b"VALUE abc 0 1\r\nxy\r\nEND\r\n",
            b"VALUE abc 0 -1\r\n",
            b"VALUE abc\r\n",
        ] {
            let error = read(&key(), bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }
}
