//! The pods that have a node, with the sums that decisions about other pods need. The cost of a change depends on the
//! changed pod, not on the size of the cluster.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::PodAffinityTerm;
use object_model::{Quantity, Uid, quantity::Format};
use resource_kinds::pod_view::{PodView, Text};

use crate::pod_nodes::PodNodes;
use crate::resources::{CountedUse, Resources, asks_for_the_same, requests};
use crate::term_owners::{TermOwners, demanded_label, indexed_labels};
use crate::terms::{anti_affinity_terms, wishes};
use crate::uid_index::UidIndex;

/// The pods that have a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlacedPods {
    by_node: IndexMap<Text, NodePods>,
    /// The node of each pod, by the pod's UID.
    nodes: PodNodes,
    /// For each controller, by namespace and UID: the number of its pods that are not being deleted, on each node with
    /// such pods.
    of_controllers: BTreeMap<(Text, Uid), IndexMap<Text, usize>>,
    /// The UIDs of the pods that use a claim, by its namespace and name.
    users: UidIndex,
    /// The UIDs of the pods with a label.
    labelled: UidIndex,
    /// Pods with required anti-affinity.
    repelling: TermOwners,
    /// Pods with preferred affinity or anti-affinity, or required affinity: these terms count for scores.
    wishing: TermOwners,
}

/// The pods of a node.
#[derive(Clone, Debug, Default, PartialEq)]
struct NodePods {
    /// By uid.
    pods: IndexMap<Uid, Placed>,
    used: CountedRequests,
    /// The sum of the pods' loads.
    load: CountedUse,
}

/// The requests of some pods.
#[derive(Clone, Debug, Default, PartialEq)]
struct CountedRequests {
    sum: Resources,
    /// For each resource, the number of pods that request the resource.
    pods: BTreeMap<String, usize>,
}

#[derive(Clone, Debug, PartialEq)]
struct Placed {
    pod: Arc<PodView>,
    requests: Resources,
    load: CountedUse,
}

impl PlacedPods {
    /// Adds a pod, or replaces the former state of this pod.
    pub fn push(&mut self, pod: Arc<PodView>) {
        let former = self.remove_from_node(&pod.uid);
        // Most changes of a pod affect only its status.
        let before = former.as_ref().map(|former| &former.pod);
        if before.is_none_or(|before| !has_equal_index_keys(before, &pod)) {
            if let Some(before) = before {
                self.forget(before);
            }
            self.index(&pod);
        }
        let same = former.filter(|former| asks_for_the_same(&former.pod, &pod));
        let (requests, load) = same.map_or_else(
            || (requests(&pod), CountedUse::of(&pod)),
            |former| (former.requests, former.load),
        );
        let node = pod.node.clone().unwrap_or_default();
        if let Some(key) = controller(&pod) {
            let there = self.of_controllers.entry(key).or_default();
            *there.entry(node.clone()).or_default() += 1;
        }
        self.nodes.insert(pod.uid.clone(), node.clone());
        let there = self.by_node.entry(node).or_default();
        there.add(Placed {
            pod,
            requests,
            load,
        });
    }

    /// Removes the pod with that UID.
    pub fn remove(&mut self, uid: &Uid) -> Option<Arc<PodView>> {
        let Placed { pod, .. } = self.remove_from_node(uid)?;
        self.forget(&pod);
        Some(pod)
    }

    /// Removes the pod from its node, but not from the indexes by which other pods find it.
    fn remove_from_node(&mut self, uid: &Uid) -> Option<Placed> {
        let node = self.nodes.remove(uid)?;
        let there = self.by_node.get_mut(&node)?;
        let placed = there.remove(uid);
        if there.pods.is_empty() {
            self.by_node.swap_remove(&node);
        }
        if let Some(key) = placed.as_ref().and_then(|placed| controller(&placed.pod)) {
            self.discount(key, &node);
        }
        placed
    }

    /// Adds a pod to the indexes by which other pods find it.
    fn index(&mut self, pod: &PodView) {
        for claim in claims(pod) {
            self.users.add(claim, &pod.uid);
        }
        for label in indexed_labels(pod) {
            self.labelled.add(label, &pod.uid);
        }
        self.repelling.add(pod, anti_affinity_terms(pod).iter());
        self.wishing.add(pod, wishes(pod));
    }

    /// Removes a pod from the indexes by which other pods find it.
    fn forget(&mut self, pod: &PodView) {
        for claim in claims(pod) {
            self.users.remove(&claim, &pod.uid);
        }
        for label in indexed_labels(pod) {
            self.labelled.remove(&label, &pod.uid);
        }
        self.repelling.remove(pod, anti_affinity_terms(pod).iter());
        self.wishing.remove(pod, wishes(pod));
    }

    /// Subtracts one pod of the controller on the node.
    fn discount(&mut self, controller: (Text, Uid), node: &Text) {
        let Some(there) = self.of_controllers.get_mut(&controller) else {
            return;
        };
        if let Some(count) = there.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                there.swap_remove(node);
            }
        }
        if there.is_empty() {
            self.of_controllers.remove(&controller);
        }
    }

    /// Removes all pods for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&Arc<PodView>) -> bool) {
        let removed: Vec<Uid> = self.iter().filter(|pod| !keep(pod)).map(uid).collect();
        for uid in removed {
            self.remove(&uid);
        }
    }

    /// The pod with that UID.
    pub fn get(&self, uid: &Uid) -> Option<&Arc<PodView>> {
        let there = self.by_node.get(self.nodes.get(uid)?)?;
        Some(&there.pods.get(uid)?.pod)
    }

    /// All pods.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.by_node.values().flat_map(NodePods::iter)
    }

    /// All pods except the pods of one node.
    pub(crate) fn elsewhere(&self, than: Option<&str>) -> impl Iterator<Item = &Arc<PodView>> {
        let others = self.by_node.iter();
        let others = others.filter(move |(node, _)| Some(&***node) != than);
        others.flat_map(|(_, there)| there.iter())
    }

    /// The pods of a node.
    pub(crate) fn on(&self, node: &str) -> impl Iterator<Item = &Arc<PodView>> {
        self.by_node.get(node).into_iter().flat_map(NodePods::iter)
    }

    /// The pods that use a claim.
    pub(crate) fn users_of(
        &self,
        namespace: &str,
        claim: &str,
    ) -> impl Iterator<Item = &Arc<PodView>> {
        let users = self.users.get(&claim_key(namespace, claim));
        users.filter_map(|uid| self.get(uid))
    }

    /// The pods whose required anti-affinity may select the pod.
    pub(crate) fn repelling(&self, pod: &PodView) -> impl Iterator<Item = &Arc<PodView>> {
        let uids = self.repelling.of(pod);
        uids.into_iter().filter_map(|uid| self.get(uid))
    }

    /// The pods with required affinity, or with preferences about other pods, that may select the pod.
    pub(crate) fn wishing(&self, pod: &PodView) -> impl Iterator<Item = &Arc<PodView>> {
        let uids = self.wishing.of(pod);
        uids.into_iter().filter_map(|uid| self.get(uid))
    }

    /// The pods that one of the terms of `owner` may select, each once; `None` if a term may select any pod.
    pub(crate) fn selectable<'s>(
        &'s self,
        terms: &mut dyn Iterator<Item = &PodAffinityTerm>,
        owner: &PodView,
    ) -> Option<impl Iterator<Item = &'s Arc<PodView>> + use<'s>> {
        let mut uids: BTreeSet<&'s Uid> = BTreeSet::new();
        for term in terms {
            uids.extend(self.labelled.get(&demanded_label(term, owner)?));
        }
        Some(uids.into_iter().filter_map(|uid| self.get(uid)))
    }

    /// The sum of the loads of a node's pods.
    pub(crate) fn load(&self, node: &str) -> CountedUse {
        let there = self.by_node.get(node);
        there.map_or_else(CountedUse::default, |there| there.load)
    }

    /// The sum of the requests of a node's pods, and their number.
    pub(crate) fn used(&self, node: &str) -> (Cow<'_, Resources>, usize) {
        let there = self.by_node.get(node);
        there.map_or_else(Default::default, |there| {
            (Cow::Borrowed(&there.used.sum), there.pods.len())
        })
    }

    /// The number of pods with that controller that are not being deleted, on each node with such pods.
    pub(crate) fn of_controller(
        &self,
        namespace: &Text,
        controller: &Uid,
    ) -> Option<&IndexMap<Text, usize>> {
        let key = (namespace.clone(), controller.clone());
        self.of_controllers.get(&key)
    }
}

impl FromIterator<Arc<PodView>> for PlacedPods {
    fn from_iter<I: IntoIterator<Item = Arc<PodView>>>(pods: I) -> Self {
        let mut placed = Self::default();
        for pod in pods {
            placed.push(pod);
        }
        placed
    }
}

fn uid(pod: &Arc<PodView>) -> Uid {
    pod.uid.clone()
}

impl NodePods {
    fn iter(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.pods.values().map(|placed| &placed.pod)
    }

    fn add(&mut self, placed: Placed) {
        self.used.count(&placed.requests);
        self.load = self.load.plus(placed.load);
        self.pods.insert(placed.pod.uid.clone(), placed);
    }

    fn remove(&mut self, uid: &Uid) -> Option<Placed> {
        let placed = self.pods.swap_remove(uid)?;
        self.discount(&placed.requests);
        self.load = self.load.minus(placed.load);
        Some(placed)
    }

    /// Subtracts requests from the sum. A saturated sum is not the sum of its parts any more, and is computed anew.
    fn discount(&mut self, requests: &Resources) {
        for (name, amount) in requests {
            let used = &mut self.used;
            let Some((sum, pods)) = used.sum.get_mut(name).zip(used.pods.get_mut(name)) else {
                continue;
            };
            *pods -= 1;
            if *pods == 0 {
                used.sum.remove(name);
                used.pods.remove(name);
            } else if is_at_the_end(sum) {
                *used = CountedRequests::default();
                for placed in self.pods.values() {
                    used.count(&placed.requests);
                }
                return;
            } else {
                *sum = sum.minus(amount);
            }
        }
    }
}

impl CountedRequests {
    fn count(&mut self, requests: &Resources) {
        for (name, amount) in requests {
            match self.sum.get_mut(name).zip(self.pods.get_mut(name)) {
                Some((sum, pods)) => {
                    *sum = sum.plus(amount);
                    *pods += 1;
                }
                None => {
                    self.sum.insert(name.clone(), *amount);
                    self.pods.insert(name.clone(), 1);
                }
            }
        }
    }
}

fn is_at_the_end(sum: &Quantity) -> bool {
    let end = Quantity::new(i64::MAX, Format::Decimal);
    *sum >= end || *sum <= Quantity::default().minus(&end)
}

/// The namespace of a pod that is not being deleted, and the UID of its controller.
fn controller(pod: &PodView) -> Option<(Text, Uid)> {
    let controller = pod.controller.as_ref().filter(|_| !pod.is_deleting())?;
    Some((pod.namespace.clone(), controller.uid.clone()))
}

/// Whether both states of a pod certainly have equal keys in the indexes.
fn has_equal_index_keys(old: &PodView, new: &PodView) -> bool {
    Arc::ptr_eq(&old.spec, &new.spec) && old.labels == new.labels && old.claims == new.claims
}

/// The keys of a pod's claims in the index.
fn claims(pod: &PodView) -> impl Iterator<Item = String> {
    let claims = pod.claims.iter();
    claims.map(|used| claim_key(&pod.namespace, &used.name))
}

fn claim_key(namespace: &str, claim: &str) -> String {
    format!("{namespace}/{claim}")
}
