//! Files on file systems that copy on write, such as btrfs.

use std::fs::File;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Turns copying off for a new, empty file, so that a write to blocks that it has needs no space. Other file systems refuse
/// the flag, and need none.
pub fn disable(file: &File) {
    if let Ok(flags) = ioctl_getflags(file) {
        ioctl_setflags(file, flags | IFlags::NOCOW).ok();
    }
}
