//! The pods of the node: their current views, their records on disk, and the messages to their workers.

pub(crate) mod adoption;
pub(crate) mod message;
pub(crate) mod pod_manager;
pub(crate) mod recovery;
