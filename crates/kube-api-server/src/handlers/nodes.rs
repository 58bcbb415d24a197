//! Connections to the API of a node (the kubelet's paths).

use bytes::Bytes;
use http::{Request, Response};
use tower::util::BoxCloneSyncService;

use crate::http::body::{BoxBody, BoxError};

/// A node's own API (the kubelet's paths) as a service. Requests keep their upgrade handle, so
/// that the node can answer 101 and upgrade the connection to a tunnel.
pub type NodeService = BoxCloneSyncService<Request<BoxBody>, Response<BoxBody>, BoxError>;

pub trait NodeConnector: Send + Sync {
    /// The service of the named node; `None` if the node cannot be reached now.
    fn connect(&self, node_name: &str) -> Option<NodeService>;
}

/// A connector for a cluster without reachable nodes.
pub(crate) struct NoNodes;

impl NodeConnector for NoNodes {
    fn connect(&self, _: &str) -> Option<NodeService> {
        None
    }
}

/// An empty body, for requests to nodes.
pub(crate) fn empty_body() -> BoxBody {
    crate::http::body::boxed(http_body_util::Empty::<Bytes>::new())
}
