//! The observed state, and its parsed form.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use object_model::{IncompleteMetadata, IntOrPercent, ResourceVersion, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{DESIRED_REPLICAS, MAX_REPLICAS, REVISION};
use resource_kinds::labels::POD_TEMPLATE_HASH;
use resource_kinds::pod_view::PodView;

use crate::pod_set::{Owner, OwnerKind};

/// The observed state of one Deployment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub deployment: Arc<Deployment>,
    /// ReplicaSets of its namespace: at least the owned ReplicaSets, those without an owner, and those whose names
    /// begin with the Deployment's name.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// Pods of its namespace: at least those of its ReplicaSets.
    pub pods: Vec<Arc<PodView>>,
}

/// `spec.strategy.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    Recreate,
    Rolling,
}

/// A ReplicaSet of the Deployment, with its planned number of replicas.
#[derive(Clone, Debug)]
pub(super) struct Set<'a> {
    pub set: &'a Arc<ReplicaSet>,
    pub name: &'a str,
    pub uid: Uid,
    pub version: ResourceVersion,
    pub target: i32,
    /// Annotations to set on the ReplicaSet, by key.
    pub annotations: BTreeMap<String, String>,
    pub min_ready: Option<i32>,
}

impl<'a> Set<'a> {
    pub fn of(set: &'a Arc<ReplicaSet>) -> Result<Self, IncompleteMetadata> {
        Ok(Self {
            set,
            name: set.metadata.object_name()?,
            uid: set.metadata.object_uid()?,
            version: set.metadata.object_version()?,
            target: stored_replicas(set),
            annotations: BTreeMap::new(),
            min_ready: None,
        })
    }

    /// The `spec.replicas` of the stored ReplicaSet.
    pub fn stored(&self) -> i32 {
        stored_replicas(self.set)
    }

    pub fn available(&self) -> i32 {
        let status = self.set.status.as_ref();
        status
            .and_then(|s| s.available_replicas)
            .unwrap_or(0)
            .max(0)
    }

    pub fn ready(&self) -> i32 {
        let status = self.set.status.as_ref();
        status.and_then(|s| s.ready_replicas).unwrap_or(0).max(0)
    }

    pub fn actual(&self) -> i32 {
        self.set.status.as_ref().map_or(0, |s| s.replicas.max(0))
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        let stored = || self.set.metadata.annotations.as_ref()?.get(key);
        let value = self.annotations.get(key).or_else(stored)?;
        Some(value.as_str())
    }

    /// The value of an annotation, parsed as a number.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.annotation(key)?.parse().ok()
    }

    pub fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or_default()
    }

    /// Sets an annotation, if it differs from the stored one.
    pub fn annotate(&mut self, key: &str, value: String) {
        if self.annotation(key) != Some(&value) {
            self.annotations.insert(key.to_owned(), value);
        }
    }

    /// Sets the number of replicas, and records the Deployment's own number in an annotation.
    pub fn scale(&mut self, target: i32, parsed: &ParsedDeployment<'_>) {
        self.target = target.max(0);
        self.annotate(DESIRED_REPLICAS, parsed.replicas.to_string());
        self.annotate(MAX_REPLICAS, (parsed.replicas + parsed.surge).to_string());
    }
}

fn stored_replicas(set: &ReplicaSet) -> i32 {
    let spec = set.spec.as_ref();
    spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0)
}

/// The parsed Deployment and its ReplicaSets.
pub(super) struct ParsedDeployment<'a> {
    pub deployment: &'a Deployment,
    pub owner: Owner<'a>,
    pub observed: &'a Observed,
    pub now: Timestamp,
    pub replicas: i32,
    pub strategy: Strategy,
    pub surge: i32,
    pub unavailable: i32,
    pub paused: bool,
    pub template: &'a PodTemplateSpec,
    pub min_ready: Option<i32>,
    /// The progress deadline; `None` waits without a limit.
    pub deadline: Option<SignedDuration>,
    pub history_limit: Option<usize>,
}

static NO_TEMPLATE: PodTemplateSpec = PodTemplateSpec {
    metadata: None,
    spec: None,
};

impl<'a> ParsedDeployment<'a> {
    pub fn of(observed: &'a Observed, now: Timestamp) -> Result<Self, IncompleteMetadata> {
        let deployment = &*observed.deployment;
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|s| s.replicas).unwrap_or(1).max(0);
        let strategy = match spec.and_then(|s| s.strategy.as_ref()?.type_.as_deref()) {
            Some("Recreate") => Strategy::Recreate,
            _ => Strategy::Rolling,
        };
        let (surge, unavailable) = match strategy {
            Strategy::Recreate => (0, 0),
            Strategy::Rolling => fences(spec, replicas),
        };
        let deadline = spec.and_then(|s| s.progress_deadline_seconds);
        let limit = spec.and_then(|s| s.revision_history_limit);
        let nothing = Default::default();
        let selector = spec.map_or(&nothing, |spec| &spec.selector);
        let kind = OwnerKind {
            api_version: "apps/v1",
            kind: "Deployment",
        };
        Ok(Self {
            deployment,
            owner: Owner::new(kind, &deployment.metadata, selector)?,
            observed,
            now,
            replicas,
            strategy,
            surge,
            unavailable,
            paused: spec.and_then(|s| s.paused).unwrap_or_default(),
            template: spec.map_or(&NO_TEMPLATE, |s| &s.template),
            min_ready: spec.and_then(|s| s.min_ready_seconds),
            deadline: deadline
                .filter(|seconds| *seconds < i32::MAX)
                .map(|seconds| SignedDuration::from_secs(seconds.into())),
            history_limit: limit
                .filter(|limit| *limit < i32::MAX)
                .and_then(|limit| usize::try_from(limit).ok()),
        })
    }
}

/// `maxSurge` and `maxUnavailable` as numbers. At least one of them is positive.
fn fences(spec: Option<&DeploymentSpec>, replicas: i32) -> (i32, i32) {
    let rolling = spec.and_then(|s| s.strategy.as_ref()?.rolling_update.as_ref());
    let number = |value: Option<&IntOrString>, round_up: bool| {
        let value = value.and_then(|value| json_tree::to_value(value).ok());
        let value = value.and_then(|value| IntOrPercent::from_json(&value));
        let value = value.unwrap_or(IntOrPercent::Percent(25));
        value.of(replicas, round_up).max(0)
    };
    let surge = number(rolling.and_then(|r| r.max_surge.as_ref()), true);
    let unavailable = number(rolling.and_then(|r| r.max_unavailable.as_ref()), false);
    match (surge, unavailable) {
        (0, 0) => (0, 1.min(replicas)),
        _ => (
            // The sum of surge and replicas must fit into an `i32`.
            surge.min(i32::MAX.saturating_sub(replicas)),
            unavailable.min(replicas),
        ),
    }
}

/// Whether two templates are equal, apart from the hash label of a ReplicaSet.
pub(super) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let plain = |template: &PodTemplateSpec| {
        let meta = template.metadata.clone().unwrap_or_default();
        let mut labels = meta.labels.clone().unwrap_or_default();
        labels.remove(POD_TEMPLATE_HASH);
        let annotations = meta.annotations.clone().unwrap_or_default();
        (labels, annotations, meta.finalizers.unwrap_or_default())
    };
    a.spec == b.spec && plain(a) == plain(b)
}
