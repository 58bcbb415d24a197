//! A small cluster: stores the writes of plans as the API server would, and acts as the kubelet and the garbage
//! collector on request.

use std::ops::{Deref, DerefMut};

use controller_planners::stateful_set::forecast::Objects;
use controller_planners::stateful_set::{
    Observed, StatefulSetAction, StatefulSetPlan, invariants, plan,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimCondition, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use resource_kinds::annotations::HOOK;
use resource_kinds::stateful_set_policy::PodHold;

use super::situation;

pub struct Cluster {
    pub objects: Objects,
    pub now: Timestamp,
    /// The writes to pods, in order.
    pub log: Vec<String>,
    /// Whether hooks do not succeed.
    pub hooks_fail: bool,
}

impl Deref for Cluster {
    type Target = Objects;

    fn deref(&self) -> &Objects {
        &self.objects
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut Objects {
        &mut self.objects
    }
}

impl Cluster {
    pub fn new(situation: &str) -> Self {
        let observed = situation::parse(situation);
        let mut objects = Objects::of((*observed.set).clone(), observed.policy);
        objects.group = observed.group;
        let mut cluster = Self {
            objects,
            now: situation::now(),
            log: Vec::new(),
            hooks_fail: false,
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

    /// A cluster at rest, with an empty log.
    pub fn settled(situation: &str) -> Self {
        let mut cluster = Self::new(situation);
        cluster.settle();
        cluster.log.clear();
        cluster
    }

    /// A cluster at rest whose set has got the template `b`.
    pub fn updated(situation: &str) -> Self {
        let mut cluster = Self::settled(situation);
        cluster.set_image("b");
        cluster
    }

    pub fn observed(&self) -> Observed {
        self.objects.observed().unwrap()
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

    fn write(&mut self, action: &StatefulSetAction) {
        let now = self.now;
        self.objects.write(action, now).unwrap();
        match action {
            StatefulSetAction::RejectRevision { evidence, .. } => {
                self.log.push(format!("rejected {}", evidence.pod));
            }
            StatefulSetAction::CreatePod(pod) => {
                let name = pod.metadata.name.as_ref().unwrap();
                let image = pod.spec.as_ref().unwrap().containers[0].image.as_ref();
                self.log.push(format!("+{name}:{}", image.unwrap()));
            }
            StatefulSetAction::DeletePod { name, .. }
            | StatefulSetAction::EvictPod { name, .. } => self.log.push(format!("-{name}")),
            StatefulSetAction::AnnotatePod {
                name, annotations, ..
            } => {
                if let Some(text) = annotations.get(HOOK) {
                    let hold = text.as_deref().and_then(PodHold::parse);
                    self.log.extend(hold.and_then(|hold| {
                        let back = if hold.cancels { "undo " } else { "" };
                        Some(format!("{back}{} {name}", hold.hook?))
                    }));
                }
            }
            _ => {}
        }
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
        let pod = self.objects.pods.get_mut(name).unwrap();
        pod.metadata.deletion_timestamp = Some(Time(self.now));
    }

    /// Terminating pods are removed; existing pods become Ready, unless their image is bad. Claims
    /// of deleted owners are deleted.
    pub fn kubelet(&mut self) {
        self.pods
            .retain(|_, pod| pod.metadata.deletion_timestamp.is_none());
        let now = self.now;
        for pod in self.objects.pods.values_mut() {
            let image = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.containers[0].image.clone());
            let good = image.is_none_or(|image| !image.starts_with("bad"));
            set_ready(pod, good, now);
            if !self.hooks_fail {
                answer_hook(pod, now);
            }
        }
        self.objects.collect_claims();
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

/// Acts as the node whose hook succeeds.
pub fn answer_hook(pod: &mut Pod, now: Timestamp) {
    let annotations = pod.metadata.annotations.as_ref();
    let Some(hold) = annotations.and_then(|all| PodHold::parse(all.get(HOOK)?)) else {
        return;
    };
    let status = pod.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    if conditions
        .iter()
        .any(|one| one.message.as_ref() == Some(&hold.id))
    {
        return;
    }
    conditions.retain(|one| one.type_ != "mainstay.dev/HookDone");
    conditions.push(PodCondition {
        type_: "mainstay.dev/HookDone".to_owned(),
        status: "True".to_owned(),
        message: Some(hold.id),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    });
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
