//! Preemption victims for a pod without a feasible node: pods of lower priority, as few and as unimportant as possible,
//! as kube-scheduler's default preemption chooses them.
//!
//! On each node all pods of lower priority are removed for a trial. If the pod is then feasible, the removed pods are
//! added again, one after the other, while the pod stays feasible: first the pods whose disruption budget would be
//! violated, and of each group the most important first. Then the nodes are compared.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use object_model::{LabelSelector, Uid};
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::pod_condition::{DISRUPTION_TARGET, PREEMPTION_BY_SCHEDULER};

use crate::case::{PodToPlace, priority};
use crate::labels::parsed;
use crate::node_view::NodeView;
use crate::objection::FilterFailure;
use crate::resources::{FreeResources, requests};
use crate::snapshot::SchedulingSnapshot;
use crate::view::ClusterView;

const NEVER: &str = "not eligible due to preemptionPolicy=Never.";
const ENDING: &str = "not eligible due to a terminating pod on the nominated node.";
const NO_HELP: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// The result of preemption for a pod without a feasible node.
pub(crate) enum PreemptionResult {
    /// The pod is feasible on the node without the victims (the most important first). The displaced pods, also of
    /// lower priority, were only nominated for the node.
    Victims {
        node: String,
        victims: Vec<Arc<PodView>>,
        displaced: Vec<Arc<PodView>>,
    },
    /// No pod is preempted now.
    NotEligible(&'static str),
    /// Preemption would not help: for each node, the reasons.
    NoHelp(Vec<Vec<String>>),
}

/// The result for a pod for which no node is examined.
pub(crate) fn without_nodes(pod: &PodView, view: &ClusterView) -> PreemptionResult {
    if never(pod) {
        return PreemptionResult::NotEligible(NEVER);
    }
    let why = || vec![NO_HELP.to_owned()];
    PreemptionResult::NoHelp(view.nodes.iter().map(|_| why()).collect())
}

/// Chooses the victims. `against` contains each node's objection to the pod.
pub(crate) fn preempt<'v>(
    case: &PodToPlace<'v>,
    snapshot: &SchedulingSnapshot<'v>,
    against: &BTreeMap<&str, FilterFailure>,
) -> PreemptionResult {
    if never(case.pod) {
        return PreemptionResult::NotEligible(NEVER);
    }
    if is_waited_for(case.pod, snapshot, against) {
        return PreemptionResult::NotEligible(ENDING);
    }
    let mut why = Vec::new();
    let mut candidates = Vec::new();
    for (name, objection) in against {
        let node = snapshot.view.nodes.get(*name);
        let Some(node) = node.filter(|_| objection.is_of_pods) else {
            why.push(vec![NO_HELP.to_owned()]);
            continue;
        };
        match victims_on(node, name, case, snapshot) {
            Ok(victims) => candidates.push((*name, victims)),
            Err(texts) => why.push(texts),
        }
    }
    // Of nodes with equal cost the first name is chosen.
    let best = candidates
        .into_iter()
        .min_by_key(|(_, candidate)| candidate.cost());
    let Some((node, candidate)) = best else {
        return PreemptionResult::NoHelp(why);
    };
    let is_displaced =
        |other: &&Arc<PodView>| other.node.as_deref() == Some(node) && is_below(other, case.pod);
    let nominated = snapshot.view.nominated.iter();
    PreemptionResult::Victims {
        node: node.to_owned(),
        victims: candidate.pods.into_iter().cloned().collect(),
        displaced: nominated.filter(is_displaced).cloned().collect(),
    }
}

fn never(pod: &PodView) -> bool {
    pod.spec.preemption_policy.as_deref() == Some("Never")
}

/// Whether victims are already being deleted for the pod, on a node that may still become feasible.
fn is_waited_for(
    pod: &PodView,
    snapshot: &SchedulingSnapshot<'_>,
    against: &BTreeMap<&str, FilterFailure>,
) -> bool {
    let Some(node) = pod.nominated.as_deref() else {
        return false;
    };
    let is_lost = against.get(node).is_some_and(|failure| !failure.is_of_pods);
    let was_driven_out = |other: &PodView| {
        let why = other.condition(DISRUPTION_TARGET);
        other.is_deleting()
            && why.is_some_and(|why| why.holds() && why.reason() == Some(PREEMPTION_BY_SCHEDULER))
    };
    let mut there = snapshot.on(node, pod);
    !is_lost && there.any(|other| is_below(other, pod) && was_driven_out(other))
}

fn is_below(other: &PodView, pod: &PodView) -> bool {
    other.uid != pod.uid && priority(other) < priority(pod)
}

/// The victims on a node.
struct Victims<'v> {
    /// The most important pod first; not empty.
    pods: Vec<&'v Arc<PodView>>,
    /// The number of victims whose eviction violates a disruption budget.
    violations: usize,
}

impl Victims<'_> {
    /// The sort key of cost: violated budgets, the priority of the most important victim, the sum of priorities, the
    /// number of victims, the start time of the most important victims.
    fn cost(&self) -> (usize, Option<i32>, i64, usize, Reverse<Option<Timestamp>>) {
        let highest = self.pods.iter().map(|pod| priority(pod)).max();
        // Priorities are shifted to positive numbers, so that fewer victims always cost less.
        let worth = |pod: &&Arc<PodView>| i64::from(priority(pod)) - i64::from(i32::MIN);
        let of_highest = |pod: &&&Arc<PodView>| Some(priority(pod)) == highest;
        let longest = self.pods.iter().filter(of_highest).map(|pod| since(pod));
        (
            self.violations,
            highest,
            self.pods.iter().map(worth).sum(),
            self.pods.len(),
            Reverse(longest.min()),
        )
    }
}

/// The start time of the pod; the maximum for a pod that does not run.
fn since(pod: &PodView) -> Timestamp {
    pod.started.unwrap_or(Timestamp::MAX)
}

/// The sort key of pods for preemption; the most important pod is first.
fn importance(pod: &PodView) -> (Reverse<i32>, Timestamp, &Uid) {
    (Reverse(priority(pod)), since(pod), &pod.uid)
}

/// *Errors.* The reason why preemption on the node does not help.
fn victims_on<'v>(
    node: &'v NodeView,
    name: &str,
    case: &PodToPlace<'v>,
    snapshot: &SchedulingSnapshot<'v>,
) -> Result<Victims<'v>, Vec<String>> {
    let is_below = |other: &&Arc<PodView>| is_below(other, case.pod);
    let (mut below, others): (Vec<_>, Vec<_>) = snapshot.there(name).partition(is_below);
    if below.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    let mut without = SchedulingSnapshot::assuming(snapshot.view, name, others);
    let mut free_resources = FreeResources::of(node.allocatable(), without.on(name, case.pod));
    case.check(node, &free_resources, &without)
        .map_err(|objection| objection.texts)?;
    below.sort_by(|a, b| importance(a).cmp(&importance(b)));
    let (guarded, free) = by_budget(below, &snapshot.view.budgets);
    let mut stays = |pod: &'v Arc<PodView>| {
        let mut less = free_resources.clone();
        less.add(&requests(pod));
        let with = without.with(name, [pod]);
        let fits = case.check(node, &less, &with).is_ok();
        if fits {
            (free_resources, without) = (less, with);
        }
        fits
    };
    let mut pods: Vec<_> = guarded.into_iter().filter(|pod| !stays(pod)).collect();
    let violations = pods.len();
    pods.extend(free.into_iter().filter(|pod| !stays(pod)));
    pods.sort_by(|a, b| importance(a).cmp(&importance(b)));
    if pods.is_empty() {
        // The pod is feasible with all pods on the node: the objection has another cause.
        return Err(vec![NO_HELP.to_owned()]);
    }
    Ok(Victims { pods, violations })
}

/// The pods whose eviction violates a disruption budget, if all pods are evicted in this order, and the other pods.
fn by_budget<'v>(
    pods: Vec<&'v Arc<PodView>>,
    budgets: &[Arc<PodDisruptionBudget>],
) -> (Vec<&'v Arc<PodView>>, Vec<&'v Arc<PodView>>) {
    let mut budgets: Vec<Budget<'_>> = budgets.iter().map(|budget| Budget::of(budget)).collect();
    pods.into_iter().partition(|pod| {
        let mut broken = false;
        for budget in &mut budgets {
            if budget.covers(pod) {
                budget.left -= 1;
                broken |= budget.left < 0;
            }
        }
        broken
    })
}

struct Budget<'b> {
    object: &'b PodDisruptionBudget,
    selector: LabelSelector,
    left: i64,
}

impl<'b> Budget<'b> {
    fn of(object: &'b PodDisruptionBudget) -> Self {
        let spec = object.spec.as_ref();
        let status = object.status.as_ref();
        Self {
            object,
            selector: parsed(spec.and_then(|spec| spec.selector.as_ref())),
            left: status
                .and_then(|status| status.disruptions_allowed)
                .unwrap_or_default()
                .into(),
        }
    }

    /// Whether the budget covers the pod, and its status does not count the pod's eviction already. Here an empty
    /// selector selects no pods.
    fn covers(&self, pod: &PodView) -> bool {
        let status = self.object.status.as_ref();
        let recorded = status.and_then(|status| status.disrupted_pods.as_ref());
        self.object.metadata.namespace.as_deref() == Some(&*pod.namespace)
            && !self.selector.requirements().is_empty()
            && self.selector.matches_by(|key| pod.label(key))
            && !recorded.is_some_and(|recorded| recorded.contains_key(&*pod.name))
    }
}
