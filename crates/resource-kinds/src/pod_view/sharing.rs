//! Makes views of pods that share equal parts.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{Controller, Deletion, Labels, PodRecord, PodView, Said, Text, spec, status};

/// Number of stored values that starts a sweep of unused ones.
const SWEEP_AT_MIN: usize = 256;
/// Maximum number of specifications of one controller to compare a new pod with.
const SPECS_MAX: usize = 8;

/// The shared parts of views. A cache makes all its views with the same one.
#[derive(Debug, Default)]
pub struct Sharing {
    texts: Pool<str>,
    controllers: Pool<Controller>,
    said: Pool<Said>,
    /// By the uid of the controller.
    specs: BTreeMap<Text, Vec<Arc<PodSpec>>>,
}

impl Sharing {
    /// The view of a pod.
    pub fn pod(&mut self, pod: Pod) -> PodView {
        self.record(pod.into())
    }

    /// The view of a pod of which only the fields of a view were decoded.
    pub fn record(&mut self, pod: PodRecord) -> PodView {
        let meta = pod.metadata;
        let name: Text = meta.name.unwrap_or_default().into();
        let mut view = PodView {
            namespace: self.text(meta.namespace.as_deref().unwrap_or_default()),
            uid: meta.uid.unwrap_or_default().into(),
            resource_version: meta.resource_version.unwrap_or_default().into(),
            generation: meta.generation,
            labels: self.labels(meta.labels.iter().flatten(), &name),
            annotations: self.labels(
                meta.annotations
                    .iter()
                    .flatten()
                    .filter(|(key, _)| super::ANNOTATIONS.contains(&key.as_str())),
                &name,
            ),
            controller: self.controller(meta.owner_references.unwrap_or_default()),
            finalizers: meta
                .finalizers
                .iter()
                .flatten()
                .map(|finalizer| self.text(finalizer))
                .collect(),
            created: meta.creation_timestamp.map(|time| time.0),
            deletion: meta.deletion_timestamp.map(|time| Deletion {
                deadline: time.0,
                grace: meta.deletion_grace_period_seconds.unwrap_or_default(),
            }),
            name,
            ..PodView::default()
        };
        if let Some(own) = pod.spec {
            spec::fill(&mut view, self, own);
        }
        if let Some(own) = pod.status {
            status::fill(&mut view, self, own);
        }
        view
    }

    pub(super) fn text(&mut self, text: &str) -> Text {
        self.texts.share(text)
    }

    /// A text that may be the pod's name.
    pub(super) fn text_or(&mut self, text: &str, name: &Text) -> Text {
        if *text == **name {
            name.clone()
        } else {
            self.text(text)
        }
    }

    pub(super) fn said(&mut self, said: Said) -> Arc<Said> {
        self.said.share(said)
    }

    pub(super) fn spec(&mut self, controller: Option<&Controller>, spec: PodSpec) -> Arc<PodSpec> {
        let uid = controller.map_or_else(Text::default, |controller| controller.uid.clone());
        if self.specs.len() >= SWEEP_AT_MIN && !self.specs.contains_key(&uid) {
            self.specs.retain(|_, known| {
                known.retain(|spec| Arc::strong_count(spec) > 1);
                !known.is_empty()
            });
        }
        let known = self.specs.entry(uid).or_default();
        let found = known.iter().find(|known| ***known == spec);
        if let Some(found) = found {
            return found.clone();
        }
        known.retain(|spec| Arc::strong_count(spec) > 1);
        if known.len() >= SPECS_MAX {
            known.remove(0);
        }
        let new = Arc::new(spec);
        known.push(new.clone());
        new
    }

    fn labels<'l>(
        &mut self,
        labels: impl Iterator<Item = (&'l String, &'l String)>,
        name: &Text,
    ) -> Labels {
        let shared = labels.map(|(key, value)| (self.text(key), self.text_or(value, name)));
        Labels(shared.collect())
    }

    fn controller(&mut self, owners: Vec<OwnerReference>) -> Option<Arc<Controller>> {
        let mut owners = owners.into_iter();
        let owner = owners.find(|owner| owner.controller == Some(true))?;
        let controller = Controller {
            api_version: self.text(&owner.api_version),
            kind: self.text(&owner.kind),
            name: self.text(&owner.name),
            uid: self.text(&owner.uid),
        };
        Some(self.controllers.share(controller))
    }
}

/// Equal values, each stored once, and removed when unused.
#[derive(Debug)]
struct Pool<T: ?Sized> {
    values: BTreeSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized + Ord> Default for Pool<T> {
    fn default() -> Self {
        Self {
            values: BTreeSet::new(),
            sweep_at: SWEEP_AT_MIN,
        }
    }
}

impl<T: ?Sized + Ord> Pool<T> {
    fn share(&mut self, value: impl Borrow<T> + Into<Arc<T>>) -> Arc<T> {
        if let Some(known) = self.values.get(value.borrow()) {
            return known.clone();
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = SWEEP_AT_MIN.max(2 * self.values.len());
        }
        let new: Arc<T> = value.into();
        self.values.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod_view::{Claim, Phase, RunState};

    fn pod(ordinal: u8, change: Value) -> Pod {
        let name = format!("web-{ordinal}");
        let mut pod = json!({
            "metadata": {
                "name": name, "namespace": "default", "uid": format!("uid-{ordinal}"),
                "resourceVersion": "7", "generation": 2,
                "labels": {"app": "web", "statefulset.kubernetes.io/pod-name": name},
                "annotations": {"a": "b", "controller.kubernetes.io/pod-deletion-cost": "3"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet",
                    "name": "web", "uid": "uid-web", "controller": true}],
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "nodeName": "n", "hostname": name, "subdomain": "web",
                "containers": [{"name": "main", "image": "i", "env": [{"name": "E"}]}],
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "own", "ephemeral": {}},
                    {"name": format!("token-{ordinal}"), "projected": {}},
                ],
            },
            "status": {
                "phase": "Running",
                "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:05Z"}],
                "containerStatuses": [{"name": "main", "image": "i", "imageID": "i",
                    "ready": true, "started": true, "restartCount": 2,
                    "state": {"running": {"startedAt": "2026-01-01T00:00:04Z"}},
                    "lastState": {"terminated": {"exitCode": 1, "containerID": "c"}}}],
            },
        });
        for (pointer, value) in change.as_object().into_iter().flatten() {
            *pod.pointer_mut(pointer).expect("a field") = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_view_has_what_decisions_are_made_from() {
        let view = PodView::from(pod(0, Value::Null));
        let at = |text: &str| Some(text.parse().expect("a time"));
        assert_eq!(
            (&*view.name, &*view.uid, view.generation),
            ("web-0", "uid-0", Some(2))
        );
        assert_eq!(view.label("app"), Some("web"));
        assert_eq!(view.annotations.get("a"), None);
        let cost = "controller.kubernetes.io/pod-deletion-cost";
        assert_eq!(view.annotations.get(cost), Some("3"));
        assert_eq!(view.created, at("2026-01-01T00:00:00Z"));
        assert!(!view.is_deleting() && !view.has_ended());
        assert_eq!(view.node.as_deref(), Some("n"));
        let claim = |name: &str, ephemeral| Claim {
            name: name.into(),
            ephemeral,
        };
        assert_eq!(
            *view.claims,
            [claim("data", false), claim("web-0-own", true)]
        );
        assert_eq!(view.spec.containers[0].image.as_deref(), Some("i"));
        assert_eq!(view.spec.containers[0].env, None);
        assert_eq!(view.phase, Phase::Running);
        let ready = view.ready().expect("it is ready");
        assert_eq!(ready.since, at("2026-01-01T00:00:05Z"));
        assert_eq!(*view.addresses, ["10.0.0.1".into(), "fd00::1".into()]);
        let main = &view.containers[0];
        assert_eq!(main.state, RunState::Running(at("2026-01-01T00:00:04Z")));
        let end = main.last_end.as_ref().expect("an end");
        assert_eq!((end.exit_code, end.container_id.as_ref()), (1, None));
    }

    #[test]
    fn what_is_equal_is_shared() {
        let mut sharing = Sharing::default();
        let views: Vec<PodView> = (0..3)
            .map(|ordinal| sharing.pod(pod(ordinal, Value::Null)))
            .collect();
        for view in &views {
            assert!(Arc::ptr_eq(&view.spec, &views[0].spec));
            let controller = |view: &PodView| view.controller.clone().expect("a controller");
            assert!(Arc::ptr_eq(&controller(view), &controller(&views[0])));
            assert!(Arc::ptr_eq(
                &view.conditions[0].said,
                &views[0].conditions[0].said
            ));
            assert!(Arc::ptr_eq(
                view.hostname.as_ref().expect("a name"),
                &view.name
            ));
        }
        let image = json!({"/spec/containers/0/image": "other"});
        let other = sharing.pod(pod(0, image));
        assert!(!Arc::ptr_eq(&other.spec, &views[0].spec));
        assert_eq!(other.spec.containers[0].image.as_deref(), Some("other"));
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let mut sharing = Sharing::default();
        let kept = sharing.pod(pod(0, Value::Null));
        for number in 0..4 * SWEEP_AT_MIN {
            let change = json!({
                "/metadata/labels/app": format!("app-{number}"),
                "/metadata/ownerReferences/0/uid": format!("owner-{number}"),
                "/spec/containers/0/image": format!("image-{number}"),
            });
            sharing.pod(pod(1, change));
        }
        assert!(sharing.texts.values.len() <= 2 * SWEEP_AT_MIN);
        assert!(sharing.controllers.values.len() <= 2 * SWEEP_AT_MIN);
        assert!(sharing.specs.len() <= 2 * SWEEP_AT_MIN);
        assert!(Arc::ptr_eq(
            &kept.spec,
            &sharing.pod(pod(2, Value::Null)).spec
        ));
    }
}
