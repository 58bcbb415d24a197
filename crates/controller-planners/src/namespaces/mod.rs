//! Deletion of a namespace: pods first, then all other objects, then the namespace.
//!
//! **Goal**: a namespace that is being deleted is emptied and removed. **Guarantees**: only pods are deleted while
//! there are pods, because pods may need the other objects until they have stopped. The conditions list the remaining
//! objects and the reason.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Finalizer of every namespace (in `spec.finalizers`).
pub const FINALIZER: &str = "kubernetes";

/// The longest time between two listings of a namespace. Without a watch on their kind, the deletion of objects sends
/// no event.
pub const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The part of a pause that each object adds. A listing contains all objects, and takes about a tenth of this time.
const PAUSE_OF_OBJECT: Duration = Duration::from_micros(100);

/// The remaining objects of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemainingObjects {
    /// `pods.`, `statefulsets.apps`: plural and group.
    pub resource: String,
    /// The number of remaining objects.
    pub count: usize,
    /// The number of objects with each finalizer.
    pub finalizers: BTreeMap<String, usize>,
}

/// The next step of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionStep {
    /// Delete pods only.
    DeletePods,
    /// Delete everything.
    DeleteAll,
    /// Remove the finalizer.
    Finish,
}

/// Plans the next step for a namespace that is being deleted.
pub fn step(contents: &[RemainingObjects]) -> DeletionStep {
    let mut left = contents
        .iter()
        .filter(|content| content.count > 0)
        .peekable();
    if left.peek().is_none() {
        DeletionStep::Finish
    } else if left.any(|content| content.resource == "pods.") {
        DeletionStep::DeletePods
    } else {
        DeletionStep::DeleteAll
    }
}

/// The time until the next listing of a namespace with these contents, if an object is deleted before. Without the
/// pause, the deletion of many objects would list the remaining objects after each deletion.
pub fn pause_after(contents: &[RemainingObjects]) -> Duration {
    let left: usize = contents.iter().map(|content| content.count).sum();
    let left = u32::try_from(left).unwrap_or(u32::MAX);
    PAUSE_OF_OBJECT.saturating_mul(left).min(PAUSE_MAX)
}

/// The observed state of a deletion.
#[derive(Clone, Copy, Debug)]
pub struct ObservedDeletion<'a> {
    /// The remaining objects.
    pub contents: &'a [RemainingObjects],
    /// The group versions and kinds of extension API servers that cannot be read, each with the reason. Their objects
    /// are unknown, so the namespace stays.
    pub undiscovered: &'a [String],
    /// The kinds whose objects could not be deleted, each with the reason.
    pub failures: &'a [String],
}

/// The conditions about the remaining objects. A transition time changes only with its condition.
pub fn conditions(
    present: &[NamespaceCondition],
    observed: &ObservedDeletion<'_>,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let ObservedDeletion {
        contents,
        undiscovered,
        failures,
    } = *observed;
    let remaining: Vec<String> = contents
        .iter()
        .filter(|content| content.count > 0)
        .map(|content| {
            format!(
                "{} has {} resource instances",
                content.resource, content.count
            )
        })
        .collect();
    let mut by_finalizer: BTreeMap<&str, usize> = BTreeMap::new();
    for (finalizer, count) in contents.iter().flat_map(|content| &content.finalizers) {
        *by_finalizer.entry(finalizer).or_default() += count;
    }
    let finalizers: Vec<String> = by_finalizer
        .iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    let number = failures.len();
    let unread = format!(
        "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: ",
        undiscovered.len()
    );
    let failed = format!("Failed to delete all resource types, {number} remaining: ");
    KINDS
        .iter()
        .zip([
            message(&unread, undiscovered),
            None,
            message(&failed, failures),
            message("Some resources are remaining: ", &remaining),
            message(
                "Some content in the namespace has finalizers remaining: ",
                &finalizers,
            ),
        ])
        .map(|(kind, message)| condition(present, kind, message, now))
        .collect()
}

fn message(start: &str, parts: &[String]) -> Option<String> {
    (!parts.is_empty()).then(|| format!("{start}{}", parts.join(", ")))
}

/// A condition: type, reason when True, reason and message when False.
struct Kind(&'static str, &'static str, &'static str, &'static str);

const KINDS: [Kind; 5] = [
    Kind(
        "NamespaceDeletionDiscoveryFailure",
        "DiscoveryFailed",
        "ResourcesDiscovered",
        "All resources successfully discovered",
    ),
    Kind(
        "NamespaceDeletionGroupVersionParsingFailure",
        "GroupVersionParsingFailed",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    Kind(
        "NamespaceDeletionContentFailure",
        "ContentDeletionFailed",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    Kind(
        "NamespaceContentRemaining",
        "SomeResourcesRemain",
        "ContentRemoved",
        "All content successfully removed",
    ),
    Kind(
        "NamespaceFinalizersRemaining",
        "SomeFinalizersRemain",
        "ContentHasNoFinalizers",
        "All content-preserving finalizers finished",
    ),
];

fn condition(
    present: &[NamespaceCondition],
    kind: &Kind,
    message: Option<String>,
    now: Timestamp,
) -> NamespaceCondition {
    let Kind(name, holds_reason, reason, text) = kind;
    let status = if message.is_some() { "True" } else { "False" };
    let reason = if message.is_some() {
        holds_reason
    } else {
        reason
    };
    let former = present.iter().find(|former| former.type_ == *name);
    let since = former.filter(|former| former.status == status);
    let since = since.and_then(|former| former.last_transition_time.clone());
    NamespaceCondition {
        type_: (*name).to_owned(),
        status: status.to_owned(),
        reason: Some((*reason).to_owned()),
        message: Some(message.unwrap_or_else(|| (*text).to_owned())),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(resource: &str, count: usize) -> RemainingObjects {
        RemainingObjects {
            resource: resource.to_owned(),
            count,
            finalizers: BTreeMap::new(),
        }
    }

    /// statefulset.md 13.4: pods are deleted first.
    #[test]
    fn pods_go_first() {
        assert_eq!(
            step(&[content("pods.", 1), content("secrets.", 3)]),
            DeletionStep::DeletePods
        );
        assert_eq!(
            step(&[content("pods.", 0), content("secrets.", 3)]),
            DeletionStep::DeleteAll
        );
        assert_eq!(step(&[content("pods.", 0)]), DeletionStep::Finish);
    }

    #[test]
    fn many_objects_are_looked_at_less_often() {
        let pause =
            |pods, secrets| pause_after(&[content("pods.", pods), content("secrets.", secrets)]);
        assert_eq!(pause(0, 0), Duration::ZERO);
        assert_eq!(pause(20, 30), Duration::from_millis(5));
        assert_eq!(pause(10_000, 0), Duration::from_secs(1));
        assert_eq!(pause(1_000_000, usize::MAX - 1_000_000), PAUSE_MAX);
    }

    #[test]
    fn conditions_say_what_is_left_and_since_when() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut left = content("persistentvolumeclaims.", 2);
        left.finalizers = [("kubernetes.io/pvc-protection".to_owned(), 2)].into();
        let observed = |contents| ObservedDeletion {
            contents,
            undiscovered: &[],
            failures: &[],
        };
        let left = [left];
        let first = conditions(&[], &observed(&left), at(1));
        let text = |conditions: &[NamespaceCondition], at: usize| {
            let condition = &conditions[at];
            format!(
                "{} {}",
                condition.status,
                condition.message.clone().unwrap()
            )
        };
        let expected = "True Some resources are remaining: \
            persistentvolumeclaims. has 2 resource instances";
        assert_eq!(text(&first, 3), expected);
        let expected = "True Some content in the namespace has finalizers remaining: \
            kubernetes.io/pvc-protection in 2 resource instances";
        assert_eq!(text(&first, 4), expected);
        let second = conditions(&first, &observed(&[]), at(9));
        assert_eq!(
            second[0].last_transition_time,
            first[0].last_transition_time
        );
        assert_eq!(second[3].last_transition_time, Some(Time(at(9))));
    }

    #[test]
    fn a_server_that_cannot_be_read_has_its_condition_until_it_goes() {
        let (first, second) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let undiscovered = ["g/v1: stale GroupVersion discovery: g/v1".to_owned()];
        let mut observed = ObservedDeletion {
            contents: &[],
            undiscovered: &undiscovered,
            failures: &[],
        };
        let before = conditions(&[], &observed, first);
        let message = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server \
            APIs: g/v1: stale GroupVersion discovery: g/v1";
        let holding = |conditions: &[NamespaceCondition]| -> Vec<String> {
            let holding = conditions.iter().filter(|one| one.status == "True");
            holding.filter_map(|one| one.message.clone()).collect()
        };
        assert_eq!(before[0].type_, "NamespaceDeletionDiscoveryFailure");
        assert_eq!(holding(&before), [message]);
        assert_eq!(conditions(&before, &observed, second), before);
        observed.undiscovered = &[];
        let after = conditions(&before, &observed, second);
        assert_eq!(holding(&after), [""; 0]);
        assert_eq!(after[0].last_transition_time, Some(Time(second)));
    }
}
