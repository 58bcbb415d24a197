//! The created objects, and the requests for them.

use anyhow::{Context, Result};
use json_tree::{Value, json};

use crate::call::Call;
use crate::custom;

/// No scheduler has this name, so the pods never run.
const SCHEDULER: &str = "mainstay-bench-nobody";
/// The account of the pods; it is created by the program, so that the pods need not wait for the namespace's default
/// account.
pub const ACCOUNT: &str = "mainstay-bench";
/// The page size of `kubectl`.
const PAGE: u32 = 500;
/// The annotation that writes change.
const ANNOTATION: &str = "bench/written-by";

/// The kind of the created objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchSubject {
    Pods {
        /// Whether each pod has a different template.
        distinct: bool,
    },
    ConfigMaps,
    CustomResources {
        /// Whether the definition has validation rules.
        rules: bool,
    },
}

impl BenchSubject {
    pub fn kind(self) -> &'static str {
        match self {
            Self::Pods { .. } => "Pod",
            Self::ConfigMaps => "ConfigMap",
            Self::CustomResources { .. } => custom::KIND,
        }
    }

    /// The plural of the kind in paths and in the report.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Pods { .. } => "pods",
            Self::ConfigMaps => "configmaps",
            Self::CustomResources { .. } => custom::PLURAL,
        }
    }

    /// The name of the object with that index.
    pub fn name(self, index: u32) -> String {
        match self {
            Self::Pods { .. } => format!("pod-{index}"),
            Self::ConfigMaps => format!("configmap-{index}"),
            Self::CustomResources { .. } => format!("database-{index}"),
        }
    }

    /// The group and version of the kind, as `apiVersion`.
    fn api_version(self, namespace: &str) -> String {
        match self {
            Self::Pods { .. } | Self::ConfigMaps => "v1".to_owned(),
            Self::CustomResources { .. } => custom::api_version(namespace),
        }
    }

    fn manifest(self, namespace: &str, name: &str) -> Value {
        match self {
            Self::Pods { distinct: true } => pod(name, name),
            Self::Pods { distinct: false } => pod(name, "bench"),
            Self::ConfigMaps => config_map(name),
            Self::CustomResources { .. } => custom::object(namespace, name),
        }
    }
}

/// The objects in a namespace.
#[derive(Clone, Debug)]
pub struct BenchObjects {
    namespace: String,
    /// `/api/v1/namespaces/NAMESPACE/PLURAL`, or below `/apis/GROUP/VERSION`
    path: String,
    subject: BenchSubject,
}

impl BenchObjects {
    pub fn of(namespace: &str, subject: BenchSubject) -> Self {
        let version = subject.api_version(namespace);
        let root = if version.contains('/') { "apis" } else { "api" };
        Self {
            namespace: namespace.to_owned(),
            path: format!(
                "/{root}/{version}/namespaces/{namespace}/{}",
                subject.plural()
            ),
            subject,
        }
    }

    fn one(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    pub fn create(&self, name: &str) -> Call {
        let manifest = self.subject.manifest(&self.namespace, name);
        Call::post(self.path.clone(), &manifest)
    }

    pub fn get(&self, name: &str) -> Call {
        Call::get(self.one(name))
    }

    pub fn list(&self) -> Call {
        Call::get(self.path.clone())
    }

    pub fn list_in_protobuf(&self) -> Call {
        self.list().in_protobuf()
    }

    pub fn list_in_pages(&self) -> Call {
        Call::pages(format!("{}?limit={PAGE}", self.path))
    }

    /// Replaces the object that was read, with one change. In this method and the next ones, `word` must differ each
    /// time, because otherwise nothing changes.
    pub fn update(&self, mut read: Value, word: &str) -> Result<Call> {
        let name = read["metadata"]["name"].as_str();
        let uri = self.one(name.context("an object in a list has no name")?);
        read["apiVersion"] = self.subject.api_version(&self.namespace).into();
        read["kind"] = self.subject.kind().into();
        read["metadata"]["annotations"][ANNOTATION] = word.into();
        Ok(Call::put(uri, &read))
    }

    pub fn patch(&self, name: &str, word: &str) -> Call {
        let change = json!({"metadata": {"annotations": {ANNOTATION: word}}});
        Call::merge_patch(self.one(name), &change)
    }

    pub fn apply(&self, name: &str, word: &str) -> Call {
        let object = json!({
            "apiVersion": self.subject.api_version(&self.namespace),
            "kind": self.subject.kind(),
            "metadata": {"name": name, "annotations": {"bench/applied": word}},
        });
        let manager = "fieldManager=mainstay-bench-apply&force=true";
        Call::apply(format!("{}?{manager}", self.one(name)), &object)
    }

    pub fn delete(&self, name: &str) -> Call {
        Call::delete(format!("{}?gracePeriodSeconds=0", self.one(name)))
    }

    /// A watch of all changes since that version.
    pub fn watch(&self, version: &str) -> String {
        format!("{}?watch=true&resourceVersion={version}", self.path)
    }
}

/// A pod like that of a database: with probes, volumes, limits; allowed at every Pod Security level.
fn pod(name: &str, template: &str) -> Value {
    let probe = |path: &str| {
        let path = format!("/{template}/{path}");
        json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 10})
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": template, "app.kubernetes.io/instance": name},
            "annotations": {ANNOTATION: "create"},
        },
        "spec": {
            "schedulerName": SCHEDULER,
            "serviceAccountName": ACCOUNT,
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "main",
                "image": format!("registry.invalid/{template}:1"),
                "args": [format!("--data=/data/{template}"), "--listen=:8080"],
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "CLUSTER", "value": template},
                ],
                "resources": {
                    "requests": {"cpu": "10m", "memory": "16Mi"},
                    "limits": {"memory": "64Mi"},
                },
                "readinessProbe": probe("ready"),
                "livenessProbe": probe("alive"),
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "data", "mountPath": format!("/data/{template}")}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn config_map(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "annotations": {ANNOTATION: "create"}},
        "data": {"mode": "fast", "level": "3"},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_scheduler_takes_the_pods() {
        let pod = pod("a", "b");
        assert_eq!(pod["spec"]["schedulerName"], SCHEDULER);
        assert!(pod["spec"]["nodeName"].is_null());
    }

    #[test]
    fn what_is_listed_can_be_sent_back() {
        let pods = BenchObjects::of("ns", BenchSubject::Pods { distinct: false });
        let listed = json!({"metadata": {"name": "a", "resourceVersion": "7"}});
        let call = format!("{:?}", pods.update(listed, "w").unwrap());
        assert!(call.contains("/api/v1/namespaces/ns/pods/a"), "{call}");
        assert!(pods.update(json!({}), "w").is_err());
        let config_maps = BenchObjects::of("ns", BenchSubject::ConfigMaps);
        let call = format!(
            "{:?}",
            config_maps.update(json!({"metadata": {"name": "a"}}), "w")
        );
        assert!(
            call.contains("/api/v1/namespaces/ns/configmaps/a"),
            "{call}"
        );
    }
}
