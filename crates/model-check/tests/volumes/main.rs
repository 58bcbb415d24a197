//! The planners of volumes in separate models: attachments, moves, and replication to a second node.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attach_detach;
mod volume_move;
mod volume_replication;
