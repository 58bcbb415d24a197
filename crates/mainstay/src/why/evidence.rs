//! Reads what an answer is found in. Who may not read all of it gets what can be said without.

use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use planners::diagnosis::{Evidence, TargetKind};
use serde::de::DeserializeOwned;

/// Names that are shown of what there is instead.
const NAMES_MAX: usize = 10;

/// Reads a namespace and what is around it; and says what could not be read.
pub async fn read(
    client: &Client,
    namespace: &str,
    now: Timestamp,
) -> Result<(Evidence, Vec<String>), kube::Error> {
    let mut evidence = Evidence::of(namespace, now);
    let namespaced = || client.clone();
    let mut unread = Vec::new();
    let (sets, pods) = tokio::try_join!(
        list(Api::namespaced(namespaced(), namespace)),
        list(Api::namespaced(namespaced(), namespace)),
    )?;
    let pods: Vec<Arc<Pod>> = pods;
    evidence.sets = sets;
    evidence.pods = pods.iter().map(|pod| Arc::new((&**pod).into())).collect();
    evidence.full_pods = pods;
    let (revisions, claims, events, volumes, classes, nodes) = tokio::join!(
        list(Api::namespaced(namespaced(), namespace)),
        list(Api::namespaced(namespaced(), namespace)),
        list(Api::namespaced(namespaced(), namespace)),
        list(Api::all(client.clone())),
        list(Api::all(client.clone())),
        list(Api::all(client.clone())),
    );
    evidence.revisions = permitted(revisions, "revisions", &mut unread)?.unwrap_or_default();
    evidence.claims = permitted(claims, "claims", &mut unread)?.unwrap_or_default();
    evidence.events = permitted(events, "events", &mut unread)?.unwrap_or_default();
    evidence.volumes = permitted(volumes, "volumes", &mut unread)?;
    evidence.classes = permitted(classes, "storage classes", &mut unread)?;
    evidence.nodes = permitted(nodes, "nodes", &mut unread)?;
    Ok((evidence, unread))
}

async fn list<K>(api: Api<K>) -> Result<Vec<Arc<K>>, kube::Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let list = api.list(&ListParams::default()).await?;
    Ok(list.items.into_iter().map(Arc::new).collect())
}

/// What may not be read is not an error.
fn permitted<T>(
    found: Result<T, kube::Error>,
    what: &str,
    unread: &mut Vec<String>,
) -> Result<Option<T>, kube::Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            unread.push(format!(
                "nothing was concluded from {what}: {}",
                status.message
            ));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The names of what there is of that kind, as a hint.
pub fn names(evidence: &Evidence, kind: TargetKind) -> String {
    fn all<K: ResourceExt>(objects: &[Arc<K>]) -> Vec<String> {
        objects.iter().map(|object| object.name_any()).collect()
    }
    let names = match kind {
        TargetKind::StatefulSet => all(&evidence.sets),
        TargetKind::Pod => evidence
            .pods
            .iter()
            .map(|pod| pod.name.to_string())
            .collect(),
        TargetKind::Claim => all(&evidence.claims),
    };
    match names.len() {
        0 => "there is none of its kind; -n names another namespace".to_owned(),
        count if count > NAMES_MAX => {
            let (shown, more) = (names[..NAMES_MAX].join(", "), count - NAMES_MAX);
            format!("there are {shown} and {more} more; -n names another namespace")
        }
        _ => format!("there are {}; -n names another namespace", names.join(", ")),
    }
}
