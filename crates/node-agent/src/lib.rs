//! The node agent: registers its node, runs the pods bound to it, reports what they do, serves
//! their logs and terminals.
//!
//! What a pod needs next is decided in `pod-lifecycle`; here it is done: one task per pod
//! ([`worker`]) that wakes up for a changed object, an event of the runtime, a probe's result or a
//! timer, never to look around. Containers live in their shims and outlive the agent; a new agent
//! finds them again ([`recovery`]).

mod admission;
mod agent;
mod blocking;
mod clock;
mod config;
mod container_devices;
mod container_resources;
mod container_security;
mod container_spec;
mod disk_usage;
mod events;
mod eviction;
mod facts;
mod grpc_probe;
mod hooks;
mod http_probe;
mod image_gc;
mod images;
mod insecure_tls;
mod known_status;
mod kubelet_api;
mod layout;
mod left_pods;
mod limits;
mod logs;
mod node;
mod node_images;
mod pod_files;
mod pressure;
mod prober;
pub mod provisioner;
mod pull_turns;
mod recovery;
mod registry;
mod sources;
mod status_writer;
mod usage;
mod volumes;
mod worker;

pub use agent::{NodeAgent, run};
pub use config::{Config, Eviction, LogLimits, OnShutdown};
pub use kubelet_api::{BoxBody, BoxError, NodeService, decoders};
pub use left_pods::LeftPods;
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
