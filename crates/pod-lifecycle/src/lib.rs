//! The lifecycle of a pod on its node: the next actions for its containers, and its status.
//!
//! All functions are pure: their inputs are the pod's API object, the record of its containers, and the
//! time. The node agent performs the actions and stores the record, but makes no decision. Start with
//! [`plan::plan_pod`], then read [`record`].
//!
//! This crate does not access processes, files, the network or the API. Times and results are arguments.

pub mod diagnosis;
pub mod environment;
mod identity;
mod input;
pub mod limits;
pub mod messages;
pub mod monotonic;
pub mod node;
pub mod plan;
pub mod record;
pub mod resources;
pub mod restart_policy;
pub mod spec;
pub mod status;

pub use identity::PodIdentity;
pub use input::{PodConfirmation, PodInput};
pub use monotonic::{Instant, Moment};
pub use plan::{LifecycleAction, PodPlan, Waiting, plan_pod};
pub use record::backoff::{Backoff, doubled};
pub use record::{ContainerRecord, Exit, Instance, PodFailure, PodRecord, StopCause};
