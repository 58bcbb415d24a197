//! The objects of a set with the writes of its plans, as the API server stores them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use object_model::Uid;
use resource_kinds::annotations::{REJECTED, ROLLOUT_STEP};
use resource_kinds::pod_view::PodView;
use resource_kinds::stateful_set_policy::StatefulSetPolicy;

use super::super::claim_edits::ClaimEdit;
use super::super::group::GroupMember;
use super::super::identity;
use super::super::observed::{Observed, Refused};
use super::super::plan::StatefulSetAction;
use super::ForecastError;

/// A set with its pods, claims and revisions.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub set: StatefulSet,
    /// The policy that is in force for the set.
    pub policy: Option<Arc<StatefulSetPolicy>>,
    /// The other sets that share the guard of the policy. Their pods stay as they are.
    pub group: Vec<GroupMember>,
    /// By name: at least the pods that [`Observed::pods`] has.
    pub pods: BTreeMap<String, Pod>,
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
    pub revisions: BTreeMap<String, ControllerRevision>,
    /// Writes that the API server refuses.
    pub refused: Vec<Refused>,
    /// The number of objects that were created.
    created: u64,
}

impl Objects {
    /// A set without other objects.
    pub fn of(set: StatefulSet, policy: Option<Arc<StatefulSetPolicy>>) -> Self {
        Self {
            set,
            policy,
            ..Self::default()
        }
    }

    /// The input of a plan.
    ///
    /// # Errors
    /// A pod has no complete identity.
    pub fn observed(&self) -> Result<Observed, ForecastError> {
        let pods = self.pods.values().map(|pod| Ok(Arc::new(pod.try_into()?)));
        let pods: Result<Vec<Arc<PodView>>, serde_json::Error> = pods.collect();
        let claims = self.claims.iter();
        let claims = claims.map(|(name, claim)| (name.clone(), Arc::new(claim.clone())));
        Ok(self.observed_with(pods?, claims.collect()))
    }

    /// The input of a plan, with these forms of the pods and claims.
    pub(super) fn observed_with(
        &self,
        pods: Vec<Arc<PodView>>,
        claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    ) -> Observed {
        Observed {
            set: Arc::new(self.set.clone()),
            pods,
            revisions: self.revisions.values().cloned().map(Arc::new).collect(),
            claims,
            policy: self.policy.clone(),
            group: self.group.clone(),
            refused: self.refused.clone(),
        }
    }

    /// Stores a write of a plan.
    ///
    /// # Errors
    /// The object does not exist, or it exists already: the plan was made from other objects.
    pub fn write(
        &mut self,
        action: &StatefulSetAction,
        now: Timestamp,
    ) -> Result<(), ForecastError> {
        match action {
            StatefulSetAction::ConfirmSet => {}
            StatefulSetAction::AdoptPod { name, .. } => {
                let owner = identity::owner_reference(&self.set)?;
                let owners = &mut find(&mut self.pods, name)?.metadata.owner_references;
                owners.get_or_insert_default().push(owner);
            }
            StatefulSetAction::ReleasePod { name, .. } => {
                find(&mut self.pods, name)?.metadata.owner_references = None;
            }
            StatefulSetAction::AdoptRevision { name, .. } => {
                let owner = identity::owner_reference(&self.set)?;
                let owners = &mut find(&mut self.revisions, name)?.metadata.owner_references;
                owners.get_or_insert_default().push(owner);
            }
            StatefulSetAction::CreateRevision(revision) => {
                let mut revision = (**revision).clone();
                let name = self.created(&mut revision.metadata, now);
                add(&mut self.revisions, name, revision)?;
            }
            StatefulSetAction::RenumberRevision { name, revision, .. } => {
                find(&mut self.revisions, name)?.revision = *revision;
            }
            StatefulSetAction::DeleteRevision { name, .. } => {
                self.revisions.remove(name);
            }
            StatefulSetAction::RejectRevision { name, evidence, .. } => {
                let text = serde_json::to_string(evidence)?;
                let meta = &mut find(&mut self.revisions, name)?.metadata;
                let annotations = meta.annotations.get_or_insert_default();
                annotations.insert(REJECTED.to_owned(), text);
            }
            StatefulSetAction::RecordStep { name, record, .. } => {
                let meta = &mut find(&mut self.revisions, name)?.metadata;
                let annotations = meta.annotations.get_or_insert_default();
                annotations.insert(ROLLOUT_STEP.to_owned(), record.text());
            }
            StatefulSetAction::CreateClaim(claim) => {
                let mut claim = (**claim).clone();
                let name = self.created(&mut claim.metadata, now);
                add(&mut self.claims, name, claim)?;
            }
            StatefulSetAction::SetClaimOwners { name, owners, .. } => {
                let meta = &mut find(&mut self.claims, name)?.metadata;
                // A write of the present owners only confirms the version.
                if meta.owner_references.as_deref().unwrap_or_default() != owners {
                    meta.owner_references = Some(owners.clone());
                }
            }
            StatefulSetAction::EditClaim { name, edit, .. } => {
                edit_claim(find(&mut self.claims, name)?, edit);
            }
            StatefulSetAction::CreatePod(pod) => {
                let mut pod = (**pod).clone();
                let name = self.created(&mut pod.metadata, now);
                pod.status = Some(PodStatus {
                    phase: Some("Pending".to_owned()),
                    ..PodStatus::default()
                });
                add(&mut self.pods, name, pod)?;
            }
            StatefulSetAction::LabelPod { name, labels, .. } => {
                let meta = &mut find(&mut self.pods, name)?.metadata;
                meta.labels.get_or_insert_default().extend(labels.clone());
            }
            StatefulSetAction::AnnotatePod {
                name, annotations, ..
            } => {
                let meta = &mut find(&mut self.pods, name)?.metadata;
                let changes = annotations.iter().map(|(key, value)| (*key, value));
                change(&mut meta.annotations, changes);
            }
            StatefulSetAction::DeletePod { name, uid, .. }
            | StatefulSetAction::EvictPod { name, uid, .. } => self.delete_pod(name, uid, now)?,
        }
        Ok(())
    }

    fn delete_pod(&mut self, name: &str, uid: &Uid, now: Timestamp) -> Result<(), ForecastError> {
        let meta = &mut find(&mut self.pods, name)?.metadata;
        if meta.uid.as_deref() != Some(uid.as_str()) {
            return Err(ForecastError::Absent(name.to_owned()));
        }
        meta.deletion_timestamp = Some(Time(now));
        Ok(())
    }

    /// Gives a new object the fields that the API server sets; returns its name.
    fn created(&mut self, meta: &mut ObjectMeta, now: Timestamp) -> String {
        self.created += 1;
        meta.uid = Some(format!("uid-{}", self.created));
        meta.resource_version = Some("1".to_owned());
        meta.creation_timestamp = Some(Time(now));
        meta.name.clone().unwrap_or_default()
    }

    /// Deletes the claims whose owners do not exist, as the garbage collector; returns their names.
    pub fn collect_claims(&mut self) -> Vec<String> {
        let pods: Vec<&str> = self
            .pods
            .values()
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        let set = self.set.metadata.uid.as_deref();
        let mut collected = Vec::new();
        for (name, claim) in &mut self.claims {
            let Some(owners) = claim.metadata.owner_references.as_mut() else {
                continue;
            };
            let before = owners.len();
            owners.retain(|owner| match owner.kind.as_str() {
                "Pod" => pods.contains(&owner.uid.as_str()),
                "StatefulSet" => set == Some(owner.uid.as_str()),
                _ => true,
            });
            if before > 0 && owners.is_empty() {
                collected.push(name.clone());
            }
        }
        for name in &collected {
            self.claims.remove(name);
        }
        collected
    }
}

fn find<'o, K>(
    objects: &'o mut BTreeMap<String, K>,
    name: &str,
) -> Result<&'o mut K, ForecastError> {
    let found = objects.get_mut(name);
    found.ok_or_else(|| ForecastError::Absent(name.to_owned()))
}

fn add<K>(objects: &mut BTreeMap<String, K>, name: String, object: K) -> Result<(), ForecastError> {
    match objects.contains_key(&name) {
        true => Err(ForecastError::Present(name)),
        false => {
            objects.insert(name, object);
            Ok(())
        }
    }
}

/// Changes labels or annotations as a merge patch: `None` removes a key.
fn change<'c>(
    map: &mut Option<BTreeMap<String, String>>,
    changes: impl Iterator<Item = (&'c str, &'c Option<String>)>,
) {
    for (key, value) in changes {
        let map = map.get_or_insert_default();
        match value {
            Some(value) => map.insert(key.to_owned(), value.clone()),
            None => map.remove(key),
        };
    }
}

fn edit_claim(claim: &mut PersistentVolumeClaim, edit: &ClaimEdit) {
    match edit {
        ClaimEdit::Metadata(edit) => {
            let meta = &mut claim.metadata;
            for (map, changes) in [
                (&mut meta.labels, &edit.labels),
                (&mut meta.annotations, &edit.annotations),
            ] {
                change(
                    map,
                    changes.iter().map(|(key, value)| (key.as_str(), value)),
                );
            }
        }
        ClaimEdit::Volume(edit) => {
            let spec = claim.spec.get_or_insert_default();
            if let Some(size) = &edit.storage {
                let resources = spec.resources.get_or_insert_default();
                let requests = resources.requests.get_or_insert_default();
                requests.insert("storage".to_owned(), Quantity(size.clone()));
            }
            if let Some(class) = &edit.attributes_class {
                spec.volume_attributes_class_name = Some(class.clone());
            }
        }
    }
}
