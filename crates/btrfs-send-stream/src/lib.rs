//! Streams of `BTRFS_IOC_SEND`: the difference of two snapshots, or all of one, as commands.
//!
//! `reader` decodes the stream of protocol version 1 (`fs/btrfs/send.h` of Linux) and touches no file.
//! [`receive`] carries the commands out below one directory, which it never leaves: the stream may come
//! from a node that was taken over.

mod checksum;
mod command;
pub mod decoders;
mod path;
mod reader;
mod receive;
#[cfg(test)]
mod written;

pub use command::Uuid;
pub use reader::StreamError;
pub use receive::{Base, ReceiveError, receive};
