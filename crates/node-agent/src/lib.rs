//! The node agent: registers its node, runs the pods bound to it, reports their status, serves their logs
//! and terminals.
//!
//! `pod-lifecycle` plans; the agent executes: one task per pod ([`worker`]) that waits for a changed
//! object, an event of the runtime, a probe's result or a timer, and never polls. Containers run under
//! their shims and survive the agent; a new agent adopts the containers ([`recovery`]).

mod agent;
mod api;
mod clock;
mod config;
mod containers;
mod csi_volumes;
mod devices;
mod error;
mod images;
mod kubelet_api;
mod limits;
mod machine;
mod node;
mod node_context;
mod paths;
mod pods;
mod probes;
mod resource_limits;
mod response_cache;
mod volumes;
mod worker;

pub use agent::left_pods::LeftPods;
pub use agent::{NodeAgent, run};
pub use api::is_away;
pub use config::{
    Config, Eviction, KubeletApi, LogLimits, MoveStep, OnShutdown, ServingCertificate, VolumeMoves,
};
pub use error::{Error, KubeletApiError};
pub use kubelet_api::{BoxBody, BoxError, NodeService, decoders};
pub use machine::machine_info::MachineInfo;
pub use node::new_node::NewNode;
pub use node::watchdog::{Watchdog, WatchdogError};
pub use node_lease::LeaseLength;
pub use pod_lifecycle::node::image_gc::Policy as ImageGcPolicy;
pub use pod_lifecycle::node::shutdown::{InvalidShutdownOrder, ShutdownOrder};
pub use pod_lifecycle::resources::admission::Policy as AdmissionPolicy;
pub use pod_lifecycle::resources::eviction::{InvalidThreshold, Thresholds};
