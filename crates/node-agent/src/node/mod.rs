//! The node: its Node object and Lease, properties of the machine, resource usage, pressure and garbage
//! collection.

pub(crate) mod disk_collector;
pub(crate) mod eviction;
pub(crate) mod image_gc;
pub(crate) mod image_list;
pub(crate) mod lease;
pub(crate) mod new_node;
pub(crate) mod node_status;
pub(crate) mod registration;
pub(crate) mod stats_collector;
pub(crate) mod watchdog;
