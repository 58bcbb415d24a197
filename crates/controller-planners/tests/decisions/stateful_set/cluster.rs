//! A small cluster: stores the writes of plans as the API server would, and acts as the kubelet and the garbage
//! collector on request.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_planners::stateful_set::{
    ClaimEdit, Observed, Refused, StatefulSetAction, StatefulSetPlan, invariants, plan,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimCondition, Pod, PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use resource_kinds::stateful_set_policy::StatefulSetPolicy;

use super::situation;

pub struct Cluster {
    pub set: StatefulSet,
    pub pods: BTreeMap<String, Pod>,
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
    pub revisions: BTreeMap<String, ControllerRevision>,
    pub now: Timestamp,
    pub policy: Option<Arc<StatefulSetPolicy>>,
    /// The writes that the API server refuses at present.
    pub refused: Vec<Refused>,
    /// The writes to pods, in order.
    pub log: Vec<String>,
    uids: u64,
}

/// Applies changes of labels or annotations, as a merge patch.
fn apply(map: &mut BTreeMap<String, String>, changes: &BTreeMap<String, Option<String>>) {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
}

fn edit_claim(claim: &mut PersistentVolumeClaim, edit: &ClaimEdit) {
    match edit {
        ClaimEdit::Metadata(edit) => {
            let meta = &mut claim.metadata;
            apply(meta.labels.get_or_insert_default(), &edit.labels);
            apply(meta.annotations.get_or_insert_default(), &edit.annotations);
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

impl Cluster {
    pub fn new(situation: &str) -> Self {
        let observed = situation::parse(situation);
        let mut cluster = Self {
            set: (*observed.set).clone(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            revisions: BTreeMap::new(),
            now: situation::now(),
            policy: observed.policy,
            refused: Vec::new(),
            log: Vec::new(),
            uids: 0,
        };
        for pod in situation::pods(situation) {
            cluster.pods.insert(pod.metadata.name.clone().unwrap(), pod);
        }
        for revision in observed.revisions {
            let name = revision.metadata.name.clone().unwrap();
            cluster.revisions.insert(name, (*revision).clone());
        }
        for (name, claim) in observed.claims {
            cluster.claims.insert(name, (*claim).clone());
        }
        cluster
    }

    pub fn observed(&self) -> Observed {
        Observed {
            set: Arc::new(self.set.clone()),
            pods: self
                .pods
                .values()
                .map(|pod| Arc::new(pod.try_into().unwrap()))
                .collect(),
            revisions: self.revisions.values().cloned().map(Arc::new).collect(),
            claims: self
                .claims
                .iter()
                .map(|(n, c)| (n.clone(), Arc::new(c.clone())))
                .collect(),
            policy: self.policy.clone(),
            refused: self.refused.clone(),
        }
    }

    /// Changes the set's specification.
    pub fn edit(&mut self, change: impl FnOnce(&mut k8s_openapi::api::apps::v1::StatefulSetSpec)) {
        change(self.set.spec.as_mut().unwrap());
        *self.set.metadata.generation.get_or_insert(0) += 1;
    }

    pub fn set_image(&mut self, image: &str) {
        self.edit(|spec| spec.template = situation::template(image));
    }

    /// Plans once and executes the plan.
    pub fn step(&mut self) -> StatefulSetPlan {
        let observed = self.observed();
        let plan = plan(&observed, self.now).unwrap();
        let broken = invariants::violations(&observed, &plan, self.now);
        assert!(
            broken.is_empty(),
            "{broken:?}\n{}",
            situation::describe(&plan)
        );
        for action in plan.actions() {
            self.write(action);
        }
        if let Some(status) = &plan.status {
            self.set.status = Some(status.clone());
        }
        plan
    }

    /// Runs the planner and the kubelet until no object changes any more.
    pub fn settle(&mut self) -> StatefulSetPlan {
        for _ in 0..200 {
            let before = (self.pods.clone(), self.claims.clone());
            let mut plan = self.step();
            for _ in 0..20 {
                if plan.is_idle() {
                    break;
                }
                plan = self.step();
            }
            assert!(
                plan.is_idle(),
                "does not come to rest: {}",
                situation::describe(&plan)
            );
            self.kubelet();
            self.now = self.now.checked_add(SignedDuration::from_secs(1)).unwrap();
            if plan.requeue_after.is_none() && before == (self.pods.clone(), self.claims.clone()) {
                return plan;
            }
        }
        panic!("does not settle: {:?}", self.log);
    }

    fn uid(&mut self) -> Option<String> {
        self.uids += 1;
        Some(format!("uid-{}", self.uids))
    }

    fn write(&mut self, action: &StatefulSetAction) {
        match action {
            StatefulSetAction::ConfirmSet => {}
            StatefulSetAction::AdoptPod { name, .. } => {
                let owner = controller_planners::stateful_set::identity::owner_reference(&self.set)
                    .unwrap();
                let pod = self.pods.get_mut(name).unwrap();
                pod.metadata
                    .owner_references
                    .get_or_insert_default()
                    .push(owner);
            }
            StatefulSetAction::ReleasePod { name, .. } => {
                self.pods.get_mut(name).unwrap().metadata.owner_references = None;
            }
            StatefulSetAction::AdoptRevision { name, .. } => {
                let owner = controller_planners::stateful_set::identity::owner_reference(&self.set)
                    .unwrap();
                let revision = self.revisions.get_mut(name).unwrap();
                revision.metadata.owner_references = Some(vec![owner]);
            }
            StatefulSetAction::CreateRevision(revision) => {
                let mut revision = (**revision).clone();
                revision.metadata.uid = self.uid();
                let name = revision.metadata.name.clone().unwrap();
                assert!(self.revisions.insert(name, revision).is_none());
            }
            StatefulSetAction::RenumberRevision { name, revision, .. } => {
                self.revisions.get_mut(name).unwrap().revision = *revision;
            }
            StatefulSetAction::DeleteRevision { name, .. } => {
                self.revisions.remove(name);
            }
            StatefulSetAction::RejectRevision { name, evidence, .. } => {
                let text = serde_json::to_string(evidence).unwrap();
                let meta = &mut self.revisions.get_mut(name).unwrap().metadata;
                let annotations = meta.annotations.get_or_insert_default();
                annotations.insert("apps.mainstay.dev/rejected".to_owned(), text);
                self.log.push(format!("rejected {}", evidence.pod));
            }
            StatefulSetAction::CreateClaim(claim) => {
                let mut claim = (**claim).clone();
                claim.metadata.uid = self.uid();
                claim.metadata.resource_version = Some("1".to_owned());
                let name = claim.metadata.name.clone().unwrap();
                assert!(self.claims.insert(name, claim).is_none());
            }
            StatefulSetAction::SetClaimOwners { name, owners, .. } => {
                let claim = self.claims.get_mut(name).unwrap();
                // A write without a change only confirms the observed version.
                if claim
                    .metadata
                    .owner_references
                    .as_deref()
                    .unwrap_or_default()
                    != owners
                {
                    claim.metadata.owner_references = Some(owners.clone());
                }
            }
            StatefulSetAction::EditClaim { name, edit, .. } => {
                edit_claim(self.claims.get_mut(name).unwrap(), edit);
            }
            StatefulSetAction::CreatePod(pod) => self.create_pod((**pod).clone()),
            StatefulSetAction::LabelPod { name, labels, .. } => {
                let pod = self.pods.get_mut(name).unwrap();
                pod.metadata
                    .labels
                    .get_or_insert_default()
                    .extend(labels.clone());
            }
            StatefulSetAction::AnnotatePod {
                name, annotations, ..
            } => {
                let pod = self.pods.get_mut(name).unwrap();
                let all = pod.metadata.annotations.get_or_insert_default();
                for (key, value) in annotations {
                    match value {
                        Some(value) => all.insert((*key).to_owned(), value.clone()),
                        None => all.remove(*key),
                    };
                }
            }
            StatefulSetAction::DeletePod { name, uid }
            | StatefulSetAction::EvictPod { name, uid, .. } => {
                let pod = self.pods.get_mut(name).unwrap();
                assert_eq!(pod.metadata.uid.as_deref(), Some(uid.as_str()));
                pod.metadata.deletion_timestamp = Some(Time(self.now));
                self.log.push(format!("-{name}"));
            }
        }
    }

    fn create_pod(&mut self, mut pod: Pod) {
        pod.metadata.uid = self.uid();
        pod.metadata.resource_version = Some("1".to_owned());
        pod.metadata.creation_timestamp = Some(Time(self.now));
        pod.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            ..PodStatus::default()
        });
        let name = pod.metadata.name.clone().unwrap();
        let image = pod.spec.as_ref().unwrap().containers[0].image.clone();
        self.log.push(format!("+{name}:{}", image.unwrap()));
        assert!(self.pods.insert(name, pod).is_none());
    }

    /// Acts as the drivers of the volumes: each volume gets the size that its claim requests, unless the claim's
    /// name is in `broken`.
    pub fn grow_volumes(&mut self, broken: &[&str]) {
        for (name, claim) in &mut self.claims {
            let spec = claim.spec.as_ref().unwrap();
            let requests = spec.resources.as_ref().and_then(|all| all.requests.clone());
            let status = claim.status.get_or_insert_default();
            status.phase = Some("Bound".to_owned());
            let is_grown = status.capacity == requests;
            if is_grown || !broken.contains(&name.as_str()) {
                status.capacity = requests;
                status.conditions = None;
            } else {
                status.conditions = Some(vec![PersistentVolumeClaimCondition {
                    type_: "ControllerResizeError".to_owned(),
                    status: "True".to_owned(),
                    message: Some("no room".to_owned()),
                    ..PersistentVolumeClaimCondition::default()
                }]);
            }
        }
    }

    /// Deletes a pod as a user would.
    pub fn delete_pod(&mut self, name: &str) {
        let pod = self.pods.get_mut(name).unwrap();
        pod.metadata.deletion_timestamp = Some(Time(self.now));
    }

    /// Terminating pods are removed; existing pods become Ready, unless their image is bad. Claims
    /// of deleted owners are deleted.
    pub fn kubelet(&mut self) {
        self.pods
            .retain(|_, pod| pod.metadata.deletion_timestamp.is_none());
        let now = self.now;
        for pod in self.pods.values_mut() {
            let image = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.containers[0].image.clone());
            let good = image.is_none_or(|image| !image.starts_with("bad"));
            set_ready(pod, good, now);
        }
        let pods: Vec<Option<String>> = self
            .pods
            .values()
            .map(|pod| pod.metadata.uid.clone())
            .collect();
        // As the garbage collector: a claim with an existing owner stays, and references to deleted owners are removed.
        self.claims.retain(|_, claim| {
            let Some(owners) = claim.metadata.owner_references.as_mut() else {
                return true;
            };
            let before = owners.len();
            owners.retain(|owner| match owner.kind.as_str() {
                "Pod" => pods.contains(&Some(owner.uid.clone())),
                "StatefulSet" => owner.uid == situation::SET_UID,
                _ => true,
            });
            before == 0 || !owners.is_empty()
        });
    }

    /// `0:a 1:a! 2:b~`: ordinals and images; `!` is not Ready, `~` is terminating.
    pub fn shows(&self) -> String {
        let mut pods: Vec<(i64, String)> = self
            .pods
            .iter()
            .map(|(name, pod)| {
                let ordinal = name.rsplit_once('-').unwrap().1.parse().unwrap();
                let image = pod
                    .spec
                    .as_ref()
                    .map(|s| s.containers[0].image.clone().unwrap());
                let ready = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
                let ready = ready.is_some_and(|c| c.iter().any(|c| c.status == "True"));
                let mut text = format!("{ordinal}:{}", image.unwrap_or_default());
                text.push_str(if ready { "" } else { "!" });
                text.push_str(if pod.metadata.deletion_timestamp.is_some() {
                    "~"
                } else {
                    ""
                });
                (ordinal, text)
            })
            .collect();
        pods.sort();
        pods.into_iter()
            .map(|(_, text)| text)
            .collect::<Vec<_>>()
            .join(" ")
    }

    pub fn status(&self) -> String {
        let status = self.set.status.clone().unwrap_or_default();
        format!(
            "{}/{}/{}/{}/{}",
            status.replicas,
            status.ready_replicas.unwrap_or_default(),
            status.available_replicas.unwrap_or_default(),
            status.current_replicas.unwrap_or_default(),
            status.updated_replicas.unwrap_or_default()
        )
    }
}

pub fn set_ready(pod: &mut Pod, ready: bool, now: Timestamp) {
    let status = pod.status.get_or_insert_default();
    let status_text = if ready { "True" } else { "False" };
    status.phase = Some(if ready { "Running" } else { "Pending" }.to_owned());
    status.start_time.get_or_insert(Time(now));
    let conditions = status.conditions.get_or_insert_default();
    match conditions.first_mut() {
        Some(condition) if condition.status == status_text => {}
        Some(condition) => {
            condition.status = status_text.to_owned();
            condition.last_transition_time = Some(Time(now));
        }
        None => conditions.push(PodCondition {
            type_: "Ready".to_owned(),
            status: status_text.to_owned(),
            last_transition_time: Some(Time(now)),
            ..PodCondition::default()
        }),
    }
}
