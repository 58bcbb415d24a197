//! Files on file systems with copy-on-write, such as btrfs.

use std::fs::File;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Disables copy-on-write for a new, empty file, so that a write to allocated blocks needs no further space. Other file
/// systems refuse the flag, and do not need it.
pub fn disable(file: &File) {
    if let Ok(flags) = ioctl_getflags(file) {
        ioctl_setflags(file, flags | IFlags::NOCOW).ok();
    }
}
