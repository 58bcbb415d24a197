//! Creates views of pods that share equal parts.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use object_model::{ObjectIdentity, ObjectKey, Uid};
use serde::de::Error as _;
use serde_json::Error;

use super::spec::SharedSpec;
use super::text::{Label, OwnerText, PodText};
use super::{ConditionTexts, Controller, Deletion, Labels, PodView, Text, spec, status};

/// Number of stored values at which unused values are removed for the first time.
const SWEEP_AT_MIN: usize = 256;
/// Number of controllers with stored specifications at which unused specifications are removed for the first time.
/// Specifications are much larger than other values.
const SPECS_SWEEP_AT_MIN: usize = 32;
/// Maximum number of specifications of one controller that a new pod is compared with.
const SPECS_MAX: usize = 8;

/// The shared parts of views. A cache creates all its views with one `Sharing`.
#[derive(Debug, Default)]
pub struct Sharing {
    texts: Pool<str>,
    controllers: Pool<Controller>,
    condition_texts: Pool<ConditionTexts>,
    specs: Specs,
}

/// The specifications of pods, by the UID of the controller; `None` for pods without a controller.
#[derive(Debug)]
struct Specs {
    of_controllers: BTreeMap<Option<Uid>, Vec<StoredSpec>>,
    sweep_at: usize,
}

impl Default for Specs {
    fn default() -> Self {
        Self {
            of_controllers: BTreeMap::new(),
            sweep_at: SPECS_SWEEP_AT_MIN,
        }
    }
}

impl Specs {
    /// The specifications of one controller. For a new controller, unused specifications of other controllers may be
    /// removed.
    fn of_controller(&mut self, uid: Option<Uid>) -> &mut Vec<StoredSpec> {
        let all = &mut self.of_controllers;
        if all.len() >= self.sweep_at && !all.contains_key(&uid) {
            all.retain(|_, list| {
                list.retain(StoredSpec::is_used);
                !list.is_empty()
            });
            self.sweep_at = SPECS_SWEEP_AT_MIN.max(2 * all.len());
        }
        all.entry(uid).or_default()
    }
}

/// The specification of some pods, with the text from which it was decoded. A pod with an equal text has this
/// specification, which need not be decoded again.
#[derive(Debug)]
struct StoredSpec {
    text: Box<[u8]>,
    spec: Arc<PodSpec>,
}

impl StoredSpec {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.spec) > 1
    }
}

impl Sharing {
    /// The view of a decoded pod.
    ///
    /// # Errors
    /// The pod has no complete identity.
    pub fn pod(&mut self, pod: &Pod) -> serde_json::Result<PodView> {
        self.read(&serde_json::to_vec(pod)?)
    }

    /// The view of a pod, from the JSON text of the pod.
    ///
    /// # Errors
    /// The text is not a pod, or the pod has no complete identity.
    pub fn read(&mut self, pod: &[u8]) -> serde_json::Result<PodView> {
        let pod = PodText::read(pod).map_err(Error::custom)?;
        let meta = pod.metadata;
        let name: Text = meta.name.into();
        let identity = ObjectIdentity {
            key: ObjectKey::new(self.text(&meta.namespace), name.clone()),
            uid: uid(meta.uid.into())?,
            version: meta.resource_version.parse().map_err(Error::custom)?,
        };
        let controller = meta.controller.map(|owner| self.controller(&owner));
        let mut view = PodView {
            generation: meta.generation,
            labels: self.labels(&meta.labels, &name),
            annotations: self.labels(&meta.annotations, &name),
            controller: controller.transpose()?,
            finalizers: meta
                .finalizers
                .iter()
                .map(|finalizer| self.text(finalizer))
                .collect(),
            created: time(&meta.created)?,
            deletion: time(&meta.deleted)?.map(|deadline| Deletion {
                deadline,
                grace: meta.grace.unwrap_or_default(),
            }),
            ..PodView::new(identity)
        };
        if let Some(text) = pod.spec {
            spec::fill(&mut view, self, text)?;
        }
        if let Some(text) = pod.status {
            let typed: Option<PodStatus> = object_decoders::from_slice(text)?;
            status::fill(&mut view, self, typed.unwrap_or_default());
        }
        Ok(view)
    }

    pub(super) fn text(&mut self, text: &str) -> Text {
        self.texts.share(text)
    }

    /// A shared text; `name` is reused if it is equal.
    pub(super) fn text_or(&mut self, text: &str, name: &Text) -> Text {
        if *text == **name {
            name.clone()
        } else {
            self.text(text)
        }
    }

    pub(super) fn condition_texts(&mut self, texts: ConditionTexts) -> Arc<ConditionTexts> {
        self.condition_texts.share(texts)
    }

    /// The specification with this text.
    pub(super) fn spec(
        &mut self,
        controller: Option<&Controller>,
        text: Vec<u8>,
    ) -> serde_json::Result<Arc<PodSpec>> {
        let uid = controller.map(|controller| controller.uid.clone());
        let specs = self.specs.of_controller(uid);
        if let Some(existing) = specs.iter().find(|candidate| *candidate.text == *text) {
            return Ok(existing.spec.clone());
        }
        let spec: SharedSpec = object_decoders::from_slice(&text)?;
        let spec = PodSpec::from(spec);
        // Members in another order give an equal specification.
        if let Some(existing) = specs.iter_mut().find(|candidate| *candidate.spec == spec) {
            existing.text = text.into();
            return Ok(existing.spec.clone());
        }
        specs.retain(StoredSpec::is_used);
        if specs.len() >= SPECS_MAX {
            specs.remove(0);
        }
        let spec = Arc::new(spec);
        specs.push(StoredSpec {
            text: text.into(),
            spec: spec.clone(),
        });
        Ok(spec)
    }

    fn labels(&mut self, labels: &[Label<'_>], name: &Text) -> Labels {
        let labels = labels.iter();
        let shared = labels.map(|(key, value)| (self.text(key), self.text_or(value, name)));
        Labels(shared.collect())
    }

    fn controller(&mut self, owner: &OwnerText<'_>) -> serde_json::Result<Arc<Controller>> {
        let controller = Controller {
            api_version: self.text(&owner.api_version),
            kind: self.text(&owner.kind),
            name: self.text(&owner.name),
            uid: uid(self.text(&owner.uid))?,
        };
        Ok(self.controllers.share(controller))
    }
}

/// Fails if the text is empty.
fn uid(text: Text) -> serde_json::Result<Uid> {
    text.try_into().map_err(Error::custom)
}

/// A time; `None` if the text is empty.
fn time(text: &str) -> serde_json::Result<Option<Timestamp>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(Error::custom)
}

/// Equal values, each stored once; removed when they are unused.
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
        if let Some(existing) = self.values.get(value.borrow()) {
            return existing.clone();
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
    use json_tree::{Value, json};

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
        json_tree::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_view_has_what_decisions_are_made_from() {
        let view = PodView::try_from(pod(0, Value::Null)).expect("a pod");
        let at = |text: &str| Some(text.parse().expect("a time"));
        assert_eq!(
            (&*view.name, view.uid.as_str(), view.generation),
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
            .map(|ordinal| sharing.pod(&pod(ordinal, Value::Null)).expect("a pod"))
            .collect();
        for view in &views {
            assert!(Arc::ptr_eq(&view.spec, &views[0].spec));
            let controller = |view: &PodView| view.controller.clone().expect("a controller");
            assert!(Arc::ptr_eq(&controller(view), &controller(&views[0])));
            assert!(Arc::ptr_eq(
                &view.conditions[0].condition_texts,
                &views[0].conditions[0].condition_texts
            ));
            assert!(Arc::ptr_eq(
                view.hostname.as_ref().expect("a name"),
                &view.name
            ));
        }
        let image = json!({"/spec/containers/0/image": "other"});
        let other = sharing.pod(&pod(0, image)).expect("a pod");
        assert!(!Arc::ptr_eq(&other.spec, &views[0].spec));
        assert_eq!(other.spec.containers[0].image.as_deref(), Some("other"));
    }

    #[test]
    fn a_spec_is_reduced_to_what_decisions_read() {
        let text = br#"{"metadata": {"uid": "u", "resourceVersion": "1"}, "status": null, "spec": {
            "preemptionPolicy": "PreemptLowerPriority", "priority": 7, "tolerations": null,
            "dnsPolicy": "None", "initContainers": [],
            "volumes": [{"name": "a", "emptyDir": {}}, {"hostPath": {"path": "/d"}, "name": "b\u0020"},
                {"name": "c", "ephemeral": null, "persistentVolumeClaim": {"claimName": "d", "x": [1]}}],
            "containers": [{"name": "main", "env": [{"name": "E"}],
                "lifecycle": {"preStop": {"exec": {}}, "postStart": {"sleep": {"seconds": 1}}}}]}}"#;
        let view = Sharing::default().read(text).expect("a pod");
        let reduced = json!({
            "priority": 7,
            "volumes": [{"name": "b ", "hostPath": {"path": "/d"}}],
            "containers": [{"name": "main", "lifecycle": {"postStart": {"sleep": {"seconds": 1}}}}],
        });
        let spec: PodSpec = json_tree::from_value(reduced).expect("a spec");
        assert_eq!(*view.spec, spec);
        assert_eq!(view.claims.len(), 1);
        assert_eq!(
            (&*view.claims[0].name, view.claims[0].ephemeral),
            ("d", false)
        );
        let broken = |text: &[u8]| Sharing::default().read(text).is_err();
        let identity = r#""uid": "u", "resourceVersion": "1""#;
        let broken_metadata = |member: &str| {
            broken(format!(r#"{{"metadata": {{{identity}, {member}}}}}"#).as_bytes())
        };
        assert!(!broken_metadata(r#""generation": 1"#));
        assert!(broken_metadata(r#""creationTimestamp": "soon""#));
        assert!(broken_metadata(r#""generation": 1.5"#));
        assert!(broken_metadata(
            r#""ownerReferences": [{"controller": true}]"#
        ));
        let broken_part = |member: &str| {
            broken(format!(r#"{{"metadata": {{{identity}}}, {member}}}"#).as_bytes())
        };
        assert!(broken_part(r#""spec": {"priority": "high"}"#));
        assert!(broken_part(r#""status": {"phase": 1}"#) && broken(b"{"));
    }

    #[test]
    fn a_view_needs_a_uid_and_a_version() {
        for (metadata, error) in [
            (r#"null"#, "metadata.uid"),
            (r#"{"resourceVersion": "1"}"#, "metadata.uid"),
            (r#"{"uid": "u"}"#, "metadata.resourceVersion"),
            (
                r#"{"uid": "u", "resourceVersion": "0"}"#,
                "metadata.resourceVersion",
            ),
        ] {
            let text = format!(r#"{{"metadata": {metadata}}}"#);
            let read = Sharing::default().read(text.as_bytes());
            let message = read.expect_err("an incomplete identity").to_string();
            assert!(message.starts_with(error), "{message}");
        }
    }

    #[test]
    fn a_spec_is_shared_whatever_the_order_of_its_members() {
        let mut sharing = Sharing::default();
        let mut read = |spec: &str| {
            let identity = r#"{"uid": "u", "resourceVersion": "1"}"#;
            let text = format!(r#"{{"metadata": {identity}, "spec": {spec}}}"#);
            sharing.read(text.as_bytes()).expect("a pod").spec
        };
        let first = read(r#"{"priority": 1, "subdomain": "s"}"#);
        for other in [
            r#"{"subdomain": "s", "nodeName": "n", "priority": 1}"#,
            r#"{"priority": 1, "subdomain": "s"}"#,
        ] {
            assert!(Arc::ptr_eq(&first, &read(other)));
        }
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let mut sharing = Sharing::default();
        let view = sharing.pod(&pod(0, Value::Null)).expect("a pod");
        for number in 0..4 * SWEEP_AT_MIN {
            let change = json!({
                "/metadata/labels/app": format!("app-{number}"),
                "/metadata/ownerReferences/0/uid": format!("owner-{number}"),
                "/spec/containers/0/image": format!("image-{number}"),
            });
            sharing.pod(&pod(1, change)).expect("a pod");
        }
        assert!(sharing.texts.values.len() <= 2 * SWEEP_AT_MIN);
        assert!(sharing.controllers.values.len() <= 2 * SWEEP_AT_MIN);
        assert!(sharing.specs.of_controllers.len() <= 2 * SPECS_SWEEP_AT_MIN);
        assert!(Arc::ptr_eq(
            &view.spec,
            &sharing.pod(&pod(2, Value::Null)).expect("a pod").spec
        ));
    }
}
