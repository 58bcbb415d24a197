//! Real containers on a real kernel: these tests need root and Debian's busybox, static or not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod devices;
mod harness;
mod host;
mod images;
mod isolation;
mod leases;
mod lifecycle;
mod mounts;
mod odd_images;
mod recovery;
mod sessions;
mod user_namespaces;
