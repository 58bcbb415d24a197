use std::io;

use pod_lifecycle::environment::hostname::HostnameTooLong;
use service_routing::HostPort;
use thiserror::Error;

use super::security_context::UnknownHandler;
use crate::api::object_error::ApiObjectError;

/// A sandbox, or its network, could not be created or removed.
#[derive(Debug, Error)]
pub enum SandboxError {
    #[error(transparent)]
    RuntimeClass(ApiObjectError),
    #[error(transparent)]
    UnknownHandler(#[from] UnknownHandler),
    #[error(transparent)]
    Runtime(#[from] container_runtime::RuntimeError),
    #[error(transparent)]
    Names(#[from] NamesError),
    #[error("the API server does not answer")]
    NoResponse,
    #[error("read the pod again: {0}")]
    PodNotRead(Box<kube_api_client::Error>),
    #[error("the pod is no longer bound to this node")]
    NotBound,
    #[error("set up the pod's network: {0}")]
    Network(pod_network::Error),
    #[error("set up the pod's network: host port {} ({}) is in use by a program of the node", .0.port, .0.protocol)]
    PortInUse(HostPort),
    #[error("write the pod's files: {0}")]
    Files(io::Error),
    #[error(transparent)]
    Detach(pod_network::Error),
}

/// The host names of a pod cannot be determined.
#[derive(Debug, Error)]
pub enum NamesError {
    #[error("read the node's host name: {0}")]
    Node(io::Error),
    #[error(transparent)]
    TooLong(#[from] HostnameTooLong),
}
