//! The state of the cluster that scheduling rules read.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;

use crate::placed::anti_affinity_terms;
use crate::resources::{CountedUse, FreeResources};
use crate::view::ClusterView;

/// The state of the cluster that scheduling rules read; pods may be added or left out for a trial.
pub(crate) struct SchedulingSnapshot<'v> {
    pub view: &'v ClusterView,
    assumed: Option<Assumed<'v>>,
}

/// The pods of one node, in place of those of the view.
struct Assumed<'v> {
    node: String,
    pods: Vec<&'v Arc<PodView>>,
}

impl<'v> SchedulingSnapshot<'v> {
    /// The snapshot of the present cluster.
    pub fn of(view: &'v ClusterView) -> Self {
        Self {
            view,
            assumed: None,
        }
    }

    /// The present cluster, if these were the pods of that node.
    pub fn assuming(view: &'v ClusterView, node: &str, pods: Vec<&'v Arc<PodView>>) -> Self {
        let node = node.to_owned();
        Self {
            view,
            assumed: Some(Assumed { node, pods }),
        }
    }

    /// The present cluster, if the node had these pods beside those of this snapshot.
    pub fn with(&self, node: &str, more: impl IntoIterator<Item = &'v Arc<PodView>>) -> Self {
        let pods = self.there(node).chain(more).collect();
        Self::assuming(self.view, node, pods)
    }

    /// The node with assumed pods, and these.
    fn assumed(&self) -> (Option<&str>, &[&'v Arc<PodView>]) {
        match &self.assumed {
            Some(assumed) => (Some(&assumed.node), &assumed.pods),
            None => (None, &[]),
        }
    }

    /// Whether these are the pods that are there.
    pub fn is_present(&self) -> bool {
        self.assumed.is_none()
    }

    /// All pods with a node.
    pub fn pods(&self) -> impl Iterator<Item = &'v Arc<PodView>> {
        let (node, assumed) = self.assumed();
        let elsewhere = self.view.pods.elsewhere(node);
        elsewhere.chain(assumed.iter().copied())
    }

    /// The pods with required anti-affinity.
    pub fn repelling(&self) -> impl Iterator<Item = &'v Arc<PodView>> {
        let (node, assumed) = self.assumed();
        let repelling = self.view.pods.repelling();
        let elsewhere = repelling.filter(move |pod| node.is_none() || pod.node.as_deref() != node);
        let repel = |pod: &&Arc<PodView>| !anti_affinity_terms(pod).is_empty();
        elsewhere.chain(assumed.iter().copied().filter(repel))
    }

    /// The pods on a node.
    pub fn there(&self, node: &str) -> impl Iterator<Item = &'v Arc<PodView>> {
        let assumed = self.assumed();
        let (placed, assumed) = match assumed {
            (Some(other), assumed) if other == node => (None, assumed),
            _ => (Some(self.view.pods.on(node)), &[][..]),
        };
        placed.into_iter().flatten().chain(assumed.iter().copied())
    }

    /// The pods on a node, without the pod that asks.
    pub fn on<'s>(
        &'s self,
        node: &'s str,
        asking: &'s PodView,
    ) -> impl Iterator<Item = &'v PodView> + 's {
        let others = self.there(node).filter(move |pod| pod.uid != asking.uid);
        others.map(|pod| &**pod)
    }

    /// The load of a node of the present cluster, without the pod that asks.
    pub fn load(&self, name: &str, asking: &PodView) -> CountedUse {
        let all = self.view.pods.load(name);
        let own = self.view.pods.get(&asking.uid);
        let own = own.filter(|own| own.node.as_deref() == Some(name));
        own.map_or(all, |own| all.minus(CountedUse::of(own)))
    }

    /// The room on a node of the present cluster, without the pod that asks.
    pub fn room(&self, name: &str, node: &'v Node, asking: &PodView) -> FreeResources<'v> {
        if self.view.pods.get(&asking.uid).is_some() {
            return FreeResources::of(node, self.on(name, asking));
        }
        let (used, pods) = self.view.pods.used(name);
        FreeResources::with(node, used, pods)
    }
}
