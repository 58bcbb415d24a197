//! The pods that have a node, with the sums that decisions about other pods need. Each change costs
//! as much as the changed pod, not as much as the cluster.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::PodAffinityTerm;
use object_model::{Quantity, quantity::Format};
use resource_kinds::pod_view::{PodView, Text};

use crate::resources::{CountedUse, Resources, asks_for_the_same, requests};

/// The pods that have a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlacedPods {
    by_node: BTreeMap<Text, NodePods>,
    /// The node of each pod, by the pod's uid.
    nodes: BTreeMap<Text, Text>,
    /// Pods with required anti-affinity, by uid.
    repelling: BTreeMap<Text, Arc<PodView>>,
    /// Pods with other terms of affinity or anti-affinity, by uid: they count for scores.
    wishing: BTreeMap<Text, Arc<PodView>>,
}

/// The pods of a node.
#[derive(Clone, Debug, Default, PartialEq)]
struct NodePods {
    /// By uid.
    pods: BTreeMap<Text, Placed>,
    used: CountedRequests,
    /// The sum of their loads.
    load: CountedUse,
    /// The number of pods of each controller that are not being deleted, by namespace and uid.
    of_controllers: BTreeMap<(Text, Text), usize>,
}

/// The requests of some pods.
#[derive(Clone, Debug, Default, PartialEq)]
struct CountedRequests {
    sum: Resources,
    /// The number of pods that request that resource.
    pods: BTreeMap<String, usize>,
}

#[derive(Clone, Debug, PartialEq)]
struct Placed {
    pod: Arc<PodView>,
    requests: Resources,
    load: CountedUse,
}

impl PlacedPods {
    /// Adds a pod, or replaces the former state of the same pod.
    pub fn push(&mut self, pod: Arc<PodView>) {
        let former = self.take(&pod.uid);
        let same = former.filter(|former| asks_for_the_same(&former.pod, &pod));
        let (requests, load) = same.map_or_else(
            || (requests(&pod), CountedUse::of(&pod)),
            |former| (former.requests, former.load),
        );
        let node = pod.node.clone().unwrap_or_default();
        if !anti_affinity_terms(&pod).is_empty() {
            self.repelling.insert(pod.uid.clone(), pod.clone());
        }
        if has_wishes(&pod) {
            self.wishing.insert(pod.uid.clone(), pod.clone());
        }
        self.nodes.insert(pod.uid.clone(), node.clone());
        let there = self.by_node.entry(node).or_default();
        there.add(Placed {
            pod,
            requests,
            load,
        });
    }

    /// Removes the pod with that uid.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodView>> {
        Some(self.take(uid)?.pod)
    }

    fn take(&mut self, uid: &str) -> Option<Placed> {
        let node = self.nodes.remove(uid)?;
        self.repelling.remove(uid);
        self.wishing.remove(uid);
        let there = self.by_node.get_mut(&node)?;
        let placed = there.take(uid);
        if there.pods.is_empty() {
            self.by_node.remove(&node);
        }
        placed
    }

    /// Removes all pods for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&Arc<PodView>) -> bool) {
        let gone: Vec<Text> = self.iter().filter(|pod| !keep(pod)).map(uid).collect();
        for uid in gone {
            self.take(&uid);
        }
    }

    /// The pod with that uid.
    pub fn get(&self, uid: &str) -> Option<&Arc<PodView>> {
        let there = self.by_node.get(self.nodes.get(uid)?)?;
        Some(&there.pods.get(uid)?.pod)
    }

    /// All pods, by node and uid.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.by_node.values().flat_map(NodePods::iter)
    }

    /// All pods but those of one node.
    pub(crate) fn elsewhere(&self, than: Option<&str>) -> impl Iterator<Item = &Arc<PodView>> {
        let others = self.by_node.iter();
        let others = others.filter(move |(node, _)| Some(&***node) != than);
        others.flat_map(|(_, there)| there.iter())
    }

    /// The pods of a node.
    pub(crate) fn on(&self, node: &str) -> impl Iterator<Item = &Arc<PodView>> {
        self.by_node.get(node).into_iter().flat_map(NodePods::iter)
    }

    /// The pods with required anti-affinity.
    pub(crate) fn repelling(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.repelling.values()
    }

    /// The pods with required affinity, or with preferences for or against neighbours.
    pub(crate) fn wishing(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.wishing.values()
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

    /// The number of a node's pods with that controller that are not being deleted.
    pub(crate) fn of_controller(&self, node: &str, namespace: &Text, controller: &Text) -> usize {
        let there = self.by_node.get(node);
        let key = (namespace.clone(), controller.clone());
        let count = there.and_then(|there| there.of_controllers.get(&key));
        count.copied().unwrap_or_default()
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

fn uid(pod: &Arc<PodView>) -> Text {
    pod.uid.clone()
}

impl NodePods {
    fn iter(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.pods.values().map(|placed| &placed.pod)
    }

    fn add(&mut self, placed: Placed) {
        if let Some(key) = controller(&placed.pod) {
            *self.of_controllers.entry(key).or_default() += 1;
        }
        self.used.count(&placed.requests);
        self.load = self.load.plus(placed.load);
        self.pods.insert(placed.pod.uid.clone(), placed);
    }

    fn take(&mut self, uid: &str) -> Option<Placed> {
        let placed = self.pods.remove(uid)?;
        if let Some(key) = controller(&placed.pod)
            && let Some(count) = self.of_controllers.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.of_controllers.remove(&key);
            }
        }
        self.discount(&placed.requests);
        self.load = self.load.minus(placed.load);
        Some(placed)
    }

    /// Takes requests off the sum. A sum at the end of the range is not the sum of its parts any
    /// more, and is made again.
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

/// The namespace of a pod that stays and the uid of its controller.
fn controller(pod: &PodView) -> Option<(Text, Text)> {
    let controller = pod.controller.as_ref().filter(|_| !pod.is_deleting())?;
    Some((pod.namespace.clone(), controller.uid.clone()))
}

/// The terms of required anti-affinity.
pub(crate) fn anti_affinity_terms(pod: &PodView) -> &[PodAffinityTerm] {
    let affinity = pod.spec.affinity.as_ref();
    let affinity = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let terms = affinity.and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_deref()
    });
    terms.unwrap_or_default()
}

/// Whether a pod has required affinity, or preferences for or against neighbours.
fn has_wishes(pod: &PodView) -> bool {
    let Some(affinity) = &pod.spec.affinity else {
        return false;
    };
    let near = affinity.pod_affinity.as_ref();
    let apart = affinity.pod_anti_affinity.as_ref();
    near.is_some()
        || apart.is_some_and(|terms| {
            terms
                .preferred_during_scheduling_ignored_during_execution
                .is_some()
        })
}
