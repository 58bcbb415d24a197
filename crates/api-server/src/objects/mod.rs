
pub(crate) mod allocations;
pub(crate) mod definitions;
pub mod encryption;
pub(crate) mod field_managers;
pub(crate) mod field_text_cache;
pub(crate) mod metadata;
pub(crate) mod namespace_share;
pub(crate) mod object_write;
pub(crate) mod quota;
pub(crate) mod recent_values;
pub(crate) mod remove;
pub mod rewrite;
pub(crate) mod service_address;
pub(crate) mod storage;
pub(crate) mod watch_event_cache;
pub(crate) mod write_request;
