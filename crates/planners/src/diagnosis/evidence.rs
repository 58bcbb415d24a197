//! What an answer is found in.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use resource_kinds::pod_view::PodView;

use super::chain::{Link, Log, Object, Seen};
use super::words;

/// What was read of one namespace, and of the things around it.
///
/// What could not be read is `None`: then nothing is concluded from an absence.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The namespace.
    pub namespace: String,
    /// The time.
    pub now: Timestamp,
    /// Sets of the namespace.
    pub sets: Vec<Arc<StatefulSet>>,
    /// Pods of the namespace.
    pub pods: Vec<Arc<PodView>>,
    /// The same pods in full.
    pub full_pods: Vec<Arc<Pod>>,
    /// Revisions of the namespace.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Claims of the namespace.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// All volumes.
    pub volumes: Option<Vec<Arc<PersistentVolume>>>,
    /// All classes.
    pub classes: Option<Vec<Arc<StorageClass>>>,
    /// All nodes.
    pub nodes: Option<Vec<Arc<Node>>>,
    /// Events of the namespace.
    pub events: Vec<Arc<Event>>,
}

fn named<'e, T>(
    all: &'e [Arc<T>],
    meta: impl Fn(&T) -> &ObjectMeta,
    name: &str,
) -> Option<&'e Arc<T>> {
    all.iter().find(|object| words::name(meta(object)) == name)
}

impl Evidence {
    /// Nothing yet, in that namespace at that time.
    pub fn of(namespace: &str, now: Timestamp) -> Self {
        Self {
            namespace: namespace.to_owned(),
            now,
            sets: Vec::new(),
            pods: Vec::new(),
            full_pods: Vec::new(),
            revisions: Vec::new(),
            claims: Vec::new(),
            volumes: None,
            classes: None,
            nodes: None,
            events: Vec::new(),
        }
    }

    pub(super) fn set(&self, name: &str) -> Option<&Arc<StatefulSet>> {
        named(&self.sets, |set| &set.metadata, name)
    }

    pub(super) fn pod(&self, name: &str) -> Option<&Arc<PodView>> {
        self.pods.iter().find(|pod| *pod.name == *name)
    }

    pub(super) fn claim(&self, name: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        named(&self.claims, |claim| &claim.metadata, name)
    }

    pub(super) fn node(&self, name: &str) -> Option<&Arc<Node>> {
        named(self.nodes.as_deref()?, |node| &node.metadata, name)
    }

    pub(super) fn class(&self, name: &str) -> Option<&Arc<StorageClass>> {
        named(self.classes.as_deref()?, |class| &class.metadata, name)
    }

    /// The set that controls the pod.
    pub(super) fn owner(&self, pod: &PodView) -> Option<&Arc<StatefulSet>> {
        let uid = Some(&*pod.controller.as_ref()?.uid);
        let mut sets = self.sets.iter();
        sets.find(|set| set.metadata.uid.as_deref() == uid)
    }

    /// An object of the namespace.
    pub(super) fn object(&self, kind: &'static str, name: &str) -> Object {
        Object::new(kind, Some(&self.namespace), name)
    }

    /// The newest event about the object that is wanted.
    pub(super) fn newest_event(
        &self,
        kind: &str,
        name: &str,
        uid: &str,
        wanted: impl Fn(&Event) -> bool,
    ) -> Option<&Event> {
        let about = |event: &&Event| {
            let on = &event.involved_object;
            let meant = on.uid.as_deref().unwrap_or_default();
            on.kind.as_deref() == Some(kind)
                && on.name.as_deref() == Some(name)
                && (meant.is_empty() || meant == uid)
        };
        let events = self.events.iter().map(AsRef::as_ref);
        let events = events.filter(|event| about(event) && wanted(event));
        events.max_by_key(|event| last_seen(event))
    }
}

/// When the event was reported last.
pub(super) fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref();
    let times = [
        series
            .and_then(|s| s.last_observed_time.as_ref())
            .map(|t| t.0),
        event.last_timestamp.as_ref().map(|t| t.0),
        event.event_time.as_ref().map(|t| t.0),
        event.metadata.creation_timestamp.as_ref().map(|t| t.0),
    ];
    times.into_iter().flatten().max()
}

/// What the event says, as a link.
pub(super) fn told(event: &Event, object: Object) -> Link {
    let series = event.series.as_ref().and_then(|series| series.count);
    let count = event.count.or(series).unwrap_or(1).max(1);
    let first = event.first_timestamp.as_ref().map(|t| t.0);
    let first = first.or_else(|| event.event_time.as_ref().map(|t| t.0));
    Link {
        object,
        container: container(event).map(str::to_owned),
        reason: event.reason.clone().unwrap_or_default(),
        message: words::line(event.message.as_deref().unwrap_or_default()),
        since: first.or_else(|| last_seen(event)),
        seen: last_seen(event).map(|last| Seen { count, last }),
        log: Log::NotWanted,
    }
}

/// `main` of `spec.containers{main}`.
pub(super) fn container(event: &Event) -> Option<&str> {
    let path = event.involved_object.field_path.as_deref()?;
    let (_, rest) = path.split_once('{')?;
    rest.strip_suffix('}')
}
