//! The objects that `status` reads, and the reads.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, ReplicationController};
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::why::Server;

/// A node that does not tell its figures within that time is shown without them.
const FIGURES_TIMEOUT: Duration = Duration::from_secs(3);

/// The namespaces that are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    All,
    /// All that the user may read: all, or that of the context.
    Readable,
    /// One.
    One(String),
}

/// What was read. What the user may not read of the cluster is missing.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What the server says its version is.
    pub version: String,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// What each node says of its use, in kubelet's form.
    pub figures: Vec<Value>,
    /// StatefulSets.
    pub sets: Vec<StatefulSet>,
    /// Pods.
    pub pods: Vec<Pod>,
    /// Claims.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Deployments.
    pub deployments: Vec<Deployment>,
    /// DaemonSets.
    pub daemon_sets: Vec<DaemonSet>,
    /// ReplicaSets.
    pub replica_sets: Vec<ReplicaSet>,
    /// ReplicationControllers.
    pub replication_controllers: Vec<ReplicationController>,
    /// Jobs.
    pub jobs: Vec<Job>,
    /// CronJobs.
    pub cron_jobs: Vec<CronJob>,
    /// The namespace that it is limited to.
    pub namespace: Option<String>,
    /// What could not be read.
    pub notes: Vec<String>,
}

/// Reads all of it.
pub async fn read(server: &Server, scope: &Scope) -> Result<Found> {
    let client = &server.client;
    let version = client.apiserver_version().await;
    let version = version.map_err(|error| server.explain(error))?.git_version;
    let mut found = Found {
        version,
        ..Found::default()
    };
    let (namespace, pods) = pods(server, scope, &mut found.notes).await?;
    found.pods = pods;
    let of = namespace.as_deref();
    let notes = &mut found.notes;
    found.sets = permitted(list(client, of).await, "sets", server, notes)?;
    found.claims = permitted(list(client, of).await, "claims", server, notes)?;
    found.deployments = permitted(list(client, of).await, "deployments", server, notes)?;
    found.daemon_sets = permitted(list(client, of).await, "daemonsets", server, notes)?;
    found.replica_sets = permitted(list(client, of).await, "replicasets", server, notes)?;
    let controllers = list(client, of).await;
    found.replication_controllers =
        permitted(controllers, "replicationcontrollers", server, notes)?;
    found.jobs = permitted(list(client, of).await, "jobs", server, notes)?;
    found.cron_jobs = permitted(list(client, of).await, "cronjobs", server, notes)?;
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await;
    let nodes = nodes.map(|list| list.items);
    found.nodes = permitted(nodes, "nodes", server, notes)?;
    for node in &found.nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        found.figures.extend(figures(client, name).await);
    }
    found.namespace = namespace;
    Ok(found)
}

/// The pods, and the namespace that all is limited to. Who may not read all namespaces gets that of the
/// context.
async fn pods(
    server: &Server,
    scope: &Scope,
    notes: &mut Vec<String>,
) -> Result<(Option<String>, Vec<Pod>)> {
    let client = &server.client;
    let namespace = match scope {
        Scope::All | Scope::Readable => None,
        Scope::One(name) => Some(name.clone()),
    };
    match list(client, namespace.as_deref()).await {
        Ok(pods) => Ok((namespace, pods)),
        Err(kube::Error::Api(status)) if status.code == 403 && *scope == Scope::Readable => {
            let own = server.namespace().to_owned();
            let pods = list(client, Some(&own)).await;
            let pods = pods.map_err(|error| server.explain(error))?;
            notes.push(format!(
                "shown is namespace {own} alone: {}",
                status.message
            ));
            Ok((Some(own), pods))
        }
        Err(error) => Err(server.explain(error)),
    }
}

async fn list<K>(client: &Client, namespace: Option<&str>) -> Result<Vec<K>, kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let list = api.list(&ListParams::default()).await?;
    Ok(list.items)
}

/// What may not be read is noted.
fn permitted<T>(
    read: Result<Vec<T>, kube::Error>,
    what: &str,
    server: &Server,
    notes: &mut Vec<String>,
) -> Result<Vec<T>> {
    match read {
        Ok(found) => Ok(found),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            notes.push(format!("{what} are not shown: {}", status.message));
            Ok(Vec::new())
        }
        Err(error) => Err(server.explain(error)),
    }
}

/// A node's own figures. They are an extra: who may not ask, or gets no answer, does without.
async fn figures(client: &Client, node: &str) -> Option<Value> {
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let request = http::Request::get(path).body(Vec::new()).ok()?;
    let asked = client.request::<Value>(request);
    tokio::time::timeout(FIGURES_TIMEOUT, asked)
        .await
        .ok()?
        .ok()
}
