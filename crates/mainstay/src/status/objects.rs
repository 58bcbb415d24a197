//! The objects of one screen, as `mainstay why` reads them, and the metrics of the server and its
//! nodes.

use std::time::Duration;

use anyhow::Result;
use api_client::{Client, ResourceExt};
use futures::future::join_all;
use jiff::Timestamp;
use serde_json::Value;

use crate::why::{self, Reach, Server, read_all};

/// A node that does not tell its figures within that time is shown without them.
const FIGURES_TIMEOUT: Duration = Duration::from_secs(3);

/// The objects that were read. Objects that the user may not read are missing.
#[derive(Debug, Default)]
pub struct StatusObjects {
    /// The version of the server.
    pub version: String,
    /// The usage of each node, in kubelet's format.
    pub figures: Vec<Value>,
    /// The objects.
    pub objects: why::ClusterObjects,
}

/// Reads all of it.
pub async fn read(server: &Server, reach: &Reach, now: Timestamp) -> Result<StatusObjects> {
    let version = async {
        let version = server.client.apiserver_version().await;
        version.map_err(|error| server.explain(error))
    };
    let (version, objects) = tokio::try_join!(version, read_all(server, reach, now))?;
    let nodes = objects.cluster.nodes.iter().flatten();
    let figures = nodes.map(|node| figures(&server.client, node.name_any()));
    let figures = join_all(figures).await.into_iter().flatten().collect();
    Ok(StatusObjects {
        version: version.git_version,
        figures,
        objects,
    })
}

/// A node's own metrics. They are optional: without permission or response they are left out.
async fn figures(client: &Client, node: String) -> Option<Value> {
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let asked = client.get::<Value>(&path);
    tokio::time::timeout(FIGURES_TIMEOUT, asked)
        .await
        .ok()?
        .ok()
}
