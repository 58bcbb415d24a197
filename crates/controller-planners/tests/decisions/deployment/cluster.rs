//! A small cluster in which ReplicaSets follow their spec at once, and pods of the image `bad` never become ready.

use std::sync::Arc;

use controller_planners::deployment::{DeploymentAction, DeploymentPlan, Observed, plan};
use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub struct Cluster {
    pub observed: Observed,
    now: Timestamp,
    versions: u64,
}

/// An action as a short text.
pub fn brief(action: &DeploymentAction) -> String {
    match action {
        DeploymentAction::ConfirmDeployment => "confirm".to_owned(),
        DeploymentAction::AdoptSet { .. } => "adopt".to_owned(),
        DeploymentAction::ReleaseSet { .. } => "release".to_owned(),
        DeploymentAction::CreateSet(set) => {
            let replicas = set.spec.as_ref().unwrap().replicas.unwrap();
            format!("create {} {replicas}", image(set))
        }
        DeploymentAction::UpdateSet {
            name,
            old_replicas: from,
            new_replicas: to,
            ..
        } => format!("scale {name} {from}→{to}"),
        DeploymentAction::DeleteSet { name, .. } => format!("delete {name}"),
    }
}

fn image(set: &ReplicaSet) -> String {
    let template = set.spec.as_ref().unwrap().template.clone();
    let spec = template.and_then(|template| template.spec);
    spec.map(|spec| spec.containers[0].image.clone().unwrap())
        .unwrap_or_default()
}

impl Cluster {
    pub fn new(replicas: i32, strategy: Value) -> Self {
        let deployment = json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "u", "generation": 1},
            "spec": {"replicas": replicas, "strategy": strategy, "progressDeadlineSeconds": 600,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c"}]}}},
        });
        Self {
            observed: Observed {
                deployment: Arc::new(json_tree::from_value(deployment).unwrap()),
                ..Observed::default()
            },
            now: Timestamp::UNIX_EPOCH,
            versions: 0,
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Deployment)) {
        let mut deployment = (*self.observed.deployment).clone();
        change(&mut deployment);
        *deployment.metadata.generation.as_mut().unwrap() += 1;
        self.observed.deployment = Arc::new(deployment);
    }

    pub fn set_image(&mut self, image: &str) {
        self.change(|deployment| {
            let spec = deployment.spec.as_mut().unwrap().template.spec.as_mut();
            spec.unwrap().containers[0].image = Some(image.to_owned());
        });
    }

    pub fn scale(&mut self, replicas: i32) {
        self.change(|deployment| deployment.spec.as_mut().unwrap().replicas = Some(replicas));
    }

    pub fn pause(&mut self, paused: bool) {
        self.change(|deployment| deployment.spec.as_mut().unwrap().paused = Some(paused));
    }

    pub fn limit_history(&mut self, limit: i32) {
        self.change(|deployment| {
            deployment.spec.as_mut().unwrap().revision_history_limit = Some(limit);
        });
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    pub fn plan(&self) -> DeploymentPlan {
        plan(&self.observed, self.now).unwrap()
    }

    /// The ReplicaSet that the next plan creates.
    pub fn planned_set(&self) -> ReplicaSet {
        let actions = self.plan().actions;
        let mut sets = actions.into_iter().filter_map(|action| match action {
            DeploymentAction::CreateSet(set) => Some(*set),
            _ => None,
        });
        sets.next().unwrap()
    }

    pub fn add(&mut self, mut set: ReplicaSet) {
        self.versions += 1;
        set.metadata.uid = Some(format!("set-{}", self.versions));
        set.metadata.resource_version = Some(self.versions.to_string());
        set.metadata.creation_timestamp = Some(Time(self.now));
        set.metadata.generation = Some(1);
        self.observed.sets.push(Arc::new(set));
        self.now += SignedDuration::from_secs(1);
    }

    /// Plans once, executes the plan, and lets the ReplicaSets follow. Returns the actions, in which the images of the
    /// ReplicaSets are their names.
    pub fn step(&mut self) -> Vec<String> {
        let plan = self.plan();
        let done = plan.actions.iter().map(|action| self.named(brief(action)));
        let done = done.filter(|text| !text.ends_with("same")).collect();
        for action in plan.actions {
            self.carry_out(action);
        }
        let mut deployment = (*self.observed.deployment).clone();
        if let Some(status) = plan.status {
            deployment.status = Some(status);
        }
        if let Some(revision) = plan.revision {
            let annotations = deployment.metadata.annotations.get_or_insert_default();
            annotations.insert("deployment.kubernetes.io/revision".to_owned(), revision);
        }
        self.observed.deployment = Arc::new(deployment);
        self.follow();
        done
    }

    fn named(&self, text: String) -> String {
        self.observed.sets.iter().fold(text, |text, set| {
            text.replace(set.metadata.name.as_deref().unwrap(), &image(set))
        })
    }

    fn carry_out(&mut self, action: DeploymentAction) {
        match action {
            DeploymentAction::CreateSet(set) => self.add(*set),
            DeploymentAction::UpdateSet {
                name,
                version: observed_version,
                new_replicas,
                annotations,
                ..
            } => {
                self.versions += 1;
                let version = self.versions.to_string();
                let sets = self.observed.sets.iter_mut();
                let set = sets
                    .map(Arc::make_mut)
                    .find(|set| set.metadata.name.as_ref() == Some(&name))
                    .unwrap();
                assert_eq!(
                    set.metadata.resource_version,
                    Some(observed_version.to_string())
                );
                set.metadata.resource_version = Some(version);
                set.spec.as_mut().unwrap().replicas = Some(new_replicas);
                set.metadata
                    .annotations
                    .get_or_insert_default()
                    .extend(annotations);
            }
            DeploymentAction::DeleteSet { name, .. } => {
                let other = |set: &Arc<ReplicaSet>| set.metadata.name.as_ref() != Some(&name);
                self.observed.sets.retain(other);
            }
            other => panic!("unexpected: {other:?}"),
        }
    }

    fn follow(&mut self) {
        for set in &mut self.observed.sets {
            let bad = image(set) == "bad";
            let set = Arc::make_mut(set);
            let replicas = set.spec.as_ref().unwrap().replicas.unwrap_or_default();
            let good = if bad { 0 } else { replicas };
            set.status = Some(ReplicaSetStatus {
                replicas,
                ready_replicas: Some(good),
                available_replicas: Some(good),
                observed_generation: set.metadata.generation,
                ..ReplicaSetStatus::default()
            });
        }
    }

    /// Repeats steps until a plan is empty.
    pub fn settle(&mut self) {
        for _ in 0..100 {
            if self.plan().is_idle() {
                return;
            }
            self.step();
            self.check();
        }
        panic!("does not settle: {} {:?}", self.shows(), self.plan());
    }

    /// The invariant of a rolling update: the number of pods is within the limits, unless the Deployment was scaled.
    pub fn check(&self) {
        let spec = self.observed.deployment.spec.as_ref().unwrap();
        let old: Vec<String> = self.observed.sets.iter().map(|set| image(set)).collect();
        let mut unique = old.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), old.len(), "one ReplicaSet for each template");
        if spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate") {
            let running = self
                .observed
                .sets
                .iter()
                .filter(|set| set.spec.as_ref().unwrap().replicas.unwrap_or_default() > 0);
            assert!(running.count() <= 1, "old and new run side by side");
        }
    }

    pub fn replicas(&self) -> i32 {
        self.observed
            .deployment
            .spec
            .as_ref()
            .unwrap()
            .replicas
            .unwrap()
    }

    /// The number of pods of all ReplicaSets.
    pub fn total(&self) -> i32 {
        let sets = self.observed.sets.iter();
        sets.map(|set| set.status.as_ref().map_or(0, |status| status.replicas))
            .sum()
    }

    /// `a:0/0 b:3/3`: the replicas and the available replicas of each image.
    pub fn shows(&self) -> String {
        let mut all: Vec<String> = self
            .observed
            .sets
            .iter()
            .map(|set| {
                let status = set.status.clone().unwrap_or_default();
                let available = status.available_replicas.unwrap_or_default();
                format!("{}:{}/{available}", image(set), status.replicas)
            })
            .collect();
        all.sort();
        all.join(" ")
    }

    pub fn progress(&self) -> String {
        let status = self.observed.deployment.status.clone().unwrap();
        let conditions = status.conditions.unwrap();
        let progress = conditions.into_iter().find(|c| c.type_ == "Progressing");
        progress.unwrap().reason.unwrap()
    }

    pub fn revision(&self) -> String {
        let annotations = self.observed.deployment.metadata.annotations.as_ref();
        annotations.unwrap()["deployment.kubernetes.io/revision"].clone()
    }
}
