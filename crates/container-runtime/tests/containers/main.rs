//! Real containers on a real kernel: these tests need root and Debian's busybox-static.

mod isolation;
mod lifecycle;
mod recovery;
mod sessions;
mod world;
