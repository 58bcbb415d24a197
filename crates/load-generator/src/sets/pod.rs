//! A pod, with the fields that a kubelet and the measurement read.

use serde::Deserialize;

use crate::follow::{Followed, Metadata};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    pub node_name: String,
    pub containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Container {
    pub name: String,
    pub image: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub phase: String,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Pod {
    /// The image of its only container.
    pub fn image(&self) -> &str {
        let container = self.spec.containers.first();
        container.map_or("", |container| &container.image)
    }

    /// Whether the pod's condition `Ready` is true.
    pub fn is_ready(&self) -> bool {
        let mut conditions = self.status.conditions.iter();
        conditions.any(|one| one.kind == "Ready" && one.status == "True")
    }
}

impl Followed for Pod {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}
