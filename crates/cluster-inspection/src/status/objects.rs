//! The objects of one screen, and the metrics of the server and its nodes.

use jiff::Timestamp;
use json_tree::Value;
use kube_api_client::ResourceExt;

use crate::cluster_objects::{ClusterObjects, NamespaceScope, read_all};
use crate::error::InspectionError;
use crate::node_summaries;
use crate::server::Server;

/// The objects that were read. Objects that the user may not read are missing.
#[derive(Debug, Default)]
pub struct StatusObjects {
    /// The version of the server.
    pub version: String,
    /// The usage of each node, in kubelet's format.
    pub figures: Vec<Value>,
    /// The objects of the cluster and of the namespaces.
    pub objects: ClusterObjects,
}

/// Reads the version, the usage of the nodes and all objects from the server.
///
/// # Errors
/// The server does not respond, or refuses a list of pods.
pub async fn read(
    server: &Server,
    reach: &NamespaceScope,
    now: Timestamp,
) -> Result<StatusObjects, InspectionError> {
    let version = async {
        let version = server.client.apiserver_version().await;
        version.map_err(|error| server.explain(error))
    };
    let (version, objects) = tokio::try_join!(version, read_all(server, reach, now))?;
    let nodes = objects.cluster.nodes.iter().flatten();
    let names = nodes.map(|node| node.name_any());
    let figures = node_summaries::read(&server.client, names).await;
    Ok(StatusObjects {
        version: version.git_version,
        figures,
        objects,
    })
}
