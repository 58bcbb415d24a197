//! The state of the cluster that scheduling rules read.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodAffinityTerm;
use resource_kinds::pod_view::PodView;

use crate::node_view::NodeView;
use crate::resources::{CountedUse, FreeResources};
use crate::terms::anti_affinity_terms;
use crate::view::ClusterView;

/// The state of the cluster that scheduling rules read; for a trial, pods may be added or left out.
pub(crate) struct SchedulingSnapshot<'v> {
    pub view: &'v ClusterView,
    assumed: Option<Assumed<'v>>,
}

/// The pods of one node that replace the pods of the view.
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

    /// The present cluster, but with these pods on that node.
    pub fn assuming(view: &'v ClusterView, node: &str, pods: Vec<&'v Arc<PodView>>) -> Self {
        let node = node.to_owned();
        Self {
            view,
            assumed: Some(Assumed { node, pods }),
        }
    }

    /// The present cluster, with these pods on the node in addition to the pods of this snapshot.
    pub fn with(&self, node: &str, more: impl IntoIterator<Item = &'v Arc<PodView>>) -> Self {
        let pods = self.there(node).chain(more).collect();
        Self::assuming(self.view, node, pods)
    }

    /// The node with assumed pods, and the assumed pods.
    fn assumed(&self) -> (Option<&str>, &[&'v Arc<PodView>]) {
        match &self.assumed {
            Some(assumed) => (Some(&assumed.node), &assumed.pods),
            None => (None, &[]),
        }
    }

    /// Whether the snapshot has no assumed pods.
    pub fn is_present(&self) -> bool {
        self.assumed.is_none()
    }

    /// The placed pods, with the assumed pods in place of the pods of their node.
    fn with_assumed<'s>(
        &'s self,
        placed: impl Iterator<Item = &'v Arc<PodView>> + 's,
        counts: impl Fn(&PodView) -> bool + 's,
    ) -> impl Iterator<Item = &'v Arc<PodView>> + 's {
        let (node, assumed) = self.assumed();
        let elsewhere = placed.filter(move |pod| node.is_none() || pod.node.as_deref() != node);
        elsewhere.chain(assumed.iter().copied().filter(move |pod| counts(pod)))
    }

    /// All pods with a node.
    pub fn pods(&self) -> impl Iterator<Item = &'v Arc<PodView>> {
        let (node, assumed) = self.assumed();
        let elsewhere = self.view.pods.elsewhere(node);
        elsewhere.chain(assumed.iter().copied())
    }

    /// The pods that one of the terms of `owner` may select, each once.
    pub fn selectable<'s>(
        &'s self,
        terms: &mut dyn Iterator<Item = &PodAffinityTerm>,
        owner: &PodView,
    ) -> Box<dyn Iterator<Item = &'v Arc<PodView>> + 's> {
        let Some(selected) = self.view.pods.selectable(terms, owner) else {
            return Box::new(self.pods());
        };
        Box::new(self.with_assumed(selected, |_| true))
    }

    /// The pods whose required anti-affinity may select the pod.
    pub fn repelling<'s>(
        &'s self,
        pod: &'s PodView,
    ) -> impl Iterator<Item = &'v Arc<PodView>> + 's {
        let repel = |pod: &PodView| !anti_affinity_terms(pod).is_empty();
        self.with_assumed(self.view.pods.repelling(pod), repel)
    }

    /// The pods that use a claim.
    pub fn users_of<'s>(
        &'s self,
        namespace: &'s str,
        claim: &'s str,
    ) -> impl Iterator<Item = &'v Arc<PodView>> + 's {
        let use_it = move |pod: &PodView| {
            *pod.namespace == *namespace && pod.claims.iter().any(|used| *used.name == *claim)
        };
        self.with_assumed(self.view.pods.users_of(namespace, claim), use_it)
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

    /// The pods on a node, without the requesting pod.
    pub fn on<'s>(
        &'s self,
        node: &'s str,
        asking: &'s PodView,
    ) -> impl Iterator<Item = &'v PodView> + 's {
        let others = self.there(node).filter(move |pod| pod.uid != asking.uid);
        others.map(|pod| &**pod)
    }

    /// The requesting pod, if it has a node in the present cluster.
    pub fn placed_copy(&self, asking: &PodView) -> Option<&'v Arc<PodView>> {
        self.view.pods.get(&asking.uid)
    }

    /// The load of a node of the present cluster, without the requesting pod, whose placed copy is `placed_copy`.
    pub fn load(&self, name: &str, placed_copy: Option<&Arc<PodView>>) -> CountedUse {
        let all = self.view.pods.load(name);
        let placed_copy =
            placed_copy.filter(|placed_copy| placed_copy.node.as_deref() == Some(name));
        placed_copy.map_or(all, |placed_copy| all.minus(CountedUse::of(placed_copy)))
    }

    /// The free resources of a node of the present cluster, without the requesting pod, whose placed copy is `placed_copy`.
    pub fn free_resources(
        &self,
        name: &str,
        node: &'v NodeView,
        placed_copy: Option<&Arc<PodView>>,
    ) -> FreeResources<'v> {
        if let Some(placed_copy) = placed_copy {
            return FreeResources::of(node.allocatable(), self.on(name, placed_copy));
        }
        let (used, pods) = self.view.pods.used(name);
        FreeResources::with(node.allocatable(), used, pods)
    }
}
