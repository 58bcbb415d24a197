//! The progress of a set: its ordinals, their readiness, and the reason if they are not ready.

use std::sync::Arc;

use cluster_inspection::pod_row::{PodRow, PodRows, in_namespace};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;

/// A set whose progress is printed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchedSet {
    pub namespace: String,
    pub name: String,
}

impl WatchedSet {
    pub fn of(set: &StatefulSet) -> Self {
        Self {
            namespace: set.metadata.namespace.clone().unwrap_or_default(),
            name: set.metadata.name.clone().unwrap_or_default(),
        }
    }

    /// `web`, or `shop/web` outside the default namespace.
    pub fn title(&self) -> String {
        in_namespace(&self.namespace, &self.name)
    }
}

/// The state of a set and of its pods at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetProgress {
    pub set: WatchedSet,
    /// Whether the set exists: false before its creation and after its deletion.
    pub exists: bool,
    /// A row for each ordinal, in order.
    pub rows: Vec<PodRow>,
}

impl SetProgress {
    /// Whether every ordinal is ready.
    pub fn is_ready(&self) -> bool {
        self.rows.iter().all(|row| row.ready)
    }
}

/// The progress of a set; `pods` are all pods of its namespace.
pub fn view(
    set: &WatchedSet,
    object: Option<&StatefulSet>,
    pods: &[Arc<Pod>],
    rows: &PodRows<'_>,
    now: Timestamp,
) -> SetProgress {
    let spec = object.and_then(|set| set.spec.as_ref());
    let replicas = spec.map_or(0, |spec| spec.replicas.unwrap_or(1));
    let start = spec
        .and_then(|spec| spec.ordinals.as_ref())
        .and_then(|ordinals| ordinals.start)
        .unwrap_or(0);
    let of_ordinal = |ordinal: i32| {
        let name = format!("{}-{ordinal}", set.name);
        let mut pods = pods.iter();
        match pods.find(|pod| pod.metadata.name.as_deref() == Some(&name)) {
            Some(pod) => rows.of(pod, now),
            None => PodRow::missing(name, object),
        }
    };
    SetProgress {
        set: set.clone(),
        exists: object.is_some(),
        rows: (start..start.saturating_add(replicas))
            .map(of_ordinal)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_none_is_ready() {
        let set = WatchedSet {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        };
        let view = SetProgress {
            set,
            exists: true,
            rows: Vec::new(),
        };
        assert!(view.is_ready());
    }
}
