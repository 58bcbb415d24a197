//! Access to the API server: the objects that pods refer to, events about pods, and their statuses.

pub(crate) mod events;
pub(crate) mod known_status;
pub(crate) mod objects;
pub(crate) mod status_writer;
