//! The cluster as a rule sees it.

use std::sync::Arc;

use resource_kinds::pod_view::PodView;

use crate::view::ClusterView;

/// The cluster as a rule sees it: not always with all the pods that are there.
pub(crate) struct SchedulingSnapshot<'v> {
    pub view: &'v ClusterView,
    /// Pods with a node, or assumed to have it.
    pub pods: Vec<&'v Arc<PodView>>,
}

impl<'v> SchedulingSnapshot<'v> {
    /// The snapshot of the present cluster.
    pub fn of(view: &'v ClusterView) -> Self {
        let pods = view.pods.iter().collect();
        Self { view, pods }
    }

    /// The pods on a node, without the pod that asks.
    pub fn on<'s>(
        &'s self,
        node: &'s str,
        asking: &'s PodView,
    ) -> impl Iterator<Item = &'v PodView> + 's {
        let there = self
            .pods
            .iter()
            .filter(move |pod| pod.uid != asking.uid && pod.node.as_deref() == Some(node));
        there.map(|pod| &***pod)
    }
}
