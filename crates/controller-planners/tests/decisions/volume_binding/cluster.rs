//! A small cluster in which plans are executed.

use std::sync::Arc;

use controller_planners::volume_binding::{
    BindingObject, ClaimView, VolumeBindingPlan, plan_claim, plan_volume,
};
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

pub fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a time")
}

pub fn typed<T: k8s_openapi::serde::de::DeserializeOwned>(value: &Value) -> T {
    json_tree::from_value(value.clone()).expect("a well-formed object")
}

pub fn claim(class: Option<&str>, size: &str) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}}});
    if let Some(class) = class {
        spec["storageClassName"] = class.into();
    }
    json!({"metadata": {"name": "data", "namespace": "default", "uid": "c1"},
        "spec": spec, "status": {"phase": "Pending"}})
}

pub fn volume(name: &str, size: &str, class: &str) -> Value {
    json!({"metadata": {"name": name, "uid": format!("uid-{name}")},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
            "storageClassName": class, "persistentVolumeReclaimPolicy": "Retain"},
        "status": {"phase": "Available"}})
}

pub fn class(name: &str, mode: &str, provisioner: &str, default: bool) -> Value {
    json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"storageclass.kubernetes.io/is-default-class": default.to_string()}},
        "provisioner": provisioner, "volumeBindingMode": mode})
}

pub fn with(mut object: Value, change: Value) -> Value {
    merge(&mut object, &change);
    object
}

/// A merge patch (RFC 7396), as the server applies the plan's writes.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(target) = target.as_object_mut() {
                target.remove(key);
            }
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

/// A small cluster: at most one claim, volumes, classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub claim: Option<Value>,
    pub volumes: Vec<Value>,
    pub classes: Vec<Value>,
    pub pods: Vec<String>,
    pub is_driver_absent: bool,
}

impl Cluster {
    pub fn new(claim: Value, volumes: &[Value], classes: &[Value]) -> Self {
        let (volumes, classes) = (volumes.to_vec(), classes.to_vec());
        Self {
            claim: Some(claim),
            volumes,
            classes,
            pods: Vec::new(),
            is_driver_absent: false,
        }
    }

    pub fn claim_plan(&self) -> VolumeBindingPlan {
        let Some(claim) = &self.claim else {
            return VolumeBindingPlan::default();
        };
        let claim: PersistentVolumeClaim = typed(claim);
        let volumes: Vec<Arc<PersistentVolume>> = self
            .volumes
            .iter()
            .map(|volume| Arc::new(typed(volume)))
            .collect();
        let classes: Vec<Arc<StorageClass>> = self
            .classes
            .iter()
            .map(|class| Arc::new(typed(class)))
            .collect();
        let view = ClaimView {
            claim: &claim,
            volumes: &volumes,
            classes: &classes,
            unscheduled_pods: &self.pods,
            is_driver_absent: self.is_driver_absent,
        };
        plan_claim(&view, now()).unwrap()
    }

    pub fn volume_plan(&self, index: usize) -> VolumeBindingPlan {
        let claim: Option<PersistentVolumeClaim> = self.claim.as_ref().map(typed);
        plan_volume(&typed(&self.volumes[index]), claim.as_ref(), now()).unwrap()
    }

    /// Executes the first `count` writes of a plan.
    pub fn apply(&mut self, plan: &VolumeBindingPlan, count: usize) {
        for action in plan.actions.iter().take(count) {
            let write = action.write();
            let target = match &write.on {
                BindingObject::Claim => self
                    .claim
                    .as_mut()
                    .expect("a plan for a claim that is there"),
                BindingObject::Volume(name) => self
                    .volumes
                    .iter_mut()
                    .find(|volume| volume["metadata"]["name"] == **name)
                    .expect("a plan for a volume that is there"),
            };
            merge(target, &write.patch);
        }
    }

    /// Plans and executes until no action is left; returns the number of rounds.
    pub fn settle(&mut self) -> usize {
        for round in 0..20 {
            let before = self.clone();
            let plan = self.claim_plan();
            self.apply(&plan, usize::MAX);
            for index in 0..self.volumes.len() {
                let plan = self.volume_plan(index);
                self.apply(&plan, usize::MAX);
            }
            if *self == before {
                return round;
            }
        }
        panic!("does not come to rest: {self:#?}");
    }

    pub fn claim_phase(&self) -> &str {
        let claim = self.claim.as_ref().expect("a claim");
        claim["status"]["phase"].as_str().unwrap_or_default()
    }

    pub fn volume_phases(&self) -> Vec<String> {
        let phase = |volume: &Value| {
            let phase = volume["status"]["phase"].as_str().unwrap_or_default();
            format!(
                "{} {phase}",
                volume["metadata"]["name"].as_str().unwrap_or_default()
            )
        };
        self.volumes.iter().map(phase).collect()
    }

    pub fn bound_to(&self) -> Option<&str> {
        self.claim.as_ref()?["spec"]["volumeName"].as_str()
    }
}
