//! What a pod's containers need next, and what to say about them.
//!
//! Everything here is a pure function over plain data: the pod as the API has it, the record of
//! what runs, and the time. The node agent performs the actions and keeps the record; it decides
//! nothing. Start reading at [`plan::plan_pod`], then [`record`].
//!
//! Not here: processes, files, network, the API. Times and results are arguments.

pub mod admission;
pub mod downward;
pub mod env_file;
pub mod environment;
pub mod eviction;
pub mod expansion;
pub mod hostname;
pub mod hosts_file;
pub mod image_gc;
pub mod limits;
pub mod local_storage;
pub mod messages;
pub mod monotonic;
pub mod node_shutdown;
pub mod plan;
pub mod probes;
pub mod qos;
pub mod record;
pub mod resize;
pub mod resolv_conf;
pub mod restart;
pub mod restart_all;
pub mod service_env;
pub mod spec;
pub mod status;

mod backoff;
mod container_status;
mod image_change;
mod phase;
mod starting;
mod stopping;

pub use backoff::Backoff;
pub use monotonic::{Instant, Moment};
pub use plan::{Action, PodInput, PodPlan, StopCause, Waiting, plan_pod};
pub use record::{ContainerRecord, Dismissal, Exit, Instance, PodRecord};
