//! Objects layer by layer, so that a model starts on the first while the others are on their way.
//!
//! What a reader would get wrong: this is a batch for each layer, not for each object. Layers of
//! thousands of tokens are needed together, and a batch for each of both would cost more to submit
//! than to move.

use crate::device::{Batch, Device, DeviceError, Direction, Placed};
use crate::layout::Layout;

/// A plan for each layer.
#[derive(Debug, Clone)]
pub struct Layered<D: Device> {
    device: D,
    /// With where in an object its layer begins.
    plans: Vec<(u64, D::Learnt)>,
}

impl<D: Device> Layered<D> {
    /// Plans for every layer of objects of `object_pages` pages.
    ///
    /// # Errors
    /// [`DeviceError::Layout`] as [`Layout::plan`]; what the device says.
    pub fn new(device: D, layout: &Layout, object_pages: u32) -> Result<Self, DeviceError> {
        let learn = |layer| {
            let plan = layout.plan(object_pages, layer..layer + 1)?;
            Ok((plan.object_range().start, device.learn(plan)?))
        };
        let plans = (0..layout.layers()).map(learn).collect::<Result<_, DeviceError>>()?;
        Ok(Self { device, plans })
    }

    /// Queues whole objects, each at its offset, and answers a point behind each layer.
    ///
    /// # Errors
    /// As [`Device::submit`]; layers before the one that failed are under way.
    pub fn submit(
        &self,
        stream: &mut D::Stream,
        direction: Direction,
        memory: &D::Memory,
        objects: &[Placed<'_, D>],
    ) -> Result<Vec<D::Event>, DeviceError> {
        let mut parts = objects.to_vec();
        let mut events = Vec::with_capacity(self.plans.len());
        for (start, plan) in &self.plans {
            for (part, object) in parts.iter_mut().zip(objects) {
                part.offset = object.offset + start;
            }
            let batch = Batch { direction, memory, plan, objects: &parts };
            self.device.submit(stream, &batch)?;
            events.push(self.device.record(stream)?);
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;
    use std::sync::Arc;

    use super::*;
    use crate::host::HostDevice;
    use crate::host_range::{Access, HostRange};
    use crate::layout::{Order, PagedCache, Shape};

    #[test]
    fn a_layer_is_there_when_its_event_has_happened_and_the_next_is_not() {
        let device = HostDevice;
        let shape = Shape { layers: 3, planes: 2, page_tokens: 2, heads: 2, head_bytes: 4 };
        let cache = PagedCache::dense(shape, 4, Order::PAGE_FIRST_NHD).unwrap();
        let memory = device.allocate(cache.bytes().unwrap()).unwrap();
        let layout = Layout::new(cache, Order::PLANES_PAGES_NHD).unwrap();
        let object_bytes = layout.object_bytes(2);
        let mut objects: Vec<u8> = (0..2 * object_bytes).map(|n| n as u8 | 1).collect();
        let base = NonNull::new(objects.as_mut_ptr()).unwrap();
        let bytes = objects.len() as u64;
        // SAFETY: the vector outlives the stream, and nobody writes it.
        let range = unsafe { HostRange::from_raw(base, bytes, Access::ReadOnly, Arc::new(())) };
        let pinned = device.pin(range).unwrap();
        let mut stream = device.stream().unwrap();
        let placed = [(0, &[3, 0]), (object_bytes, &[1, 2])].map(|(offset, pages)| Placed {
            pinned: &pinned,
            offset,
            pages,
        });
        let layered = Layered::new(device, &layout, 2).unwrap();
        let to = Direction::ToDevice;
        let events = layered.submit(&mut stream, to, &memory, &placed).unwrap();
        assert_eq!(events.len(), 3);
        for (layer, event) in (0..3).zip(&events) {
            device.wait(event).unwrap();
            for (object, placed) in [0, object_bytes as usize].into_iter().zip(&placed) {
                for other in 0..3 {
                    let expected = |piece: crate::pieces::Piece| {
                        let from = object + piece.object_offset as usize;
                        let to = piece.device_offset as usize;
                        let bytes = piece.bytes as usize;
                        memory.bytes()[to..to + bytes] == objects[from..from + bytes]
                    };
                    let mut pieces = layout.pieces(placed.pages, other..other + 1).unwrap();
                    assert_eq!(pieces.all(expected), other <= layer, "{other} after {layer}");
                }
            }
        }
    }
}
