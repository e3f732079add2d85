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

pub(super) fn encode_put(key: &Key, object: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
    encode_bulk(key.as_bytes(), out);
    encode_bulk(object, out);
}

fn encode_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
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
        encode_put(&key, b"12345", &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\nabc\r\n$5\r\n12345\r\n");
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
