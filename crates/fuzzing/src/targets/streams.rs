//! Volume streams from another node.

use btrfs_send_stream::decoders;

use super::Target;

pub const BTRFS: Target = Target {
    name: "btrfs-stream",
    seeds: &[
        b"btrfs-stream\0\x01\0\0\0\0\0\0\0\x15\0\0\0\0\0",
        b"\x02\0\x0f\0\x01\0a\x01\0\x10\0abcdefghijklmnop\x14\0\x10\0abcdefghijklmnop",
        b"\x03\0\x0f\0\x0a\0o257-7-0/a\x03\0\x08\0\x01\x01\0\0\0\0\0\0",
        b"\x08\0\x0f\0\x01\0a\x11\0\x04\0../b",
        b"\x0d\0\x0f\0\x01\0a\x0d\0\x06\0user.a\x0e\0\x01\0b",
        b"\x0f\0\x0f\0\x03\0a/b\x12\0\x08\0\0\0\0\0\0\0\0\0\x13\0\x04\0data",
        b"\x13\0\x0f\0\0\0\x06\0\x08\0\x01\0\0\0\0\0\0\0\x07\0\x08\0\x01\0\0\0\0\0\0\0",
        b"\x14\0\x0f\0\0\0\x0b\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0\0\x0a\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ],
    words: &["btrfs-stream", "..", "/", "\0", "\u{f}\0", "\u{10}\0"],
    run: |bytes| {
        decoders::stream(bytes).ok();
        decoders::command(bytes).ok();
    },
};
