//! The history of writes, in the terms of the checks.

use std::time::Duration;

use json_tree::Value;
use tokio::time::Instant;

use crate::instances::Identity;

/// The state of a pod after its last write.
#[derive(Clone, Debug)]
pub(super) struct PodRecord {
    pub name: String,
    /// UID of the set that the pod belongs to.
    pub owner: Option<String>,
    /// The time at which the pod was last released.
    pub released_at: Option<Instant>,
    pub node: Option<String>,
    /// The label of the template, which distinguishes the templates of the user.
    pub template_label: String,
    pub ready: bool,
    /// The time since which the pod is Ready.
    pub ready_since: Option<Instant>,
    pub ended: bool,
    pub deleting: bool,
    pub observed_at: Instant,
}

impl PodRecord {
    pub fn of(pod: &Value, before: Option<&Self>, now: Instant) -> Self {
        let (meta, status) = (&pod["metadata"], &pod["status"]);
        let owners = meta["ownerReferences"].as_array().into_iter().flatten();
        let mut owners = owners.filter(|owner| owner["kind"] == "StatefulSet");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let owner = owners.next().and_then(|owner| text(&owner["uid"]));
        let released_at = match before {
            Some(before) if before.owner.is_some() && owner.is_none() => Some(now),
            before => before.and_then(|before| before.released_at),
        };
        let ready = condition(pod, "Ready") == Some(true);
        let since = before.and_then(|before| before.ready_since);
        Self {
            name: text(&meta["name"]).unwrap_or_default(),
            owner,
            released_at,
            node: text(&pod["spec"]["nodeName"]),
            template_label: template_label(&pod["spec"]),
            ready,
            ready_since: ready.then(|| since.unwrap_or(now)),
            ended: matches!(status["phase"].as_str(), Some("Failed" | "Succeeded")),
            deleting: !meta["deletionTimestamp"].is_null(),
            observed_at: before.map_or(now, |before| before.observed_at),
        }
    }
}

/// A former specification of a set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Version {
    pub start: i64,
    pub replicas: i64,
    pub ordered: bool,
    pub template_label: String,
    pub partition: i64,
    pub on_delete: bool,
    pub max_unavailable: bool,
    pub when_deleted: bool,
    pub when_scaled: bool,
    pub deleting: bool,
    pub orphaning: bool,
}

impl Version {
    pub fn of(set: &Value) -> Self {
        let (meta, spec) = (&set["metadata"], &set["spec"]);
        let rolling = &spec["updateStrategy"]["rollingUpdate"];
        let retention = &spec["persistentVolumeClaimRetentionPolicy"];
        let finalizers = meta["finalizers"].as_array().into_iter().flatten();
        Self {
            start: spec["ordinals"]["start"].as_i64().unwrap_or_default(),
            replicas: spec["replicas"].as_i64().unwrap_or(1),
            ordered: spec["podManagementPolicy"] != "Parallel",
            template_label: template_label(&spec["template"]["spec"]),
            partition: rolling["partition"].as_i64().unwrap_or_default(),
            on_delete: spec["updateStrategy"]["type"] == "OnDelete",
            max_unavailable: !rolling["maxUnavailable"].is_null(),
            when_deleted: retention["whenDeleted"] == "Delete",
            when_scaled: retention["whenScaled"] == "Delete",
            deleting: !meta["deletionTimestamp"].is_null(),
            orphaning: finalizers
                .into_iter()
                .any(|finalizer| finalizer == "orphan"),
        }
    }

    pub fn desires(&self, ordinal: i64) -> bool {
        (self.start..self.start + self.replicas).contains(&ordinal)
    }

    /// Whether a rolling update may replace a pod of that ordinal. Below the partition only an unhealthy pod of an
    /// abandoned template is replaced; the controller may decide with an older state of the pod.
    pub fn may_update(&self, ordinal: i64, pod: &PodRecord, staleness: Duration) -> bool {
        let ready_for_long = |since: Instant| since + staleness < Instant::now();
        let unhealthy = !pod.ready_since.is_some_and(ready_for_long);
        let in_reach = ordinal >= self.start + self.partition || unhealthy;
        self.template_label != pod.template_label && !self.on_delete && in_reach
    }
}

/// A set with all its former specifications.
pub(super) struct SetRecord {
    pub namespace: String,
    pub name: String,
    pub deleted_at: Option<Instant>,
    /// The specifications, each with the time from which it was valid.
    versions: Vec<(Instant, Version)>,
}

impl SetRecord {
    pub fn of(set: &Value) -> Self {
        let (namespace, name) = identity_of(set);
        Self {
            namespace,
            name,
            deleted_at: None,
            versions: Vec::new(),
        }
    }

    pub fn push(&mut self, version: Version, now: Instant) {
        if self
            .versions
            .last()
            .is_none_or(|(_, last)| *last != version)
        {
            self.versions.push((now, version));
        }
    }

    /// Whether the set is being deleted, or was deleted.
    pub fn is_ending(&self) -> bool {
        let last = self.versions.last();
        self.deleted_at.is_some() || last.is_some_and(|(_, version)| version.deleting)
    }

    /// The specifications of the set that were valid within that time.
    pub fn recent(&self, time: Duration) -> Vec<Version> {
        self.since(Instant::now().checked_sub(time))
    }

    fn since(&self, since: Option<Instant>) -> Vec<Version> {
        let ends = self.versions.iter().skip(1).map(|(at, _)| Some(*at));
        let ends = ends.chain([None]);
        let periods = self.versions.iter().zip(ends);
        periods
            .filter(|(_, end)| end.is_none_or(|end| since.is_none_or(|since| end >= since)))
            .map(|((_, version), _)| version.clone())
            .collect()
    }

    /// Whether the set has released the claims of that ordinal at some time since `since`.
    pub fn has_released_claims(&self, ordinal: i64, since: Instant, staleness: Duration) -> bool {
        let versions = self.since(since.checked_sub(staleness));
        // A background deletion leaves no version with a deletion time. As with a foreground deletion, the owners of
        // the claims are those of the last policy that the controller observed.
        let last = self.versions.last().map(|(_, version)| version);
        let is_released = self.deleted_at.is_some_and(|at| {
            let versions_observed = self.since(at.checked_sub(staleness));
            at + staleness >= since && versions_observed.iter().any(|version| version.when_deleted)
        }) && last.is_some_and(|last| !last.orphaning);
        is_released
            || versions
                .iter()
                .any(|version| version.when_scaled && !version.desires(ordinal))
            || self.deletes_claims(staleness)
    }

    /// Whether the deletion of the set includes the claims: the garbage collector uses the claims' owners, which the
    /// controller sets by the last policy that it observed.
    fn deletes_claims(&self, staleness: Duration) -> bool {
        let mut versions = self.versions.iter();
        let deletion = versions.find(|(_, version)| version.deleting && !version.orphaning);
        deletion.is_some_and(|(at, _)| {
            let versions_observed = self.since(at.checked_sub(staleness));
            versions_observed.iter().any(|version| version.when_deleted)
        })
    }
}

fn template_label(pod: &Value) -> String {
    let image = pod["containers"][0]["image"].as_str();
    format!(
        "{}/{}",
        image.unwrap_or_default(),
        pod["terminationGracePeriodSeconds"]
    )
}

pub(super) fn uid_of(object: &Value) -> String {
    let uid = object["metadata"]["uid"].as_str();
    uid.unwrap_or_default().to_owned()
}

pub(super) fn identity_of(object: &Value) -> Identity {
    let part = |name: &str| {
        object["metadata"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    (part("namespace"), part("name"))
}

/// The status of a condition; `None` if it is missing.
pub(super) fn condition(object: &Value, name: &str) -> Option<bool> {
    let conditions = object["status"]["conditions"].as_array()?;
    let mut conditions = conditions.iter();
    let first_match = conditions.find(|condition| condition["type"] == name)?;
    Some(first_match["status"] == "True")
}
