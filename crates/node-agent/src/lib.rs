//! The node agent: registers its node, runs the pods bound to it, reports what they do, serves
//! their logs and terminals.
//!
//! What a pod needs next is decided in `pod-lifecycle`; here it is done: one task per pod
//! ([`worker`]) that wakes up for a changed object, an event of the runtime, a probe's result or a
//! timer, never to look around. Containers live in their shims and outlive the agent; a new agent
//! finds them again ([`recovery`]).

mod agent;
mod answer_cache;
mod blocking;
mod clock;
mod config;
mod containers;
mod images;
mod kubelet_api;
mod limits;
mod node;
mod paths;
mod probes;
mod shared;
mod volumes;
mod worker;

pub use agent::left_pods::LeftPods;
pub use agent::{NodeAgent, run};
pub use config::{Config, Eviction, LogLimits, OnShutdown};
pub use kubelet_api::{BoxBody, BoxError, NodeService, decoders};
pub use pod_lifecycle::node::image_gc::Policy as ImageGcPolicy;
pub use pod_lifecycle::node::shutdown::{InvalidOrder, ShutdownOrder};
pub use pod_lifecycle::resources::admission::Policy as AdmissionPolicy;
pub use pod_lifecycle::resources::eviction::{InvalidThreshold, Thresholds};

/// An agent that cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container runtime does not open.
    #[error("open the container runtime")]
    Runtime(#[source] container_runtime::RuntimeError),
    /// A directory of the agent cannot be made or read.
    #[error("use the directory {}", path.display())]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The node object cannot be written.
    #[error("register node {node}")]
    Register {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}
