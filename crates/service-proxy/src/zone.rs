//! The zone of the proxy's node, by the label of the Node object.

use api_client::{Api, Client};
use k8s_openapi::api::core::v1::Node;
use reconcile::{Cache, Component, WatchConfig};
use tokio::sync::watch;

/// The label with the zone of a node.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A node without a zone, which never gets one.
pub(crate) fn none() -> watch::Receiver<Option<String>> {
    watch::Sender::new(None).subscribe()
}

/// The zone of a node, with its later changes.
pub(crate) fn of(
    client: &Client,
    node_name: &str,
    component: &Component,
) -> watch::Receiver<Option<String>> {
    let only = WatchConfig::default().fields(&format!("metadata.name={node_name}"));
    let nodes: Cache<Node> = Cache::spawn(Api::all(client.clone()), only, component.clone());
    let (told, zone) = watch::channel(None);
    let name = node_name.to_owned();
    let shutdown = component.shutdown.clone();
    tokio::spawn(async move {
        let follow = async {
            let mut changes = nodes.subscribe();
            loop {
                let now = nodes.get("", &name).and_then(|node| {
                    let labels = node.metadata.labels.as_ref()?;
                    labels.get(ZONE).cloned()
                });
                told.send_if_modified(|zone| {
                    let is_new = *zone != now;
                    *zone = now;
                    is_new
                });
                if changes.next().await.is_none() {
                    return;
                }
            }
        };
        shutdown.run_until_cancelled(follow).await;
    });
    zone
}
