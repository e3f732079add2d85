//! A worker's connection to another server: the best that a blocking socket gives its user.
//!
//! One request asks for all keys, and the answer is read straight into the caller's memory: as all
//! lengths are known, so is every byte that stands around the objects, and what came there is
//! compared with it. An answer that is anything else, or shorter, is an error.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};

use larder_protocol::Key;

use super::source::Offer;
use crate::endpoint::{Endpoint, Socket};
use crate::small::{END_OF_LINE, Text, odd};

#[derive(Debug)]
pub(super) struct RivalLink {
    text: Text,
    endpoint: Endpoint,
    /// None after an error: what is still under way would be taken for the next answer.
    socket: Option<Socket>,
    request: Vec<u8>,
    /// What must stand around the objects.
    expected: Vec<u8>,
    /// Where in it objects are.
    cuts: Vec<usize>,
    /// What stood there.
    found: Vec<u8>,
}

impl RivalLink {
    pub(super) fn connect(text: Text, endpoint: &Endpoint) -> io::Result<Self> {
        let socket = Some(endpoint.connect()?);
        let endpoint = endpoint.clone();
        let (request, expected, found) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { text, endpoint, socket, request, expected, cuts: Vec::new(), found })
    }

    /// Reads the objects of `keys` into `into`, which is as long as all of them.
    pub(super) fn get(&mut self, keys: &[Key], into: &mut [u8]) -> io::Result<()> {
        let object_bytes = into.len() / keys.len();
        self.request.clear();
        self.text.encode_get_all(keys, &mut self.request);
        self.expect(keys, object_bytes);
        let mut socket = self.socket()?;
        socket.write_all(&self.request)?;
        let mut places = Vec::with_capacity(2 * keys.len() + 1);
        let (mut around, mut taken) = (&mut self.found[..], 0);
        for (cut, object) in self.cuts.iter().zip(into.chunks_exact_mut(object_bytes)) {
            let (before, rest) = around.split_at_mut(cut - taken);
            places.extend([IoSliceMut::new(before), IoSliceMut::new(object)]);
            (around, taken) = (rest, *cut);
        }
        places.push(IoSliceMut::new(around));
        let read = socket.read_all_vectored(&mut places);
        if let Err(error) = read {
            let why = format!("{error}, after {}", odd(&self.found));
            return Err(io::Error::new(error.kind(), why));
        }
        if self.found != self.expected {
            return Err(odd(&self.found));
        }
        self.socket = Some(socket);
        Ok(())
    }

    pub(super) fn put(&mut self, offer: &Offer<'_>) -> io::Result<()> {
        self.request.clear();
        self.text.encode_put_head(&offer.key, offer.bytes.len(), &mut self.request);
        let mut socket = self.socket()?;
        let mut pieces = [&self.request, offer.bytes, END_OF_LINE].map(IoSlice::new);
        socket.write_all_vectored(&mut pieces)?;
        let stored = self.text.stored();
        self.found.clear();
        self.found.resize(stored.len(), 0);
        socket.read_exact(&mut self.found)?;
        if self.found != stored {
            return Err(odd(&self.found));
        }
        self.socket = Some(socket);
        Ok(())
    }

    fn expect(&mut self, keys: &[Key], object_bytes: usize) {
        self.expected.clear();
        self.cuts.clear();
        for nth in 0..keys.len() {
            self.text.encode_before(nth, keys, object_bytes, &mut self.expected);
            self.cuts.push(self.expected.len());
        }
        self.expected.extend_from_slice(self.text.end());
        self.found.clear();
        self.found.resize(self.expected.len(), 0);
    }

    fn socket(&mut self) -> io::Result<Socket> {
        self.socket.take().map_or_else(|| self.endpoint.connect(), Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::names::short_key_of;

    /// A server that says `answer` to every request, in pieces of 7 bytes.
    fn server(folder: &tempfile::TempDir, answer: Vec<u8>) -> Endpoint {
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                while socket.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
                    answer.chunks(7).for_each(|piece| socket.write_all(piece).unwrap());
                }
            }
        });
        Endpoint::Unix(path)
    }

    fn answer(text: Text, keys: &[Key]) -> Vec<u8> {
        let objects = [b"first bytes", b"other bytes"].map(|object| object.to_vec());
        let [a, b] = objects.map(|object| String::from_utf8(object).unwrap());
        let [x, y] =
            [keys[0], keys[1]].map(|key| String::from_utf8(key.as_bytes().into()).unwrap());
        match text {
            Text::Resp => format!("*2\r\n$11\r\n{a}\r\n$11\r\n{b}\r\n"),
            _ => format!("VALUE {x} 0 11\r\n{a}\r\nVALUE {y} 0 11\r\n{b}\r\nEND\r\n"),
        }
        .into_bytes()
    }

    #[test]
    fn objects_land_one_behind_the_other() {
        let keys = [short_key_of(1), short_key_of(2)];
        for text in [Text::Resp, Text::Memcached] {
            let folder = tempfile::tempdir().unwrap();
            let endpoint = server(&folder, answer(text, &keys));
            let mut link = RivalLink::connect(text, &endpoint).unwrap();
            for _ in 0..3 {
                let mut into = [0; 22];
                link.get(&keys, &mut into).unwrap();
                assert_eq!(&into, b"first bytesother bytes");
            }
        }
    }

    #[test]
    fn an_answer_that_is_not_as_asked_is_an_error_and_not_mixed_with_the_next() {
        let keys = [short_key_of(1), short_key_of(2)];
        let swapped = [keys[1], keys[0]];
        let folder = tempfile::tempdir().unwrap();
        let endpoint = server(&folder, answer(Text::Memcached, &keys));
        let mut link = RivalLink::connect(Text::Memcached, &endpoint).unwrap();
        let error = link.get(&swapped, &mut [0; 22]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        link.get(&keys, &mut [0; 22]).unwrap();
        let offer = Offer { key: keys[0], bytes: b"x" };
        assert!(link.put(&offer).unwrap_err().to_string().contains("VALUE"));
    }
}
