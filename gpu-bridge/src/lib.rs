//! Device memory to and from registered memory: layouts and copies.
