//! How fast bytes of a mapped region are copied and checked: `copy_speed [PIECE_BYTES [ROUNDS]]`.
//!
//! What a reader would get wrong: the source is far larger than any cache and read in turn, and so
//! is the destination, as with objects that were stored long ago. With bytes that are in a cache
//! everything is faster, and the order is another. The ways take turns, so that what else the host
//! does hits all of them; compare the medians of one run, never those of two.

use larder_protocol::checksum::Crc64;
use larder_transport::{MappedRegion, SharedMemory};
use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

const SOURCE_BYTES: usize = 1 << 30;
const DESTINATION_BYTES: usize = 64 << 20;
/// Memory that somebody cares for begins with a cache line.
const LINE_BYTES: usize = 64;
/// What is timed at once, at least.
const SAMPLE_BYTES: usize = 4 << 20;

type Way = fn(&MappedRegion, &[u8], u64, &mut [u8]) -> u64;

const WAYS: [(&str, Way); 4] = [
    ("memcpy, no check", |_, source, offset, into| {
        into.copy_from_slice(&source[offset as usize..][..into.len()]);
        0
    }),
    ("memcpy, then the check", |_, source, offset, into| {
        into.copy_from_slice(&source[offset as usize..][..into.len()]);
        checked(|crc| crc.update(into))
    }),
    ("copy_out, no check", |region, _, offset, into| {
        region.copy_out(offset, into, |_| ());
        0
    }),
    ("copy_out, CRC-64 checked", |region, _, offset, into| {
        checked(|crc| region.copy_out(offset, into, |step| crc.update(step)))
    }),
];

fn checked(show: impl FnOnce(&mut Crc64)) -> u64 {
    let mut crc = Crc64::new();
    show(&mut crc);
    crc.finish()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let piece_bytes: usize = arguments.next().map_or(Ok(1 << 20), |bytes| bytes.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(200), |rounds| rounds.parse())?;
    if piece_bytes == 0 || piece_bytes > DESTINATION_BYTES || rounds == 0 {
        return Err("a piece has 1 B to 64 MiB, and there is at least one round".into());
    }
    let mut source = SharedMemory::new(SOURCE_BYTES as u64)?;
    for (number, word) in source.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    }
    let fd = source.descriptor().try_clone_to_owned()?;
    let started = Instant::now();
    let region = MappedRegion::of_client(fd, source.bytes())?;
    let mapped = started.elapsed();
    region.populate(0, region.bytes());
    println!("1 GiB was mapped in {mapped:.1?}, populated in {:.1?}", started.elapsed() - mapped);

    let mut destination = vec![1; DESTINATION_BYTES + LINE_BYTES];
    let skip = destination.as_ptr().align_offset(LINE_BYTES);
    let destination = &mut destination[skip..][..DESTINATION_BYTES];
    let pieces = SAMPLE_BYTES.div_ceil(piece_bytes);
    let (mut from, mut to) = (0, 0);
    let mut seconds = WAYS.map(|_| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        for ((_, way), seconds) in WAYS.iter().zip(&mut seconds) {
            let started = Instant::now();
            for _ in 0..pieces {
                from = if from + 2 * piece_bytes > SOURCE_BYTES { 0 } else { from + piece_bytes };
                to = if to + 2 * piece_bytes > DESTINATION_BYTES { 0 } else { to + piece_bytes };
                let into = &mut destination[to..to + piece_bytes];
                black_box(way(&region, &source, from as u64, into));
            }
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    for ((name, _), seconds) in WAYS.iter().zip(&mut seconds) {
        seconds.sort_by(f64::total_cmp);
        let speed = |nth: usize| (pieces * piece_bytes) as f64 / seconds[nth] / 1e9;
        let (median, tenth) = (speed(rounds / 2), speed(rounds / 10));
        println!("{name:25} median {median:6.2} GB/s, 10th percentile {tenth:6.2} GB/s");
    }
    Ok(())
}
