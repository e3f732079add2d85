//! Docks of a device of host memory. Over a fabric, whole, they are tested with the ferry.

use larder_protocol::checksum::crc64;
use larder_transport::rdma::simulated::{Faults, SimulatedFabric};

use super::*;
use crate::device::{DeviceRange, Direction};
use crate::host::HostDevice;

fn fabric() -> AnyFabric {
    AnyFabric::Simulated(SimulatedFabric::new(1, Faults::default()))
}

#[test]
fn dock_is_not_given_out_while_the_device_has_it_and_copies_wait_for_landings() {
    let device = HostDevice;
    let mut dock = Dock::new(device, 8192, &fabric()).unwrap();
    let (soon, memory) = (Instant::now(), device.allocate(100).unwrap());
    let landing = dock.take(Landing::from_vec(vec![0; 100]), 8092);
    assert!(landing.is_aboard());
    let used = || dock_uses(&mut dock, &memory);
    assert!(panics(used), "a landing is away");
    drop(landing);
    dock_uses(&mut dock, &memory);
    assert!(!dock.settle_by(soon).unwrap(), "the device is late");
    assert!(panics(|| drop(dock.take(Landing::from_vec(vec![0; 1]), 0))), "the device has it");
    let later = soon + std::time::Duration::from_secs(5);
    assert!(dock.settle_by(later).unwrap());
    assert!(panics(|| drop(dock.take(Landing::from_vec(vec![0; 101]), 8092))), "it is too long");
    assert_eq!(
        dock.checksums(&[5..50, 0..0], later).unwrap().unwrap(),
        [crc64(&[0; 45]), crc64(&[])]
    );
    assert!(dock.checksums(&[0..9, 8000..8193], later).is_err());
}

fn dock_uses(dock: &mut Dock<HostDevice>, memory: &<HostDevice as Device>::Memory) {
    let mut stream = HostDevice.stream().unwrap();
    HostDevice.keep(&mut stream, Box::new(())).unwrap();
    let copied = dock.copy(&mut stream, |stream, from| {
        let piece = DeviceRange { memory, offset: 0, bytes: 100 }.placed(from, 0);
        HostDevice.submit_pieces(stream, Direction::ToDevice, &[piece])
    });
    copied.unwrap();
    std::mem::forget(stream);
}

fn panics(f: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err()
}

#[test]
fn dock_that_either_side_refuses_is_none() {
    let fabric = SimulatedFabric::new(1, Faults::default());
    let any = AnyFabric::Simulated(fabric.clone());
    assert!(matches!(Dock::new(HostDevice, 0, &any), Err(DockError::Device(_))));
    fabric.refuse_memory();
    assert!(matches!(Dock::new(HostDevice, 4096, &any), Err(DockError::Fabric(_))));
}
