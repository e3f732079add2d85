//! Whether every byte is where it belongs, and no other was touched.
//!
//! What is expected is made from the layout by walking it piece by piece, not from the plan that
//! the device follows; memory that is written to is poisoned first, with other bytes each time.

use larder_gpu_bridge::{Bay, Device, DeviceError, Direction};

use crate::gpu::cases::{Case, some_pages};
use crate::random::Random;

/// The host's and the device's side of one case, with room for all that is looked at.
#[derive(Debug)]
pub struct Sides<D: Device> {
    /// The cache.
    pub memory: D::Memory,
    /// The objects, one behind the other.
    pub objects: Bay<D>,
    /// What becomes of the whole cache.
    image: Bay<D>,
    whole: D::Learnt,
    expected: Vec<u8>,
}

impl<D: Device> Sides<D> {
    /// For cases of at most `cache_bytes` bytes, and objects of `objects_bytes` in all.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(device: &D, cache_bytes: u64, objects_bytes: u64) -> Result<Self, DeviceError> {
        let plain = Case::plain(cache_bytes)?;
        Ok(Self {
            memory: device.allocate(cache_bytes)?,
            objects: Bay::new(device.clone(), objects_bytes)?,
            image: Bay::new(device.clone(), cache_bytes)?,
            whole: device.learn(plain.plan(1, 0..1)?)?,
            expected: vec![0; cache_bytes as usize],
        })
    }

    /// Moves `count` objects with fresh bytes to random pages, or back, and looks at every byte of
    /// both sides. The number of the first wrong one, if there is one.
    ///
    /// # Errors
    /// What the device says.
    pub fn verify(
        &mut self,
        device: &D,
        case: &Case,
        direction: Direction,
        count: usize,
        random: &mut Random,
    ) -> Result<Option<usize>, DeviceError> {
        let layout = &case.layout;
        let object_bytes = layout.object_bytes(1) as usize;
        let page_count = (case.cache_bytes / layout.object_bytes(1)) as u32;
        let pages = some_pages(random, count, page_count);
        let plan = device.learn(layout.plan(1, 0..layout.layers())?)?;
        let mut stream = device.stream()?;
        // Both sides get bytes of their own, so a copy the wrong way shows too.
        fill(self.image.bytes_mut()?, random);
        fill(self.objects.bytes_mut()?, random);
        let all: [(u64, &[u32]); 1] = [(0, &[0])];
        let (to, from) = (Direction::ToDevice, Direction::FromDevice);
        self.image.submit(&mut stream, to, &self.memory, &self.whole, &all)?;
        let expected = &mut self.expected[..];
        expected.copy_from_slice(&self.image.bytes()?[..expected.len()]);
        let mut objects_expected = self.objects.bytes()?.to_vec();
        for (number, page) in pages.iter().enumerate() {
            for piece in layout.pieces(std::slice::from_ref(page), 0..layout.layers())? {
                let at = number * object_bytes + piece.object_offset as usize;
                let object = at..at + piece.bytes as usize;
                let at = piece.device_offset as usize;
                let cache = at..at + piece.bytes as usize;
                match direction {
                    to if to == from => objects_expected[object].copy_from_slice(&expected[cache]),
                    _ => expected[cache].copy_from_slice(&objects_expected[object]),
                }
            }
        }
        let placed = placed(&pages, object_bytes as u64);
        self.objects.through(device);
        self.objects.submit(&mut stream, direction, &self.memory, &plan, &placed)?;
        let objects_right = first_wrong(self.objects.bytes()?, &objects_expected);
        self.image.bytes_mut()?.fill(POISON);
        self.image.submit(&mut stream, from, &self.memory, &self.whole, &all)?;
        let cache_right = first_wrong(self.image.bytes()?, expected);
        Ok(objects_right.or(cache_right))
    }
}

/// Objects one behind the other, one a page.
pub fn placed(pages: &[u32], object_bytes: u64) -> Vec<(u64, &[u32])> {
    pages.chunks(1).zip(0..).map(|(page, number)| (number * object_bytes, page)).collect()
}

fn first_wrong(found: &[u8], expected: &[u8]) -> Option<usize> {
    // Whole pieces are compared at the speed of memory.
    let wrong = found
        .chunks(4096)
        .zip(expected.chunks(4096))
        .position(|(found, expected)| found[..expected.len()] != *expected);
    wrong.map(|chunk| chunk * 4096)
}

/// Fills with bytes that were not there before.
pub fn fill(bytes: &mut [u8], random: &mut Random) {
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&random.next().to_le_bytes());
    }
}

const POISON: u8 = 0xee;

#[cfg(test)]
mod tests {
    use larder_gpu_bridge::HostDevice;

    use super::*;

    #[test]
    fn every_case_is_right_on_the_host_and_a_wrong_byte_is_found() {
        let (device, mut random) = (HostDevice, Random::new(1));
        let mut sides = Sides::new(&device, 4 * (2 << 20), 2 * (2 << 20)).unwrap();
        for case in Case::all(4).unwrap() {
            for direction in [Direction::ToDevice, Direction::FromDevice] {
                let wrong = sides.verify(&device, &case, direction, 2, &mut random).unwrap();
                assert_eq!(wrong, None, "{} {direction:?}", case.name);
            }
        }
        let mut bytes = vec![7; 10_000];
        assert_eq!(first_wrong(&bytes, &[7; 9_999]), None);
        bytes[9_998] = 8;
        assert_eq!(first_wrong(&bytes, &[7; 9_999]), Some(8192));
    }
}
