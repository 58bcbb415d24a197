//! The causes for a set: the ordinals that wait, and the pod, claim or administrator that they wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use controller_planners::stateful_set::{
    Cause, GroupMember, Observed, StatefulSetAction, StatefulSetPlan, Waiting, identity, plan,
};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use object_model::IncompleteMetadata;
use pod_lifecycle::diagnosis::{Remedy, text};
use resource_kinds::pod_view::PodView;
use resource_kinds::stateful_set_policy::{CheckKind, StatefulSetPolicy, in_force};

use super::chain_builder::ChainBuilder;
use super::claim_edits;
use super::explanation::{CauseChain, Explanation, Object, merged};
use super::observed::ObservedNamespace;
use super::policy_remedies;
use super::scaling;
use super::set_summary;

/// Explains the state of the set.
pub(super) fn explain(
    observed: &ObservedNamespace,
    set: &Arc<StatefulSet>,
    object: Object,
) -> Explanation {
    match View::of(observed, set) {
        Ok(view) => Explanation {
            object,
            summary: set_summary::summary(set, &view.plan),
            chains: view.chains(None),
            notes: set_summary::notes(observed, set, &view.plan),
        },
        Err(incomplete) => Explanation {
            object,
            summary: incomplete.to_string(),
            chains: Vec::new(),
            notes: Vec::new(),
        },
    }
}

/// The causes of one pod of the set that are not in the pod's own state.
pub(super) fn chains_of_pod(
    observed: &ObservedNamespace,
    set: &Arc<StatefulSet>,
    pod: &str,
) -> Vec<CauseChain> {
    let ordinal = identity::ordinal(text::name(&set.metadata), pod);
    match ordinal {
        Some(ordinal) => chains_of_ordinal(observed, set, ordinal),
        None => Vec::new(),
    }
}

/// The causes why a pod of a set does not exist. `None` if no set desires the pod.
pub(super) fn of_missing_pod(
    observed: &ObservedNamespace,
    pod: &str,
    object: Object,
) -> Option<Explanation> {
    let (set, ordinal) = observed.sets.iter().find_map(|set| {
        let ordinal = identity::ordinal(text::name(&set.metadata), pod)?;
        wants(set, ordinal).then_some((set, ordinal))
    })?;
    Some(missing(observed, set, ordinal, object))
}

/// The causes why a claim of a set does not exist. `None` if no set desires the claim.
pub(super) fn of_missing_claim(
    observed: &ObservedNamespace,
    claim: &str,
    object: Object,
) -> Option<Explanation> {
    let (set, ordinal) = observed.sets.iter().find_map(|set| {
        let ordinal = claim_ordinal(set, claim)?;
        wants(set, ordinal).then_some((set, ordinal))
    })?;
    Some(missing(observed, set, ordinal, object))
}

fn missing(
    observed: &ObservedNamespace,
    set: &Arc<StatefulSet>,
    ordinal: i64,
    object: Object,
) -> Explanation {
    let name = text::name(&set.metadata);
    let pod = identity::pod_name(name, ordinal);
    let maker = if object.name == pod {
        format!("does not exist yet: StatefulSet {name} is to make it")
    } else {
        format!("does not exist yet: StatefulSet {name} is to make it with pod {pod}")
    };
    Explanation {
        object,
        summary: maker,
        chains: chains_of_ordinal(observed, set, ordinal),
        notes: Vec::new(),
    }
}

/// Empty if the identity of an object of the set is incomplete.
fn chains_of_ordinal(
    observed: &ObservedNamespace,
    set: &Arc<StatefulSet>,
    ordinal: i64,
) -> Vec<CauseChain> {
    let view = View::of(observed, set);
    view.map_or_else(|_| Vec::new(), |view| view.chains(Some(ordinal)))
}

/// Whether the set desires a pod of that ordinal.
pub(super) fn wants(set: &StatefulSet, ordinal: i64) -> bool {
    let Some(spec) = &set.spec else {
        return false;
    };
    let start = start(spec);
    let replicas = i64::from(spec.replicas.unwrap_or(1));
    (start..start + replicas).contains(&ordinal)
}

pub(super) fn start(spec: &StatefulSetSpec) -> i64 {
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start);
    i64::from(start.unwrap_or_default())
}

/// The ordinal of a claim from one of the set's templates.
pub fn claim_ordinal(set: &StatefulSet, claim: &str) -> Option<i64> {
    let templates = set.spec.as_ref()?.volume_claim_templates.iter().flatten();
    templates.into_iter().find_map(|template| {
        let prefix = format!("{}-", text::name(&template.metadata));
        identity::ordinal(text::name(&set.metadata), claim.strip_prefix(&prefix)?)
    })
}

/// A set with its controller's plan.
struct View<'e> {
    observed: &'e ObservedNamespace,
    set: &'e StatefulSet,
    name: &'e str,
    plan: StatefulSetPlan,
    /// The policy that is in force.
    policy: Option<Arc<StatefulSetPolicy>>,
    /// The other sets of the group of the policy.
    group: Vec<GroupMember>,
}

impl<'e> View<'e> {
    fn of(
        observed: &'e ObservedNamespace,
        set: &'e Arc<StatefulSet>,
    ) -> Result<Self, IncompleteMetadata> {
        let claims = observed.claims.iter().map(|claim| {
            let name = text::name(&claim.metadata).to_owned();
            (name, Arc::clone(claim))
        });
        let name = text::name(&set.metadata);
        let policies = &observed.policies;
        let policy = in_force(name, set.metadata.labels.as_ref(), policies).cloned();
        let input = Observed {
            set: Arc::clone(set),
            group: GroupMember::others(
                name,
                policy.as_deref(),
                || observed.sets.clone(),
                policies,
                |_| observed.pods.clone(),
            ),
            pods: observed.pods.clone(),
            revisions: observed.revisions.clone(),
            claims: claims.collect(),
            policy,
            refused: Vec::new(),
        };
        Ok(Self {
            observed,
            set,
            name,
            plan: plan(&input, observed.now)?,
            policy: input.policy,
            group: input.group,
        })
    }

    /// Whether budgets hold updates and scale-downs.
    fn has_budgets(&self) -> bool {
        let policy = self.policy.as_ref();
        let guard = policy.and_then(|policy| policy.spec.guard.as_ref());
        guard.is_some_and(|guard| guard.budgets)
    }

    fn object(&self) -> Object {
        self.observed.object("StatefulSet", self.name)
    }

    fn pod_name(&self, ordinal: i64) -> String {
        identity::pod_name(self.name, ordinal)
    }

    /// One chain for each cause; with `only`, the chains that concern that ordinal.
    fn chains(&self, only: Option<i64>) -> Vec<CauseChain> {
        let mut after: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for waiting in &self.plan.waiting_on {
            if let (Cause::After { pod }, Some(ordinal)) = (&waiting.cause, waiting.ordinal)
                && only.is_none_or(|only| only == ordinal)
            {
                after.entry(pod).or_default().push(self.pod_name(ordinal));
            }
        }
        let is_selected =
            |ordinal: Option<i64>| only.is_none() || ordinal.is_none() || ordinal == only;
        let mut chains = Vec::new();
        let mut dealt_with = BTreeSet::new();
        for work in &self.plan.pods {
            let pod = self.pod_name(work.ordinal);
            let waiting_pods = after.remove(pod.as_str()).unwrap_or_default();
            if !waiting_pods.is_empty() || is_selected(Some(work.ordinal)) {
                let chain = self.pending(&pod, &work.actions, &waiting_pods);
                dealt_with.extend(chain.is_some().then_some(work.ordinal));
                chains.extend(chain);
            }
        }
        // Chains with one root cause are merged; that of a guard has one link more than that of the pod.
        let (held, others): (Vec<_>, Vec<_>) = self
            .plan
            .waiting_on
            .iter()
            .partition(|waiting| matches!(waiting.cause, Cause::GuardHolds { .. }));
        for waiting in held.into_iter().chain(others) {
            let is_covered = waiting.ordinal.is_some_and(|o| dealt_with.contains(&o));
            if is_covered || matches!(waiting.cause, Cause::After { .. }) {
                continue;
            }
            let pod = waiting.ordinal.map(|ordinal| self.pod_name(ordinal));
            let waiting_pods = pod.as_deref().and_then(|pod| after.remove(pod));
            let waiting_pods = waiting_pods.unwrap_or_default();
            if !waiting_pods.is_empty() || is_selected(waiting.ordinal) {
                chains.push(self.waiting(waiting, &waiting_pods));
            }
        }
        for (pod, waiting_pods) in after {
            let mut builder = ChainBuilder::of(self.observed);
            self.head(&mut builder, &waiting_pods, pod, "to be done");
            self.follow(&mut builder, pod);
            chains.push(builder.chain());
        }
        if only.is_none() {
            let (observed, set) = (self.observed, self.set);
            chains.extend(claim_edits::chain(observed, set, &self.plan, self.object()));
        }
        merged(chains)
    }

    /// Adds the first link, for instance `web-2 and web-3 wait for web-1 to be Ready`.
    fn head(&self, builder: &mut ChainBuilder<'_>, waiting_pods: &[String], pod: &str, goal: &str) {
        let verb = match waiting_pods.len() {
            0 | 1 => "waits",
            _ => "wait",
        };
        let names = text::list(waiting_pods.iter().map(String::as_str));
        let message = format!("{names} {verb} for {pod} {goal}");
        builder.link(self.object(), "PodsInTurn", message, None);
    }

    fn follow(&self, builder: &mut ChainBuilder<'_>, pod: &str) {
        match self.observed.pod(pod) {
            Some(pod) => {
                builder.pod(pod);
                self.or_by_hand(builder, pod);
            }
            None => {
                let object = self.observed.object("Pod", pod);
                builder.link(object, "NotFound", "does not exist yet", None);
                builder.remedy(format!("nothing to do; StatefulSet {} makes it", self.name));
            }
        }
    }

    /// Adds the manual remedy: a pod that is not Ready and outdated may block its own replacement (`statefulset.md`
    /// 5.20).
    fn or_by_hand(&self, builder: &mut ChainBuilder<'_>, pod: &PodView) {
        let name = &pod.name;
        let updatable = identity::ordinal(self.name, name)
            .is_some_and(|ordinal| ordinal >= set_summary::first_updatable(self.set));
        let outdated = set_summary::is_outdated(self.set, &self.plan, pod);
        if !pod.is_deleting() && updatable && outdated {
            let delete = text::kubectl(&pod.namespace, &format!("delete pod {name}"));
            builder.or(format!(
                "or, as the template has changed since, recreate it from that: {delete}"
            ));
        }
    }

    /// The controller's pending write to a pod. If the write fails, the set has an event about the failure.
    fn pending(
        &self,
        pod: &str,
        actions: &[StatefulSetAction],
        waiting_pods: &[String],
    ) -> Option<CauseChain> {
        let (what, goal) = actions.iter().find_map(|action| match action {
            StatefulSetAction::CreateClaim(claim) => {
                let claim = text::name(&claim.metadata);
                Some((format!("claim {claim} is to be made"), "to be made"))
            }
            StatefulSetAction::CreatePod(_) => {
                Some((format!("pod {pod} is to be made"), "to be made"))
            }
            StatefulSetAction::DeletePod { .. } | StatefulSetAction::EvictPod { .. } => {
                Some((format!("pod {pod} is to be deleted"), "to be deleted"))
            }
            _ => None,
        })?;
        let mut builder = ChainBuilder::of(self.observed);
        if !waiting_pods.is_empty() {
            self.head(&mut builder, waiting_pods, pod, goal);
        }
        builder.link(self.object(), "Acting", what, None);
        builder.remedy(
            "nothing to do; the StatefulSet controller is about to do it; if it stays so, see that \
             the controller runs",
        );
        if let Some(present) = self.observed.pod(pod) {
            // With `budgets` of the guard, a budget may hold the eviction (rollouts.md R28).
            if self.has_budgets() && scaling::holding_budget(&mut builder, present) {
                return Some(builder.chain());
            }
            let problem =
                pod_lifecycle::diagnosis::pod(present).filter(|_| goal == "to be deleted");
            if let Some(problem) = problem {
                let object = self.observed.object("Pod", pod);
                builder.link(
                    object,
                    problem.reason.as_str(),
                    problem.message,
                    problem.since,
                );
            }
            let delete = text::kubectl(
                text::namespace(&self.set.metadata),
                &format!("delete pod {pod}"),
            );
            builder.or(format!("or do it yourself: {delete}"));
        }
        let uid = self.set.metadata.uid.as_deref();
        let template = format!("sts/{}", self.name);
        let about = format!("Pod {pod} ");
        builder.refusal(&self.object(), uid, &about, &template, 1);
        Some(builder.chain())
    }

    fn waiting(&self, waiting: &Waiting, waiting_pods: &[String]) -> CauseChain {
        let mut builder = ChainBuilder::of(self.observed);
        let pod_name_of_wait = waiting.ordinal.map(|ordinal| self.pod_name(ordinal));
        let goal = match &waiting.cause {
            Cause::PodTerminating { .. } => "to be gone",
            Cause::PodNotAvailable { .. } => "to be available",
            _ => "to be Ready",
        };
        if let (Some(pod), false) = (&pod_name_of_wait, waiting_pods.is_empty()) {
            self.head(&mut builder, waiting_pods, pod, goal);
        }
        match &waiting.cause {
            Cause::PodTerminating { pod } | Cause::PodNotReady { pod, .. } => {
                if waiting_pods.is_empty() {
                    let message = format!("waits for {pod} {goal}");
                    builder.link(self.object(), "PodNotReady", message, None);
                }
                self.follow(&mut builder, pod);
            }
            Cause::FormerPod { pod } => {
                self.say(&mut builder, "FormerPod", waiting);
                self.follow(&mut builder, pod);
            }
            Cause::ClaimStale { claim } | Cause::ClaimTerminating { claim } => {
                self.say(&mut builder, "ClaimTerminating", waiting);
                builder.claim(claim);
            }
            Cause::ClaimEditFailed { claim, .. } => {
                builder.link(
                    self.object(),
                    "ClaimEditFailed",
                    waiting.cause.to_string(),
                    None,
                );
                builder.claim_growth(claim);
                let remedy = "free space where its volume is, or take the edit of the template \
                              back, to a size above that of the volume";
                builder.remedy(claim_edits::back(self.set, remedy));
            }
            Cause::LowerUnhealthy { lower, until, .. } => {
                self.say(&mut builder, "LowerUnhealthy", waiting);
                self.follow(&mut builder, lower);
                if let Some(until) = until {
                    builder.remedy(format!(
                        "nothing to do; it is deleted at {until} at the latest"
                    ));
                }
            }
            Cause::After { pod } => self.follow(&mut builder, pod),
            Cause::PodNotAvailable { pod, at } => {
                let object = self.observed.object("Pod", pod);
                let message = format!("Ready, but available only at {at} (minReadySeconds)");
                builder.link(object, "NotAvailable", message, None);
                builder.remedy(format!(
                    "nothing to do; it is available at {at} if it stays Ready"
                ));
            }
            _ => self.dead_end(&mut builder, waiting),
        }
        builder.chain()
    }

    fn say(&self, builder: &mut ChainBuilder<'_>, reason: &str, waiting: &Waiting) {
        let pod = waiting.ordinal.map(|ordinal| self.pod_name(ordinal));
        let message = match pod {
            Some(pod) => format!("{pod} waits: {}", waiting.cause),
            None => waiting.cause.to_string(),
        };
        builder.link(self.object(), reason, message, None);
    }

    /// Adds a cause that has no deeper cause.
    fn dead_end(&self, builder: &mut ChainBuilder<'_>, waiting: &Waiting) {
        let meta = &self.set.metadata;
        let kubectl = |rest: String| text::kubectl(text::namespace(meta), &rest);
        let name = self.name;
        let policy = self.policy.as_deref();
        if let Some((reason, remedy)) = policy_remedies::remedy(policy, self.set, &waiting.cause) {
            self.say(builder, reason, waiting);
            builder.remedy(remedy);
            return;
        }
        let (reason, remedy) = match &waiting.cause {
            Cause::SetDeleting => return self.deleting(builder),
            Cause::Selector => (
                "InvalidSelector",
                format!(
                    "recreate the set with a valid selector; its pods stay: {}",
                    kubectl(format!("delete sts {name} --cascade=orphan"))
                )
                .into(),
            ),
            Cause::RevisionUnreadable { revision } => (
                "RevisionUnreadable",
                format!(
                    "partition 0 makes all pods from the present template; or put right {}",
                    kubectl(format!("edit controllerrevision {revision}"))
                )
                .into(),
            ),
            Cause::NameTaken { pod, .. } => (
                "NameTaken",
                Remedy::new("the other pod must end").with(kubectl(format!("delete pod {pod}"))),
            ),
            Cause::Unavailable { .. } => {
                self.say(builder, "MaxUnavailable", waiting);
                return self.first_unavailable(builder);
            }
            Cause::GuardHolds { policy, .. } => {
                self.say(builder, "GuardHolds", waiting);
                let edit = kubectl(format!("edit statefulsetpolicy {policy}"));
                let pods = || self.desired_pods().chain(self.pods_of_group());
                if unhealthy_pod(builder, pods()) || self.failing_check(builder, pods()) {
                    builder.or(format!("or lower minHealthy of the guard: {edit}"));
                } else {
                    builder.remedy(format!("lower minHealthy of the guard: {edit}"));
                }
                return;
            }
            Cause::OnDelete { .. } => {
                let outdated = set_summary::outdated(self.observed, self.set, &self.plan);
                let list = text::list(outdated.iter().copied());
                let delete = outdated
                    .iter()
                    .map(|pod| kubectl(format!("delete pod {pod}")));
                let remedy = Remedy {
                    text: format!("delete them one by one ({list})"),
                    commands: delete.collect(),
                };
                ("OnDelete", remedy)
            }
            _ => (
                "Waiting",
                format!("see {}", kubectl(format!("describe sts {name}"))).into(),
            ),
        };
        self.say(builder, reason, waiting);
        builder.remedy(remedy);
    }

    /// Adds the reason of a deletion: with `foregroundDeletion` the set stays until its pods are deleted
    /// (`statefulset.md` 8.7).
    fn deleting(&self, builder: &mut ChainBuilder<'_>) {
        let meta = &self.set.metadata;
        let since = meta.deletion_timestamp.as_ref().map(|time| time.0);
        let mut pods = self.observed.pods.iter();
        let left = pods.find(|pod| {
            let owner = pod.controller.as_ref();
            owner.is_some_and(|owner| Some(owner.uid.as_str()) == meta.uid.as_deref())
        });
        let finalizers = text::finalizers(meta.finalizers.iter().flatten()).join(", ");
        let finalizer_text = text::then("; finalizers hold it: ", &finalizers);
        let message = format!("being deleted{finalizer_text}");
        builder.link(self.object(), "SetDeleting", message, since);
        match left {
            Some(pod) => {
                builder.remedy("nothing to do; the garbage collector deletes its pods");
                builder.pod(pod);
            }
            None => {
                builder.remedy(format!(
                    "the owner of the finalizers has to remove them: {}",
                    text::kubectl(text::namespace(meta), &format!("edit sts {}", self.name))
                ));
            }
        }
    }

    fn first_unavailable(&self, builder: &mut ChainBuilder<'_>) {
        if !unhealthy_pod(builder, self.desired_pods()) {
            builder.remedy("nothing to do; the pods have to be available again first");
        }
    }

    fn desired_pods(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.observed.pods.iter().filter(|pod| {
            let ordinal = identity::ordinal(self.name, &pod.name);
            ordinal.is_some_and(|ordinal| wants(self.set, ordinal))
        })
    }

    /// The desired pods of the other sets that share the guard.
    fn pods_of_group(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.group.iter().flat_map(GroupMember::desired)
    }

    /// Adds the first of the pods in which a check of the guard fails; returns whether there is one.
    fn failing_check<'v>(
        &self,
        builder: &mut ChainBuilder<'_>,
        mut pods: impl Iterator<Item = &'v Arc<PodView>>,
    ) -> bool {
        let failing = pods.find_map(|pod| {
            let results = CheckKind::OF_GUARD.map(|kind| pod.condition(kind.condition()));
            let mut results = results.into_iter().flatten();
            Some((pod, results.find(|result| !result.holds())?))
        });
        let Some((pod, result)) = failing else {
            return false;
        };
        let reason = result.reason().unwrap_or("CheckPending");
        let message = format!("{} is not True: {reason}", result.kind());
        let object = self.observed.object("Pod", &pod.name);
        builder.link(object, "CheckFailed", message, result.since);
        let describe = text::kubectl(&pod.namespace, &format!("describe pod {}", pod.name));
        builder.remedy(format!("the check has to succeed; its output: {describe}"));
        true
    }
}

/// Adds the first of the pods that is not healthy; returns whether there is one.
fn unhealthy_pod<'v>(
    builder: &mut ChainBuilder<'_>,
    mut pods: impl Iterator<Item = &'v Arc<PodView>>,
) -> bool {
    let unhealthy = pods.find(|pod| pod_lifecycle::diagnosis::pod(pod).is_some());
    if let Some(pod) = unhealthy {
        builder.pod(pod);
    }
    unhealthy.is_some()
}
