//! The input of a decision: the state of the caches, with the pending writes added.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use controller_framework::{Object, ObjectChange, object_key};
use object_model::{ObjectKey, Uid};
use pod_placement::{ClusterView, PlacementDecision, place};
use resource_kinds::pod_view::PodView;

use super::feeds::CacheChange;
use super::{Engine, is_running};
use crate::reservations::Reservation;

/// The state of the cluster from the changes that the caches have delivered. Each change updates it, so a decision does
/// not process unchanged objects again.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ClusterState {
    /// The view without nominated pods.
    view: ClusterView,
    /// The pods without a node.
    unplaced: BTreeMap<ObjectKey, Arc<PodView>>,
    /// The pods without a node that have a nominated node.
    nominated: BTreeSet<ObjectKey>,
    /// The pods that are in the view because of a reservation; by uid, each with its reserved node.
    reserved: BTreeMap<Uid, String>,
}

impl ClusterState {
    /// The number of nodes.
    pub fn nodes(&self) -> usize {
        self.view.nodes.len()
    }

    /// Replaces the nodes on which provisioners have recently failed to create volumes of claims.
    pub fn refused(&mut self, nodes: BTreeMap<(String, String), BTreeSet<String>>) {
        self.view.refusals = nodes;
    }

    pub fn apply(&mut self, change: &CacheChange) {
        let view = &mut self.view;
        match change {
            CacheChange::Pod(change) => self.apply_pod(change),
            CacheChange::Node(change) => keep(&mut view.nodes, name, change),
            CacheChange::Namespace(change) => keep(&mut view.namespaces, name, change),
            CacheChange::Service(change) => keep(&mut view.services, namespace_and_name, change),
            CacheChange::Claim(change) => keep(&mut view.claims, namespace_and_name, change),
            CacheChange::Volume(change) => keep(&mut view.volumes, name, change),
            CacheChange::Class(change) => keep(&mut view.classes, name, change),
            CacheChange::Driver(change) => keep(&mut view.drivers, name, change),
            CacheChange::Capacity(change) => keep(&mut view.capacities, namespace_and_name, change),
            CacheChange::CsiNode(change) => keep(&mut view.csi_nodes, name, change),
            CacheChange::Attachment(ObjectChange::Applied(attachment, _)) => {
                view.attachments.push(attachment.clone());
            }
            CacheChange::Attachment(ObjectChange::Deleted(attachment)) => {
                view.attachments.remove(attachment);
            }
            CacheChange::Budget(change) => keep_sorted(&mut view.budgets, change),
            CacheChange::DeviceClaim(change) => {
                keep(&mut view.device_claims, namespace_and_name, change);
            }
            CacheChange::DeviceSlice(change) => keep_sorted(&mut view.device_slices, change),
            CacheChange::DeviceClass(change) => keep(&mut view.device_classes, name, change),
        }
    }

    fn apply_pod(&mut self, change: &ObjectChange<PodView>) {
        let pod = change.object();
        let key = pod.key();
        self.nominated.remove(&key);
        self.unplaced.remove(&key);
        self.reserved.remove(&pod.uid);
        match change {
            ObjectChange::Applied(pod, _) if is_running(pod) => {
                self.view.pods.push(pod.clone());
                return;
            }
            ObjectChange::Applied(pod, _) => {
                if pod.nominated.is_some() {
                    self.nominated.insert(key.clone());
                }
                self.unplaced.insert(key, pod.clone());
            }
            ObjectChange::Deleted(_) => {}
        }
        self.view.pods.remove(&pod.uid);
    }

    /// Adds each pod with a reservation to its reserved node, unless the caches show the pod on a node. Removes pods
    /// whose reservation has ended. Most reservations last for many decisions, and cost each of them little.
    fn reserve<'r>(&mut self, reservations: impl Iterator<Item = &'r Reservation>) {
        let mut former = std::mem::take(&mut self.reserved);
        for Reservation { pod, node, .. } in reservations {
            let before = former.remove(&pod.uid);
            if before.is_none() && self.view.pods.get(&pod.uid).is_some() {
                continue;
            }
            if before.as_ref() != Some(node) {
                let mut there = (**pod).clone();
                there.node = Some(node.as_str().into());
                self.view.pods.push(Arc::new(there));
            }
            self.reserved.insert(pod.uid.clone(), node.clone());
        }
        for uid in former.keys() {
            self.view.pods.remove(uid);
        }
    }
}

impl Engine {
    /// Decides about a pod. `reserved` is the node that an earlier decision has reserved for the pod.
    pub(super) fn decide(
        &mut self,
        key: &ObjectKey,
        pod: &PodView,
        reserved: Option<&str>,
    ) -> PlacementDecision {
        let nominated = self.nominated_pods();
        self.cluster.reserve(self.reservations.of_others(key));
        let view = &mut self.cluster.view;
        view.nominated = nominated;
        let overlay = self.reservations.overlay(view);
        let decision = place(pod, view, reserved);
        overlay.undo(view);
        view.nominated.clear();
        decision
    }

    /// The nominated pods, as if they were on their nominated nodes.
    fn nominated_pods(&self) -> Vec<Arc<PodView>> {
        let nominated = self.cluster.nominated.iter();
        let keys: BTreeSet<&ObjectKey> = nominated.chain(self.nominations.keys()).collect();
        let pods = keys.into_iter().filter_map(|key| {
            let pod = self.cluster.unplaced.get(key)?;
            let mut there = (**pod).clone();
            there.node = Some(self.nominated(pod)?.into());
            Some(Arc::new(there))
        });
        pods.collect()
    }
}

fn keep<Q: Ord, K: Object, V: From<Arc<K>>>(
    objects: &mut BTreeMap<Q, V>,
    key: fn(&K) -> Q,
    change: &ObjectChange<K>,
) {
    match change {
        ObjectChange::Applied(object, _) => objects.insert(key(object), object.clone().into()),
        ObjectChange::Deleted(object) => objects.remove(&key(object)),
    };
}

/// Applies a change to a list that is sorted by namespace and name.
fn keep_sorted<K: Object>(objects: &mut Vec<Arc<K>>, change: &ObjectChange<K>) {
    let key = namespace_and_name(&**change.object());
    let at = objects.binary_search_by_key(&key, |object| namespace_and_name(&**object));
    match (at, change) {
        (Ok(at), ObjectChange::Applied(object, _)) => objects[at] = object.clone(),
        (Err(at), ObjectChange::Applied(object, _)) => objects.insert(at, object.clone()),
        (Ok(at), ObjectChange::Deleted(_)) => {
            objects.remove(at);
        }
        (Err(_), ObjectChange::Deleted(_)) => {}
    }
}

fn name<K: Object>(object: &K) -> String {
    object_key(object).name.to_string()
}

fn namespace_and_name<K: Object>(object: &K) -> (String, String) {
    let key = object_key(object);
    (key.namespace.to_string(), key.name.to_string())
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use proptest::prelude::*;

    use super::*;
    use crate::reservations::ReservationStage;

    /// A pod's state: its node, if any; the node in mind; whether it has ended; its milli CPU.
    type Spec = (Option<u8>, bool, bool, u16);

    fn pod(name: u8, uid: u32, revision: usize, spec: Spec) -> Arc<PodView> {
        let (node, nominated, ended, milli) = spec;
        let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}});
        let repelling = json!({"podAntiAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        let pod: k8s_openapi::api::core::v1::Pod = json_tree::from_value(json!({
            "metadata": {
                "name": name.to_string(), "namespace": "default", "uid": uid.to_string(),
                "resourceVersion": revision.to_string(),
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r",
                    "uid": (milli % 3).to_string(), "controller": true}],
            },
            "spec": {
                "nodeName": node.map(|node| format!("n{node}")),
                "affinity": if milli % 2 == 0 { repelling } else { Value::Null },
                "volumes": [{"name": "v",
                    "persistentVolumeClaim": {"claimName": (milli % 4).to_string()}}],
                "containers": [{"name": "c", "resources": {"requests": {
                    // The largest amounts add up to the end of the range.
                    "cpu": format!("{milli}m"),
                    "memory": if milli % 5 == 0 { "8E" } else { "1" },
                }}}],
            },
            "status": {
                "phase": if ended { "Succeeded" } else { "Running" },
                "nominatedNodeName": nominated.then_some("n0"),
            },
        }))
        .unwrap();
        Arc::new(pod.try_into().unwrap())
    }

    fn slice(name: u8, revision: usize) -> Arc<k8s_openapi::api::resource::v1::ResourceSlice> {
        let metadata = json!({"name": name.to_string(), "resourceVersion": revision.to_string()});
        let spec = json!({"driver": "d", "pool": {"name": "p", "generation": 1,
            "resourceSliceCount": 1}});
        let object = json!({"metadata": metadata, "spec": spec});
        Arc::new(json_tree::from_value(object).unwrap())
    }

    #[derive(Clone, Debug)]
    enum Step {
        Apply(u8, Spec),
        Delete(u8),
        Replace(u8, Spec),
        Slice(u8),
        NoSlice(u8),
        /// A node is reserved for that pod, and for no other.
        Reserve(u8, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let spec = (
            prop::option::of(0..3u8),
            any::<bool>(),
            prop::bool::weighted(0.2),
            0..20u16,
        );
        prop_oneof![
            4 => (0..6u8, spec.clone()).prop_map(|(name, spec)| Step::Apply(name, spec)),
            1 => (0..6u8).prop_map(Step::Delete),
            1 => (0..6u8, spec).prop_map(|(name, spec)| Step::Replace(name, spec)),
            1 => (0..3u8).prop_map(Step::Slice),
            1 => (0..3u8).prop_map(Step::NoSlice),
            1 => (0..6u8, 0..3u8).prop_map(|(name, node)| Step::Reserve(name, node)),
        ]
    }

    proptest! {
        /// A view that follows all changes equals a view of the last state.
        #[test]
        fn a_view_that_follows_is_a_view_made_anew(steps in prop::collection::vec(step(), 0..60)) {
            let mut cluster = ClusterState::default();
            let (mut pods, mut slices) = (BTreeMap::new(), BTreeMap::new());
            for (revision, step) in (1..).zip(steps) {
                let mut notify = |change: CacheChange| cluster.apply(&change);
                let deleted = |pod| CacheChange::Pod(ObjectChange::Deleted(pod));
                match step {
                    Step::Apply(name, spec) => {
                        let uid = pods.get(&name).map_or(u32::from(name), |(uid, _)| *uid);
                        let new = pod(name, uid, revision, spec);
                        let old = pods.insert(name, (uid, new.clone())).map(|(_, old)| old);
                        notify(CacheChange::Pod(ObjectChange::Applied(new, old)));
                    }
                    Step::Delete(name) => {
                        if let Some((_, old)) = pods.remove(&name) {
                            notify(deleted(old));
                        }
                    }
                    Step::Replace(name, spec) => {
                        let uid = 100 + u32::try_from(revision).unwrap();
                        let new = pod(name, uid, revision, spec);
                        if let Some((_, old)) = pods.insert(name, (uid, new.clone())) {
                            notify(deleted(old));
                        }
                        notify(CacheChange::Pod(ObjectChange::Applied(new, None)));
                    }
                    Step::Slice(name) => {
                        let new = slice(name, revision);
                        let old = slices.insert(name, new.clone());
                        notify(CacheChange::DeviceSlice(ObjectChange::Applied(new, old)));
                    }
                    Step::Reserve(name, node) => {
                        let reserved = pods.get(&name).map(|(_, pod)| Reservation {
                            pod: Arc::clone(pod),
                            node: format!("n{node}"),
                            steps: Vec::new(),
                            stage: ReservationStage::Binding,
                        });
                        cluster.reserve(reserved.iter());
                        if let Some(Reservation { pod, node, .. }) = &reserved {
                            let there = cluster.view.pods.get(&pod.uid);
                            let node_name = if is_running(pod) { pod.node.as_deref() } else { Some(&**node) };
                            prop_assert_eq!(there.and_then(|pod| pod.node.as_deref()), node_name);
                        }
                    }
                    Step::NoSlice(name) => {
                        if let Some(old) = slices.remove(&name) {
                            notify(CacheChange::DeviceSlice(ObjectChange::Deleted(old)));
                        }
                    }
                }
            }
            let mut anew = ClusterState::default();
            for (_, pod) in pods.into_values() {
                anew.apply(&CacheChange::Pod(ObjectChange::Applied(pod, None)));
            }
            for slice in slices.into_values() {
                anew.apply(&CacheChange::DeviceSlice(ObjectChange::Applied(slice, None)));
            }
            cluster.reserve(std::iter::empty());
            prop_assert_eq!(cluster, anew);
        }
    }
}
