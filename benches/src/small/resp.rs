//! RESP, the words of Redis and Valkey.
//!
//! Only what a get and a put need: an error line ends the comparison, for it would look fast.

use std::io;

use larder_protocol::Key;

use super::dialect::{END_OF_LINE, Reply, first_line, length, object_behind, odd};

pub(super) fn encode_get(key: &Key, out: &mut Vec<u8>) {
    out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
    encode_bulk(key.as_bytes(), out);
}

pub(super) fn encode_get_all(keys: &[Key], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n$4\r\nMGET\r\n", keys.len() + 1).as_bytes());
    keys.iter().for_each(|key| encode_bulk(key.as_bytes(), out));
}

/// What stands before the object in a put; the end of a line stands behind it.
pub(super) fn encode_put_head(key: &Key, object_bytes: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
    encode_bulk(key.as_bytes(), out);
    encode_length(b'$', object_bytes, out);
}

/// What stands between the first `nth` objects of an answer and the next one.
pub(super) fn encode_before(nth: usize, keys: &[Key], object_bytes: usize, out: &mut Vec<u8>) {
    match (nth, keys.len()) {
        (0, 1) => {}
        (0, count) => encode_length(b'*', count, out),
        _ => out.extend_from_slice(END_OF_LINE),
    }
    encode_length(b'$', object_bytes, out);
}

fn encode_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    encode_length(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(END_OF_LINE);
}

fn encode_length(kind: u8, length: usize, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(length.to_string().as_bytes());
    out.extend_from_slice(END_OF_LINE);
}

pub(super) fn read(bytes: &[u8]) -> io::Result<Option<Reply<'_>>> {
    let Some(line) = first_line(bytes)? else { return Ok(None) };
    let line_bytes = line.len() + END_OF_LINE.len();
    match line.strip_prefix(b"$") {
        Some(b"-1") => Ok(Some(Reply { reply_bytes: line_bytes, object: None })),
        Some(digits) => object_behind(bytes, line_bytes, length(digits)?, END_OF_LINE),
        None => Err(odd(line)),
    }
}

pub(super) const STORED: &[u8] = b"+OK\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_the_protocol_says() {
        let (key, mut out) = (Key::try_from("abc").unwrap(), Vec::new());
        encode_get(&key, &mut out);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$3\r\nabc\r\n");
        out.clear();
        encode_put_head(&key, 5, &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\nabc\r\n$5\r\n");
        out.clear();
        encode_get_all(&[key, key], &mut out);
        assert_eq!(out, b"*3\r\n$4\r\nMGET\r\n$3\r\nabc\r\n$3\r\nabc\r\n");
    }

    #[test]
    fn a_reply_is_taken_only_when_it_is_whole() {
        // An object may hold what looks like the end of one.
        for (reply, object) in [
            (&b"$6\r\na\r\nb\r\n\r\n"[..], Some(&b"a\r\nb\r\n"[..])),
            (b"$0\r\n\r\n", Some(b"")),
            (b"$-1\r\n", None),
        ] {
            for cut in 0..reply.len() {
                assert_eq!(read(&reply[..cut]).unwrap(), None, "{cut} of {reply:?}");
            }
            let expected = Reply { reply_bytes: reply.len(), object };
            let followed = [reply, b"$1\r\nx"].concat();
            assert_eq!(read(&followed).unwrap(), Some(expected));
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for bytes in [
            &b"-ERR unknown command\r\n"[..],
            b"$2\r\nabc\r\n",
            b"$-2\r\n",
            b"$x\r\n",
            b"$99999999999\r\n",
            b"\r\n",
            &[b'$'; 600],
        ] {
            let error = read(bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }
}
