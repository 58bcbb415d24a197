//! The state of a set in one line, and notes on intended states that users should know.

use controller_planners::stateful_set::{StatefulSetPlan, identity};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use pod_lifecycle::diagnosis::text;
use resource_kinds::labels;
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::stateful_set_condition;

use super::observed::ObservedNamespace;
use super::sets;

fn status<'p>(set: &'p StatefulSet, plan: &'p StatefulSetPlan) -> Option<&'p StatefulSetStatus> {
    plan.status.as_ref().or(set.status.as_ref())
}

/// `2 of 3 pods are available`
pub(super) fn summary(set: &StatefulSet, plan: &StatefulSetPlan) -> String {
    if set.metadata.deletion_timestamp.is_some() {
        return "being deleted".to_owned();
    }
    let desired = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let available = status(set, plan).and_then(|status| status.available_replicas);
    match (desired, available.unwrap_or_default()) {
        (0, 0) => "no pods are wanted (replicas: 0)".to_owned(),
        (desired, available) => format!("{available} of {desired} pods are available"),
    }
}

/// Whether the pod does not have the update revision.
pub(super) fn is_outdated(set: &StatefulSet, plan: &StatefulSetPlan, pod: &PodView) -> bool {
    let update = status(set, plan).and_then(|status| status.update_revision.as_deref());
    let revision = pod.label(labels::CONTROLLER_REVISION_HASH);
    update.is_some_and(|update| revision != Some(update))
}

/// Names of the desired pods without the update revision, by ordinal.
pub(super) fn outdated<'e>(
    observed: &'e ObservedNamespace,
    set: &StatefulSet,
    plan: &StatefulSetPlan,
) -> Vec<&'e str> {
    let owned = observed.pods.iter().filter(|pod| {
        let owner = pod.controller.as_ref();
        owner.is_some_and(|owner| Some(owner.uid.as_str()) == set.metadata.uid.as_deref())
    });
    let mut outdated_pods: Vec<(i64, &str)> = owned
        .filter_map(|pod| {
            let name: &str = &pod.name;
            let ordinal = identity::ordinal(text::name(&set.metadata), name)?;
            let old = sets::wants(set, ordinal) && is_outdated(set, plan, pod);
            old.then_some((ordinal, name))
        })
        .collect();
    outdated_pods.sort_unstable();
    outdated_pods.into_iter().map(|(_, name)| name).collect()
}

pub(super) fn notes(
    observed: &ObservedNamespace,
    set: &StatefulSet,
    plan: &StatefulSetPlan,
) -> Vec<String> {
    let all = [partition(observed, set, plan), deadline(set), unseen(set)];
    all.into_iter().flatten().collect()
}

/// The lowest ordinal that a rolling update replaces.
pub(super) fn first_updatable(set: &StatefulSet) -> i64 {
    let Some(spec) = &set.spec else {
        return 0;
    };
    let strategy = spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let partition = rolling.and_then(|rolling| rolling.partition);
    sets::start(spec) + i64::from(partition.unwrap_or_default())
}

/// A note on pods that a partition excludes from an update (`statefulset.md` 5.4).
fn partition(
    observed: &ObservedNamespace,
    set: &StatefulSet,
    plan: &StatefulSetPlan,
) -> Option<String> {
    let spec = set.spec.as_ref()?;
    let rolling = spec.update_strategy.as_ref()?.rolling_update.as_ref()?;
    let partition = rolling.partition.filter(|partition| *partition > 0)?;
    let first = first_updatable(set);
    let name = text::name(&set.metadata);
    let below = |pod: &&str| identity::ordinal(name, pod).is_some_and(|ordinal| ordinal < first);
    let outdated = outdated(observed, set, plan);
    let excluded = text::list(outdated.into_iter().filter(below));
    let patch = format!(
        "patch sts {name} -p '{{\"spec\":{{\"updateStrategy\":{{\"rollingUpdate\":\
         {{\"partition\":0}}}}}}}}'"
    );
    let patch = text::kubectl(text::namespace(&set.metadata), &patch);
    (!excluded.is_empty()).then(|| {
        format!(
            "partition {partition} keeps {excluded} at the former revision; to continue: {patch}"
        )
    })
}

fn deadline(set: &StatefulSet) -> Option<String> {
    let mut conditions = set.status.as_ref()?.conditions.iter().flatten();
    let stalled = conditions.find(|condition| {
        condition.type_ == stateful_set_condition::STALLED
            && condition.status == "True"
            && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    })?;
    let since = stalled.last_transition_time.as_ref();
    let since = since.map_or(String::new(), |time| format!(" since {}", time.0));
    Some(format!("the progress deadline is exceeded{since}"))
}

/// A note if the controller has not observed the set's last change (`statefulset.md` 5.14).
fn unseen(set: &StatefulSet) -> Option<String> {
    let status = set.status.as_ref();
    let observed_generation = status
        .and_then(|status| status.observed_generation)
        .unwrap_or_default();
    let now = set.metadata.generation.unwrap_or_default();
    (observed_generation < now).then(|| {
        format!(
            "the StatefulSet controller has not processed the last change yet (it has seen \
             generation {observed_generation} of {now})"
        )
    })
}
