//! Streams of `BTRFS_IOC_SEND`: a whole snapshot, or the difference of two snapshots, as commands.
//!
//! `reader` decodes streams of protocol version 1 (`fs/btrfs/send.h` of Linux) and uses no file. [`receive`]
//! executes the commands below one directory and never outside of it, because the stream may come from a node
//! under the control of an attacker.

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
