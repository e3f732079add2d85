//! Every size and maximum of the protocol, and how they relate.
//!
//! A deployment may ask for less (see the node's configuration), never for more: both sides size
//! their memory by these names.

/// Bytes of every frame's header.
pub const HEADER_BYTES: usize = 64;
/// The oldest protocol version this code still speaks.
pub const VERSION_MIN: u8 = 1;
/// The newest protocol version this code speaks.
pub const VERSION_MAX: u8 = 1;

/// Longest key, in bytes. 36 are needed by vLLM; longer names are hashed by the caller.
pub const KEY_BYTES_MAX: usize = 64;
/// Longest user metadata of an object, in bytes.
pub const USER_META_BYTES_MAX: usize = 64;
/// Most tags of one object.
pub const TAGS_MAX: usize = 4;
/// Largest object, in bytes; larger ones are split by the client.
pub const OBJECT_BYTES_MAX: u32 = 64 << 20;
/// Most parts (layers, frames) of one object.
pub const PARTS_MAX: usize = 256;

/// Most keys of one `Match` or `Remove`.
pub const MATCH_KEYS_MAX: usize = 8192;
/// Most objects of one `Get` or `Put`.
pub const BATCH_OBJECTS_MAX: usize = 1024;
/// Most bytes of a frame's body, enough for a full `Match` and for a full `Put`; batches with many
/// remote pieces must be cut to fit.
pub const BODY_BYTES_MAX: u32 = 4 << 20;
/// Most bytes of a body before the peer has said `Hello`.
pub const HELLO_BODY_BYTES_MAX: u32 = 4 << 10;
/// Most payload bytes of one frame, either way.
pub const PAYLOAD_BYTES_MAX: u64 = 128 << 20;

/// Longest object that is sent inline where a lease was asked for, in bytes. A guess: below this a
/// lease and its release cost about as much as the copies that they save.
pub const INLINE_BYTES_MAX: u32 = 16 << 10;
/// Most regions that one side shares with the other on one connection. A guess: a node has one, a
/// client a few.
pub const SHARED_REGIONS_MAX: u32 = 16;
/// Longest region that one side shares with the other, in bytes.
pub const REGION_SHARED_BYTES_MAX: u64 = 1 << 40;
/// Most leases that one `Release` ends.
pub const RELEASES_MAX: usize = 4096;

/// Longest field of a namespace description, in bytes.
pub const NAMESPACE_FIELD_BYTES_MAX: usize = 256;
/// Longest encoded namespace description, in bytes.
pub const NAMESPACE_BYTES_MAX: usize = 2048;
/// Most namespaces that one connection may have open.
pub const HANDLES_MAX: usize = 256;
/// Longest credential in `Hello`, in bytes.
pub const CREDENTIAL_BYTES_MAX: usize = 1024;
/// Longest name a client gives itself in `Hello`, in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;

/// Longest path of a Unix socket, in bytes: what the kernel takes, less room for `.` and a shard.
pub const SOCKET_PATH_BYTES_MAX: usize = 100;

/// Most members of a view.
pub const MEMBERS_MAX: usize = 1024;
/// Most shards of one node.
pub const SHARDS_MAX: u16 = 256;
/// Longest address of a member, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 255;
/// Highest generation: a namespace that was brought there could never be bumped again.
pub const GENERATION_MAX: u64 = 1 << 62;
/// Longest deadline that a request may carry: an hour.
pub const DEADLINE_US_MAX: u32 = 3_600_000_000;

/// Largest encoding of one object of a `Put` whose payload is inline or shared: remote pieces come
/// on top.
pub const PUT_ITEM_BYTES_MAX: usize =
    1 + KEY_BYTES_MAX + 1 + USER_META_BYTES_MAX + 1 + 8 * TAGS_MAX + 2 + 8 * PARTS_MAX + 64;

const _: () = assert!(MATCH_KEYS_MAX * (KEY_BYTES_MAX + 1) + 64 <= BODY_BYTES_MAX as usize);
const _: () = assert!(BATCH_OBJECTS_MAX * PUT_ITEM_BYTES_MAX + 64 <= BODY_BYTES_MAX as usize);
const _: () = assert!(RELEASES_MAX * 12 + 64 <= BODY_BYTES_MAX as usize);
const _: () = assert!(PAYLOAD_BYTES_MAX >= OBJECT_BYTES_MAX as u64);
const _: () = assert!(HELLO_BODY_BYTES_MAX <= BODY_BYTES_MAX);
const _: () = assert!(NAMESPACE_BYTES_MAX <= HELLO_BODY_BYTES_MAX as usize);
const _: () =
    assert!(CREDENTIAL_BYTES_MAX + CLIENT_NAME_BYTES_MAX + 64 <= HELLO_BODY_BYTES_MAX as usize);
const _: () = assert!(MEMBERS_MAX * (ADDRESS_BYTES_MAX + 64) + 64 <= BODY_BYTES_MAX as usize);
const _: () = assert!(VERSION_MIN <= VERSION_MAX && VERSION_MIN > 0);
const _: () = assert!(KEY_BYTES_MAX <= u8::MAX as usize && USER_META_BYTES_MAX <= u8::MAX as usize);
