//! A StatefulSet of the built-in image, and queries of it.

use serde_json::{Value, json};

use crate::cluster::{is_observed, is_ready};
use crate::{Kubectl, wait_for, wait_for_or_report};

/// A set `web` of version `a`, whose pods are ready as soon as they respond.
pub fn web(replicas: u64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web"}, "spec": {
        "serviceName": "web", "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "hello", "image": "mainstay/hello",
                "env": [{"name": "VERSION", "value": "a"}],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 80},
                    "periodSeconds": 1}}]}}}})
}

/// As [`web`], with a claim `data` for each pod.
pub fn web_with_claims(replicas: u64) -> Value {
    let mut set = web(replicas);
    set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Mi"}}}}]);
    let mounts = json!([{"name": "data", "mountPath": "/data"}]);
    set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = mounts;
    set
}

/// A patch of the only container.
pub fn container(change: Value) -> Value {
    let mut container = json!({"name": "hello"});
    for (field, value) in change.as_object().into_iter().flatten() {
        container[field] = value.clone();
    }
    json!({"spec": {"template": {"spec": {"containers": [container]}}}})
}

/// A patch to another version.
pub fn version(version: &str) -> Value {
    container(json!({"env": [{"name": "VERSION", "value": version}]}))
}

impl Kubectl {
    /// Patches the set `web`.
    ///
    /// # Panics
    /// The command fails.
    #[track_caller]
    pub fn patch_web(&self, patch: &Value) {
        self.ok(&["patch", "statefulset", "web", "-p", &patch.to_string()]);
    }

    /// `0:a 1:b! 2:b~`: the ordinals of the pods of `web` with their versions; `!` is not Ready, `~` is being deleted.
    #[track_caller]
    pub fn versions(&self) -> String {
        versions_of(&self.json(&["get", "pods", "-l", "app=web"]))
    }

    /// Waits until [`versions`](Self::versions) returns `expected`.
    ///
    /// # Panics
    ///
    /// The wait takes too long.
    #[track_caller]
    pub fn wait_versions(&self, expected: &str) {
        let probe = || {
            let versions = versions_of(&self.get(&["pods", "-l", "app=web"])?);
            if versions == expected {
                Ok(())
            } else {
                Err(versions)
            }
        };
        let describe = || self.run(&["describe", "statefulset", "web"]).stdout;
        wait_for_or_report(expected, 90, probe, describe);
    }

    /// `status reason message` of a condition of the set `web`.
    #[track_caller]
    pub fn condition(&self, kind: &str) -> String {
        condition_of(&self.json(&["get", "statefulset", "web"]), kind)
    }

    /// Waits until a condition of the set `web` begins with this text.
    ///
    /// # Panics
    ///
    /// The wait takes too long.
    #[track_caller]
    pub fn wait_condition(&self, kind: &str, start: &str) -> String {
        wait_for(&format!("{kind} {start}"), 90, || {
            // A status from before the last change is not about the change.
            let set = self.get(&["statefulset", "web"])?;
            let condition = condition_of(&set, kind);
            if is_observed(&set) && condition.starts_with(start) {
                Ok(condition)
            } else {
                Err(condition)
            }
        })
    }

    /// The UID of a pod.
    #[track_caller]
    pub fn pod_uid(&self, name: &str) -> String {
        self.ok(&["get", "pod", name, "-o", "jsonpath={.metadata.uid}"])
    }

    /// Names and kinds of owners of the claims: `data-web-0:StatefulSet data-web-1:`.
    #[track_caller]
    pub fn claim_owners(&self) -> String {
        let claims = self.json(&["get", "pvc"]);
        let mut rows: Vec<String> = Vec::new();
        for claim in claims["items"].as_array().into_iter().flatten() {
            let owners = claim["metadata"]["ownerReferences"].as_array();
            let kinds = owners
                .into_iter()
                .flatten()
                .filter_map(|o| o["kind"].as_str());
            let name = claim["metadata"]["name"].as_str().unwrap_or_default();
            rows.push(format!("{name}:{}", kinds.collect::<Vec<_>>().join("+")));
        }
        rows.sort();
        rows.join(" ")
    }
}

/// As [`Kubectl::versions`].
fn versions_of(pods: &Value) -> String {
    let mut members: Vec<(u64, String)> = Vec::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let ordinal = name.rsplit('-').next().and_then(|n| n.parse().ok());
        let environment = &pod["spec"]["containers"][0]["env"];
        let version = environment[0]["value"].as_str().unwrap_or("?");
        let dying = !pod["metadata"]["deletionTimestamp"].is_null();
        let bad = if is_ready(pod) { "" } else { "!" };
        let mark = if dying { "~" } else { "" };
        let ordinal = ordinal.unwrap_or(u64::MAX);
        members.push((ordinal, format!("{ordinal}:{version}{bad}{mark}")));
    }
    members.sort();
    let texts: Vec<String> = members.into_iter().map(|(_, text)| text).collect();
    texts.join(" ")
}

/// `status reason message` of a condition of a set.
fn condition_of(set: &Value, kind: &str) -> String {
    let conditions = set["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let condition = conditions.find(|condition| condition["type"] == kind);
    let part = |field: &str| condition.and_then(|condition| condition[field].as_str());
    let parts = ["status", "reason", "message"].map(|field| part(field).unwrap_or_default());
    parts.join(" ")
}
