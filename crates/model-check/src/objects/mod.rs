//! The conversion between the small state and the objects that the planner reads and writes.

mod claims;
mod numbered;
mod policy;

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_planners::stateful_set::write_schedule::Write;
use controller_planners::stateful_set::{Observed, StatefulSetAction, identity, revisions};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    ControllerRevision, RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetOrdinals,
    StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetStatus,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Container, Pod as PodObject, PodCondition, PodSpec, PodStatus, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, ObjectMeta, OwnerReference, Time,
};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use object_model::ResourceVersion;
use resource_kinds::annotations::REJECTED;
use resource_kinds::labels;
use resource_kinds::reasons::pod_condition;
use resource_kinds::stateful_set_policy::Evidence;

use crate::state::{
    Aim, Health, Id, Objects, Op, Owners, Phase, Pod, Recovery, Revision, Set, TEMPLATES,
};
use crate::world::{Strategy, World};
use numbered::Numbered;

/// The time of every plan, in seconds.
pub const NOW: i64 = 2_000_000;
/// The time at which pods were created and started.
const STARTED: i64 = NOW - 100_000;
/// The time at which formerly Ready pods became unready.
const CEASED: i64 = NOW - 50_000;
/// The time at which pods started, or became unready, whose deadline has not passed.
const RECENTLY: i64 = NOW - 10;
/// A tick of the world's clock.
const TICK: i64 = 10;

const NAMESPACE: &str = "default";
const SET: &str = "web";
const CLAIM: &str = "data";

/// Builds objects, and reads writes.
pub struct Builder {
    world: World,
    templates: Vec<PodTemplateSpec>,
    /// Names of revisions, by template.
    names: Vec<String>,
    /// The statuses that have occurred, without the generation, which is part of the state.
    pub statuses: Numbered<StatefulSetStatus>,
    /// The verdicts that have occurred, without the UID of the pod.
    verdicts: Numbered<Evidence>,
}

impl Builder {
    /// For a world.
    pub fn new(world: &World) -> Self {
        let templates: Vec<_> = (0..TEMPLATES).map(template).collect();
        let names = templates.iter().map(|template| {
            let bytes = revisions::bytes(&revisions::encode(template));
            revisions::name(SET, &revisions::hash(&bytes, Some(0)))
        });
        Self {
            world: world.clone(),
            names: names.collect(),
            templates,
            statuses: Numbered::default(),
            verdicts: Numbered::default(),
        }
    }

    /// The planner's input.
    pub fn observed(&self, objects: &Objects) -> Observed {
        let Some(set) = &objects.set else {
            return Observed::default();
        };
        let numbered = |at: usize| u8::try_from(at).unwrap_or(u8::MAX);
        let pods = objects.pods.iter().enumerate();
        let pods = pods
            .filter_map(|(at, pod)| Some(self.pod(numbered(at), pod.as_ref()?)))
            .filter_map(|pod| Some(Arc::new(pod.try_into().ok()?)));
        let revisions = objects.revisions.iter().enumerate();
        let revisions = revisions
            .filter_map(|(at, revision)| Some(Arc::new(self.revision(at, revision.as_ref()?))));
        let claims = objects.claims.iter().enumerate();
        let claims = claims.filter_map(|(at, claim)| {
            let claim = claims::object(numbered(at), claim.as_ref()?);
            Some((claim.metadata.name.clone()?, Arc::new(claim)))
        });
        Observed {
            set: Arc::new(self.set(set)),
            pods: pods.collect(),
            revisions: revisions.collect(),
            claims: claims.collect(),
            group: policy::other_set(&self.world, set.spec, objects.healthy_others),
            policy: policy::policy(set.spec, self.world.others > 0),
            refused: Vec::new(),
        }
    }

    fn set(&self, set: &Set) -> StatefulSet {
        let is_current = set
            .status
            .is_some_and(|status| status.observed == set.generation);
        let status = set.status.map(|status| StatefulSetStatus {
            observed_generation: Some(if is_current { 2 } else { 1 }),
            ..self.statuses.get(status.text)
        });
        StatefulSet {
            metadata: ObjectMeta {
                name: Some(SET.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                uid: Some(uid("set", set.uid)),
                resource_version: Some(version(set.version)),
                generation: Some(2),
                annotations: Some(self.annotations()),
                creation_timestamp: Some(at(STARTED)),
                deletion_timestamp: set.deleting.map(|_| at(CEASED)),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec(set)),
            status,
        }
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let pairs = self.world.annotations.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn spec(&self, set: &Set) -> StatefulSetSpec {
        let spec = &set.spec;
        let policy = |delete: bool| Some(if delete { "Delete" } else { "Retain" }.to_owned());
        StatefulSetSpec {
            replicas: Some(i32::from(spec.replicas)),
            ordinals: Some(StatefulSetOrdinals {
                start: Some(i32::from(spec.start)),
            }),
            template: self.templates[usize::from(spec.template)].clone(),
            selector: LabelSelector {
                match_labels: Some(app()),
                ..LabelSelector::default()
            },
            service_name: Some(SET.to_owned()),
            pod_management_policy: (!self.world.ordered).then(|| "Parallel".to_owned()),
            update_strategy: Some(self.strategy(spec.partition)),
            min_ready_seconds: i32::try_from(i64::from(self.world.min_ready) * TICK).ok(),
            revision_history_limit: Some(self.world.history),
            volume_claim_templates: self.world.claims.then(|| vec![claims::template(spec)]),
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: policy(spec.delete_when_deleted),
                    when_scaled: policy(spec.delete_when_scaled),
                },
            ),
        }
    }

    fn strategy(&self, partition: u8) -> StatefulSetUpdateStrategy {
        let block = RollingUpdateStatefulSetStrategy {
            partition: Some(i32::from(partition)),
            max_unavailable: self.world.max_unavailable.map(IntOrString::Int),
        };
        let (strategy_type, block) = match self.world.strategy {
            Strategy::RollingUpdate => ("RollingUpdate", Some(block)),
            Strategy::RollingUpdateWithoutBlock => ("RollingUpdate", None),
            Strategy::OnDelete => ("OnDelete", None),
        };
        StatefulSetUpdateStrategy {
            type_: Some(strategy_type.to_owned()),
            rolling_update: block,
        }
    }

    fn pod(&self, ordinal: u8, pod: &Pod) -> PodObject {
        let template = usize::from(pod.revision);
        let name = identity::pod_name(SET, i64::from(ordinal));
        let mut pod_labels = app();
        pod_labels.extend(identity::pod_labels(
            SET,
            i64::from(ordinal),
            &self.names[template],
        ));
        let is_timely = self.world.judges() && !pod.is_overdue;
        let (ready, changed) = match pod.health {
            Health::Never | Health::Lost if is_timely => ("False", RECENTLY),
            Health::Never => ("False", STARTED),
            Health::Lost => ("False", CEASED),
            Health::Ready(age) => ("True", NOW - i64::from(age) * TICK),
        };
        let started = match pod.health {
            Health::Never if is_timely => RECENTLY,
            _ => STARTED,
        };
        let condition = |kind: &str, status: &str, changed| PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            last_transition_time: Some(at(changed)),
            ..PodCondition::default()
        };
        let checks = self.world.spec.checks;
        let results = [
            (checks.health, pod.passes_health, pod_condition::HEALTHY),
            (
                checks.recovery,
                pod.recovery != Recovery::Pending,
                pod_condition::RECOVERED,
            ),
            (pod.is_announced, true, pod_condition::DISRUPTION_TARGET),
        ];
        let results = results.into_iter().filter(|(is_set, ..)| *is_set);
        let results = results.map(|(_, holds, kind)| {
            condition(kind, if holds { "True" } else { "False" }, RECENTLY)
        });
        let mut conditions = vec![condition(pod_condition::READY, ready, changed)];
        conditions.extend(results);
        let phase = match pod.phase {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Ended => "Failed",
        };
        PodObject {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(NAMESPACE.to_owned()),
                uid: Some(uid("pod", pod.uid)),
                // The model has no versions of pods.
                resource_version: Some("1".to_owned()),
                labels: Some(pod_labels),
                annotations: policy::check_annotations(checks),
                owner_references: pod.owner.map(|set| vec![owner_set(set)]),
                creation_timestamp: Some(at(STARTED)),
                deletion_timestamp: pod.terminating.then(|| at(CEASED)),
                ..ObjectMeta::default()
            },
            spec: self.templates[template].spec.clone().map(|spec| PodSpec {
                // The planner distinguishes only whether the pod has a node.
                node_name: (pod.phase != Phase::Pending).then(|| "node".to_owned()),
                volumes: self.world.claims.then(|| vec![claims::of_pod(ordinal)]),
                ..spec
            }),
            status: Some(PodStatus {
                phase: Some(phase.to_owned()),
                conditions: Some(conditions),
                start_time: Some(at(started)),
                ..PodStatus::default()
            }),
        }
    }

    fn revision(&self, template: usize, revision: &Revision) -> ControllerRevision {
        ControllerRevision {
            metadata: ObjectMeta {
                name: Some(self.names[template].clone()),
                namespace: Some(NAMESPACE.to_owned()),
                uid: Some(uid("revision", revision.uid)),
                labels: Some(app()),
                annotations: revision.rejected.map(|number| {
                    let verdict = self.verdicts.get(number);
                    let text = serde_json::to_string(&verdict).expect("a verdict is JSON");
                    BTreeMap::from([(REJECTED.to_owned(), text)])
                }),
                owner_references: revision.owner.map(|set| vec![owner_set(set)]),
                creation_timestamp: Some(at(STARTED)),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(revisions::encode(&self.templates[template]))),
            revision: i64::from(revision.number),
        }
    }

    /// The compact form of a write about observed objects.
    ///
    /// # Errors
    ///
    /// The write names an object outside of this world, which is a violation.
    pub fn op(&self, cached: &Objects, write: Write<'_>) -> Result<Op, String> {
        let set = cached.set.as_ref().ok_or("a plan without a set")?;
        let op = match write {
            Write::Status(status) => {
                let mut text = status.clone();
                text.observed_generation = None;
                return Ok(Op::WriteStatus {
                    set: set.uid,
                    version: set.version,
                    generation: set.generation,
                    text: self.statuses.number(text),
                });
            }
            Write::Action(action) => self.action(cached, set, action),
        };
        op.ok_or_else(|| format!("a write about something unknown: {write:?}"))
    }

    fn action(&self, cached: &Objects, set: &Set, action: &StatefulSetAction) -> Option<Op> {
        Some(match action {
            StatefulSetAction::ConfirmSet => Op::ConfirmSet { set: set.uid },
            StatefulSetAction::AdoptRevision { name, uid } => Op::AdoptRevision {
                template: self.template(name)?,
                uid: id(uid.as_str())?,
                set: set.uid,
            },
            StatefulSetAction::AdoptPod { name, uid } => Op::AdoptPod {
                ordinal: ordinal(name)?,
                uid: id(uid.as_str())?,
                set: set.uid,
            },
            StatefulSetAction::ReleasePod { name, uid } => Op::ReleasePod {
                ordinal: ordinal(name)?,
                uid: id(uid.as_str())?,
            },
            StatefulSetAction::CreateRevision(revision) => Op::CreateRevision {
                template: self.template(revision.metadata.name.as_deref()?)?,
                number: u8::try_from(revision.revision).ok()?,
                set: set.uid,
            },
            StatefulSetAction::RenumberRevision {
                name,
                uid,
                revision,
            } => Op::RenumberRevision {
                template: self.template(name)?,
                uid: id(uid.as_str())?,
                number: u8::try_from(*revision).ok()?,
            },
            StatefulSetAction::DeleteRevision { name, uid } => Op::DeleteRevision {
                template: self.template(name)?,
                uid: id(uid.as_str())?,
            },
            StatefulSetAction::CreateClaim(claim) => Op::CreateClaim {
                ordinal: ordinal(claim.metadata.name.as_deref()?)?,
                set: owners(claim.metadata.owner_references.as_deref())?.set,
                volume: claims::volume(claim)?,
            },
            StatefulSetAction::SetClaimOwners {
                name,
                uid,
                version,
                owners: new_owners,
            } => Op::SetClaimOwners {
                ordinal: ordinal(name)?,
                uid: id(uid.as_str())?,
                version: id_of_version(*version)?,
                owners: owners(Some(new_owners))?,
            },
            StatefulSetAction::EditClaim {
                name,
                uid,
                version,
                edit,
            } => Op::EditClaim {
                ordinal: ordinal(name)?,
                uid: id(uid.as_str())?,
                version: id_of_version(*version)?,
                edit: claims::change(edit)?,
            },
            // No world has steps.
            StatefulSetAction::RecordStep { .. } => return None,
            StatefulSetAction::RejectRevision {
                name,
                uid,
                evidence,
            } => Op::RejectRevision {
                template: self.template(name)?,
                uid: id(uid.as_str())?,
                verdict: self.verdicts.number(Evidence {
                    uid: String::new(),
                    ..(**evidence).clone()
                }),
            },
            StatefulSetAction::CreatePod(pod) => {
                let labels = pod.metadata.labels.as_ref()?;
                Op::CreatePod {
                    ordinal: ordinal(pod.metadata.name.as_deref()?)?,
                    revision: self.template(labels.get(labels::CONTROLLER_REVISION_HASH)?)?,
                    set: owners(pod.metadata.owner_references.as_deref())?.set?,
                }
            }
            StatefulSetAction::LabelPod { name, uid, .. }
            | StatefulSetAction::AnnotatePod { name, uid, .. } => Op::LabelPod {
                ordinal: ordinal(name)?,
                uid: id(uid.as_str())?,
            },
            StatefulSetAction::DeletePod { name, uid, .. } => Op::DeletePod {
                ordinal: ordinal(name)?,
                uid: id(uid.as_str())?,
                aim: aim(cached, set, ordinal(name)?),
            },
            StatefulSetAction::EvictPod { name, uid, .. } => Op::EvictPod {
                ordinal: ordinal(name)?,
                uid: id(uid.as_str())?,
                aim: aim(cached, set, ordinal(name)?),
            },
        })
    }

    fn template(&self, revision: &str) -> Option<u8> {
        let at = self.names.iter().position(|name| name == revision)?;
        u8::try_from(at).ok()
    }

    /// The template of a revision with that name.
    pub fn template_of(&self, revision: Option<&str>) -> Option<u8> {
        self.template(revision?)
    }
}

/// The aim of the deletion of a pod: a pod of the set's own template is deleted only to return to the one before, and
/// any other pod for the set's template, unless that is rejected.
fn aim(cached: &Objects, set: &Set, ordinal: u8) -> Option<Aim> {
    set.spec.on_failure?;
    let pod = cached.pods[usize::from(ordinal)].as_ref()?;
    if !set.spec.desires(usize::from(ordinal)) || pod.phase == Phase::Ended {
        return None;
    }
    let update = set.spec.template;
    let revision = cached.revisions[usize::from(update)];
    let is_rejected = revision.is_some_and(|revision| revision.rejected.is_some());
    match pod.revision == update || is_rejected {
        true => Some(Aim::Return(update)),
        false => Some(Aim::Update(update)),
    }
}

fn template(number: usize) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(app()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "main".to_owned(),
                image: Some(format!("image:{number}")),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
    }
}

fn app() -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), SET.to_owned())])
}

fn owner_set(set: Id) -> OwnerReference {
    OwnerReference {
        api_version: identity::API_VERSION.to_owned(),
        kind: identity::KIND.to_owned(),
        name: SET.to_owned(),
        uid: uid("set", set),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn owner_pod(ordinal: u8, pod: Id) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: identity::pod_name(SET, i64::from(ordinal)),
        uid: uid("pod", pod),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn owners(references: Option<&[OwnerReference]>) -> Option<Owners> {
    let mut owners = Owners::default();
    for owner in references.unwrap_or_default() {
        let owner_id = Some(id(&owner.uid)?);
        if owner.kind == identity::KIND {
            owners.set = owner_id;
        } else {
            owners.pod = owner_id;
        }
    }
    Some(owners)
}

/// The ordinal in a name: 3 for `web-3` and `data-web-3`.
fn ordinal(name: &str) -> Option<u8> {
    name.rsplit_once('-')?.1.parse().ok()
}

fn uid(kind: &str, id: Id) -> String {
    format!("{kind}-{id}")
}

/// Versions are positive, and identifiers begin with 0.
fn version(id: Id) -> String {
    (u64::from(id) + 1).to_string()
}

fn id_of_version(version: ResourceVersion) -> Option<Id> {
    Id::try_from(version.get() - 1).ok()
}

fn id(uid: &str) -> Option<Id> {
    uid.rsplit_once('-')?.1.parse().ok()
}

fn at(second: i64) -> Time {
    Time(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second))
}
