//! The controller of volumes that grow before they are full: executor of [`controller_planners::volume_growth`].
//!
//! Usage has no events, so a round reads the summaries of the nodes that use such volumes, a few at a time. A node that
//! does not respond delays only its own volumes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controller_framework::{Cache, Index, Recorder, object_key};
use controller_planners::stateful_set::identity::{claim_name, ordinal};
use controller_planners::volume_growth::{Full, Growth, is_settled, measurement, plan};
use futures::StreamExt;
use futures::stream;
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube_api_client::guarded_writes::{self, refusal};
use kube_api_client::{Api, Client, Patch, PatchParams};
use object_model::{IncompleteMetadata, Quantity};
use process_telemetry::polls::spend;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::GROWN_AT;
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::volume as reasons;
use resource_kinds::stateful_set_policy::Autogrow;

use crate::Context;
use crate::owned::owned_by;
use crate::stateful_set::policies::Policies;

/// The time between the starts of two rounds: that of the measurement of local volumes.
const ROUND: Duration = Duration::from_secs(30);
/// Maximum wait for the summary of a node.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of the summary of a node.
const SUMMARY_BYTES_MAX: usize = 4 << 20;
/// Number of summaries that are read concurrently; each is in memory until its volumes are decided.
const NODES_AT_ONCE: usize = 4;

struct VolumeGrowth {
    client: Client,
    recorder: Recorder,
    policies: Policies,
    sets: Cache<StatefulSet>,
    pods: Cache<PodView>,
    pods_by_owner: Index<PodView>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
}

/// A claim whose volume may grow now.
struct Candidate {
    claim: Arc<PersistentVolumeClaim>,
    rules: Autogrow,
}

/// The trouble of a claim that was reported, so that a round does not report it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    AtMax,
    NoRoom,
    Refused,
}

/// The reported trouble of each claim, by the claim's UID.
type Reported = BTreeMap<String, Trouble>;

pub(crate) async fn run(context: Context) {
    let growth = VolumeGrowth {
        client: context.client.clone(),
        recorder: context.recorder("volume-growth-controller"),
        policies: Policies::new(&context),
        sets: context.caches.stateful_sets.clone(),
        pods: context.caches.pods.clone(),
        pods_by_owner: context.pods_by_owner.clone(),
        claims: context.caches.claims.clone(),
        volumes: context.caches.volumes.clone(),
    };
    let rounds = async {
        let mut reported = Reported::new();
        if growth.wait_synced().await {
            loop {
                reported = growth.round(reported).await;
                tokio::time::sleep(ROUND).await;
            }
        }
        context.shutdown.cancelled().await;
    };
    tokio::select! {
        () = rounds => {}
        () = context.shutdown.cancelled() => {}
    }
}

impl VolumeGrowth {
    async fn wait_synced(&self) -> bool {
        self.policies.wait_synced().await
            && self.sets.wait_synced().await
            && self.pods.wait_synced().await
            && self.claims.wait_synced().await
            && self.volumes.wait_synced().await
    }

    /// Decides about all volumes once. Returns the trouble that is reported now.
    async fn round(&self, reported: Reported) -> Reported {
        let candidates = self.candidates().await;
        let reported = &reported;
        let by_node = stream::iter(candidates).map(|(node, candidates)| async move {
            let summary = self.summary(&node).await;
            let mut troubles = Vec::new();
            for candidate in candidates {
                spend(1).await;
                let uid = candidate.claim.metadata.uid.clone().unwrap_or_default();
                let before = reported.get(&uid).copied();
                let trouble = match &summary {
                    Some(summary) => self.decide(&candidate, summary, before).await,
                    None => before,
                };
                troubles.extend(trouble.map(|trouble| (uid, trouble)));
            }
            troubles
        });
        let troubles: Vec<Vec<(String, Trouble)>> =
            by_node.buffer_unordered(NODES_AT_ONCE).collect().await;
        troubles.into_iter().flatten().collect()
    }

    /// The claims whose volumes may grow now, by the node that uses them.
    async fn candidates(&self) -> BTreeMap<String, Vec<Candidate>> {
        let mut by_node: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
        let policies = self.policies.policies.list().into_iter();
        let has_rules = |rules: Option<Autogrow>| rules.is_some();
        if !policies
            .map(|policy| policy.spec.claims.and_then(|claims| claims.autogrow))
            .any(has_rules)
        {
            return by_node;
        }
        for set in self.sets.list() {
            let key = object_key(&*set);
            spend(1).await;
            let Ok(Some(policy)) = self.policies.of(&key, set.metadata.labels.as_ref()) else {
                continue;
            };
            let Some(rules) = policy.spec.claims.and_then(|claims| claims.autogrow) else {
                continue;
            };
            let Some(uid) = set.metadata.uid.as_deref() else {
                continue;
            };
            for pod in self.pods_by_owner.get(&owned_by(uid)) {
                spend(1).await;
                let ordinal = ordinal(&key.name, &pod.name);
                let (Some(node), Some(ordinal)) = (pod.node.as_deref(), ordinal) else {
                    continue;
                };
                for template in templates(&set) {
                    let name = claim_name(template, &key.name, ordinal);
                    let claim = self.claims.get(&key.namespace, &name);
                    if let Some(claim) = claim.filter(|claim| is_settled(claim)) {
                        let candidates = by_node.entry(node.to_owned()).or_default();
                        candidates.push(Candidate { claim, rules });
                    }
                }
            }
        }
        by_node
    }

    /// The summary of a node; `None` if the node does not respond.
    async fn summary(&self, node: &str) -> Option<Value> {
        let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
        let request = self.client.get_up_to::<Value>(&path, SUMMARY_BYTES_MAX);
        match tokio::time::timeout(TIMEOUT, request).await {
            Ok(Ok(summary)) => Some(summary),
            Ok(Err(error)) => {
                let error = guarded_writes::chain(&error);
                tracing::debug!(node, error, "the summary of a node is not known");
                None
            }
            Err(_) => None,
        }
    }

    /// Decides about a volume, and raises the request of its claim. Returns the trouble that is reported now.
    async fn decide(
        &self,
        candidate: &Candidate,
        summary: &Value,
        before: Option<Trouble>,
    ) -> Option<Trouble> {
        let Candidate { claim, rules } = candidate;
        let spec = claim.spec.as_ref();
        let volume = spec
            .and_then(|spec| spec.volume_name.as_deref())
            .unwrap_or_default();
        let volume = self.volumes.get("", volume)?;
        let measured = measurement::of_claim(&object_key(&**claim), &volume, summary);
        let Some(measurement) = measured else {
            return before;
        };
        let now = Timestamp::now();
        let (trouble, reason, text) = match plan(claim, rules, &measurement, now) {
            Growth::Nothing => return None,
            Growth::Grow { size, full } => match self.grow(claim, size, now).await {
                Ok(()) => {
                    self.tell_growth(claim, size, full);
                    return None;
                }
                Err(error) => match refused(&error) {
                    Some(message) => {
                        let text = format!(
                            "{}, and the volume cannot grow to {size}: {message}",
                            full.text()
                        );
                        (Trouble::Refused, reasons::GROWTH_REFUSED, text)
                    }
                    None => {
                        let error = guarded_writes::chain(&error);
                        tracing::debug!(claim = ?claim.metadata.name, error, "a claim does not grow");
                        return before;
                    }
                },
            },
            Growth::AtMax { full } => {
                let text = format!("{}, and the volume has its maximum size", full.text());
                (Trouble::AtMax, reasons::GROWTH_AT_MAX, text)
            }
            Growth::NoRoom { full } => {
                let text = format!(
                    "{}, and the disk of the node has no room for a growth",
                    full.text()
                );
                (Trouble::NoRoom, reasons::GROWTH_WITHOUT_ROOM, text)
            }
        };
        if before != Some(trouble) {
            self.recorder.warning(&**claim, reason, text);
        }
        Some(trouble)
    }

    fn tell_growth(&self, claim: &PersistentVolumeClaim, size: Quantity, full: Full) {
        let text = format!("{}: the request grows to {size}", full.text());
        self.recorder.normal(claim, reasons::GROWS, text);
    }

    async fn grow(
        &self,
        claim: &PersistentVolumeClaim,
        size: Quantity,
        now: Timestamp,
    ) -> Result<(), Error> {
        let meta = &claim.metadata;
        let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch = json!({
            "metadata": {
                "uid": meta.object_uid()?,
                "resourceVersion": meta.object_version()?,
                "annotations": {GROWN_AT: at},
            },
            "spec": {"resources": {"requests": {"storage": size.to_string()}}},
        });
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), meta.object_namespace()?);
        let parameters = PatchParams::default();
        claims
            .patch(meta.object_name()?, &parameters, &Patch::Merge(patch))
            .await?;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("raise the request of a claim")]
    Api(#[from] kube_api_client::Error),
    #[error("identity of a claim")]
    Identity(#[from] IncompleteMetadata),
}

/// The API server's message, if it refused the growth and a fresh view does not help.
fn refused(error: &Error) -> Option<String> {
    let Error::Api(source @ kube_api_client::Error::Api(_)) = error else {
        return None;
    };
    (!refusal(source).is_of_old_view()).then(|| guarded_writes::message(source))
}

/// The names of the claim templates of a set.
fn templates(set: &StatefulSet) -> impl Iterator<Item = &str> {
    let spec = set.spec.as_ref();
    let templates = spec.and_then(|spec| spec.volume_claim_templates.as_deref());
    let templates = templates.unwrap_or_default().iter();
    templates.filter_map(|template| template.metadata.name.as_deref())
}
