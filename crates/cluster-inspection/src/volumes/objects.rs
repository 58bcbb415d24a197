//! The objects of a list of volumes.

use std::fmt::Debug;

use json_tree::Value;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube_api_client::{Api, ListParams, Resource};
use resource_kinds::snapshot::VolumeSnapshot;
use serde::de::DeserializeOwned;

use super::model;
use crate::error::InspectionError;
use crate::node_summaries;
use crate::server::Server;

/// The namespaces whose claims are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimNamespaces {
    All,
    One(String),
}

/// The objects that were read. Those that the user may not read are missing.
#[derive(Debug, Default)]
pub struct VolumeObjects {
    /// The PersistentVolumeClaims of the listed namespaces.
    pub claims: Vec<PersistentVolumeClaim>,
    /// All PersistentVolumes of the cluster.
    pub volumes: Vec<PersistentVolume>,
    /// The pods of the namespaces; `None` if they could not be read.
    pub pods: Option<Vec<Pod>>,
    /// The snapshots of the namespaces; `None` if they could not be read.
    pub snapshots: Option<Vec<VolumeSnapshot>>,
    /// The usage of nodes, in kubelet's format.
    pub figures: Vec<Value>,
    /// The kinds that could not be read.
    pub notes: Vec<String>,
}

/// Reads all objects of the list. Only the claims have to be readable.
///
/// # Errors
/// The server does not respond, or refuses the list of claims.
pub async fn read(
    server: &Server,
    namespaces: &ClaimNamespaces,
) -> Result<VolumeObjects, InspectionError> {
    let client = || server.client.clone();
    let (claims, pods, snapshots) = match namespaces {
        ClaimNamespaces::All => (Api::all(client()), Api::all(client()), Api::all(client())),
        ClaimNamespaces::One(name) => (
            Api::namespaced(client(), name),
            Api::namespaced(client(), name),
            Api::namespaced(client(), name),
        ),
    };
    let all_volumes = Api::all(client());
    let params = ListParams::default();
    let (claims, volumes, pods, snapshots) = tokio::try_join!(
        claims.list(&params),
        readable(&all_volumes, "volumes"),
        readable(&pods, "pods"),
        readable(&snapshots, "VolumeSnapshots"),
    )
    .map_err(|error| server.explain(error))?;
    let notes = [volumes.note, pods.note, snapshots.note];
    let mut observed = VolumeObjects {
        claims: claims.items,
        volumes: volumes.items.unwrap_or_default(),
        pods: pods.items,
        snapshots: snapshots.items,
        figures: Vec::new(),
        notes: notes.into_iter().flatten().collect(),
    };
    observed.figures = node_summaries::read(&server.client, model::nodes(&observed)).await;
    Ok(observed)
}

/// The objects of a kind, or the reason why they could not be read.
struct Readable<K> {
    items: Option<Vec<K>>,
    note: Option<String>,
}

/// The objects, if the user may read them and the server has the kind.
async fn readable<K>(api: &Api<K>, what: &str) -> Result<Readable<K>, kube_api_client::Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(Readable {
            items: Some(list.items),
            note: None,
        }),
        Err(kube_api_client::Error::Api(status)) if [403, 404].contains(&status.code) => {
            Ok(Readable {
                items: None,
                note: Some(format!("{what} are not shown: {}", status.message)),
            })
        }
        Err(error) => Err(error),
    }
}
