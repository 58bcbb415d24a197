//! CustomResourceDefinitions: the acceptance of their names, and their deletion, which waits for the deletion of their
//! objects.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionNames,
    CustomResourceDefinitionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use resource_kinds::annotations::CUSTOM_RESOURCE_CLEANUP;

/// The writes for a CustomResourceDefinition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CrdNamesPlan {
    /// The new status, if it differs from the stored one.
    pub status: Option<CustomResourceDefinitionStatus>,
    /// Whether to delete the objects of the definition, and then its finalizer.
    pub clean_up: bool,
}

/// Whether the kind is or was served, so that objects of the kind may exist.
pub fn may_have_objects(definition: &CustomResourceDefinition) -> bool {
    let holds = |name: &str| {
        let status = definition.status.as_ref();
        let condition_of_kind = status.and_then(|status| condition(status, name));
        condition_of_kind.is_some_and(|condition| condition.status == "True")
    };
    holds("NamesAccepted") || holds("Established")
}

/// The version through which all objects of a definition that is being deleted can be read: the storage version, which
/// is served then.
pub fn storage_version(definition: &CustomResourceDefinition) -> Option<&str> {
    let mut versions = definition.spec.versions.iter();
    let stored = versions.find(|version| version.storage)?;
    Some(&stored.name)
}

/// Plans the writes for a CustomResourceDefinition; `others` are all definitions.
pub fn plan<'d>(
    definition: &CustomResourceDefinition,
    others: impl IntoIterator<Item = &'d CustomResourceDefinition>,
    now: Timestamp,
) -> CrdNamesPlan {
    let stored = definition.status.clone().unwrap_or_default();
    let mut status = stored.clone();
    let deleting = definition.metadata.deletion_timestamp.is_some();
    if deleting {
        let reason = "InstanceDeletionInProgress";
        let message = "CustomResource deletion is in progress";
        set(&mut status, "Terminating", true, reason, message, now);
    } else {
        accept_names(definition, others, &mut status, now);
    }
    let finalizers = definition.metadata.finalizers.iter().flatten();
    let waits = finalizers
        .into_iter()
        .any(|name| name == CUSTOM_RESOURCE_CLEANUP);
    CrdNamesPlan {
        clean_up: deleting && waits,
        status: (status != stored).then_some(status),
    }
}

fn accept_names<'d>(
    definition: &CustomResourceDefinition,
    others: impl IntoIterator<Item = &'d CustomResourceDefinition>,
    status: &mut CustomResourceDefinitionStatus,
    now: Timestamp,
) {
    let used = UsedNames::by(definition, others);
    let names = &definition.spec.names;
    let conflict = used.conflict(names);
    let accepted = condition(status, "NamesAccepted").is_some_and(|c| c.status == "True");
    match conflict {
        Some((reason, name)) => {
            let message = format!("{name:?} is already in use");
            set(status, "NamesAccepted", false, reason, &message, now);
        }
        None => {
            status.accepted_names = Some(names.clone());
            let message = "no conflicts found";
            set(status, "NamesAccepted", true, "NoConflicts", message, now);
        }
    }
    // An established definition stays served under its accepted names.
    let established = condition(status, "Established").is_some_and(|c| c.status == "True");
    if conflict.is_none() {
        // The kind is served from the write that accepts its names. `Established` follows with the next write, because
        // otherwise a watcher could use the kind before the server serves the kind.
        let served = established || accepted;
        let reason = if served {
            "InitialNamesAccepted"
        } else {
            "Installing"
        };
        let message = "the initial names have been accepted";
        set(status, "Established", served, reason, message, now);
    } else if !established {
        let message = "not all names are accepted";
        set(status, "Established", false, "NotAccepted", message, now);
    }
}

/// The names in a group that other definitions use.
#[derive(Default)]
struct UsedNames<'d> {
    resources: BTreeSet<&'d str>,
    kinds: BTreeSet<&'d str>,
}

impl<'d> UsedNames<'d> {
    fn by(
        definition: &CustomResourceDefinition,
        others: impl IntoIterator<Item = &'d CustomResourceDefinition>,
    ) -> Self {
        let mut used = Self::default();
        for other in others {
            let same_group = other.spec.group == definition.spec.group;
            if !same_group || other.metadata.name == definition.metadata.name {
                continue;
            }
            let accepted = other
                .status
                .as_ref()
                .and_then(|s| s.accepted_names.as_ref());
            if let Some(names) = accepted {
                used.resources.extend(resource_names(names));
                used.kinds.insert(&names.kind);
                used.kinds.extend(names.list_kind.as_deref());
            }
        }
        used
    }

    fn conflict<'n>(
        &self,
        names: &'n CustomResourceDefinitionNames,
    ) -> Option<(&'static str, &'n str)> {
        let resource = |reason, name: Option<&'n str>| {
            let name = name.filter(|name| self.resources.contains(name))?;
            Some((reason, name))
        };
        let kind = |reason, name: Option<&'n str>| {
            let name = name.filter(|name| self.kinds.contains(name))?;
            Some((reason, name))
        };
        let mut short = names.short_names.iter().flatten();
        resource("PluralConflict", Some(&names.plural))
            .or_else(|| resource("SingularConflict", names.singular.as_deref()))
            .or_else(|| short.find_map(|name| resource("ShortNamesConflict", Some(name))))
            .or_else(|| kind("KindConflict", Some(&names.kind)))
            .or_else(|| kind("ListKindConflict", names.list_kind.as_deref()))
    }
}

fn resource_names(names: &CustomResourceDefinitionNames) -> impl Iterator<Item = &str> {
    let short = names.short_names.iter().flatten().map(String::as_str);
    let singular = names.singular.as_deref();
    short.chain(singular).chain([names.plural.as_str()])
}

fn condition<'s>(
    status: &'s CustomResourceDefinitionStatus,
    kind: &str,
) -> Option<&'s CustomResourceDefinitionCondition> {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Sets a condition. Its transition time changes only with its status.
fn set(
    status: &mut CustomResourceDefinitionStatus,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let word = if holds { "True" } else { "False" };
    let same = condition(status, kind).filter(|before| before.status == word);
    let since = same.and_then(|before| before.last_transition_time.clone());
    let next = CustomResourceDefinitionCondition {
        type_: kind.to_owned(),
        status: word.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..CustomResourceDefinitionCondition::default()
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions
        .iter_mut()
        .find(|condition| condition.type_ == kind)
    {
        Some(stored) => *stored = next,
        None => conditions.push(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, plural: &str, kind: &str) -> CustomResourceDefinition {
        let mut definition = CustomResourceDefinition::default();
        definition.metadata.name = Some(name.to_owned());
        definition.spec.group = "example.org".to_owned();
        definition.spec.names = CustomResourceDefinitionNames {
            plural: plural.to_owned(),
            kind: kind.to_owned(),
            ..CustomResourceDefinitionNames::default()
        };
        definition
    }

    fn condition_texts(status: &CustomResourceDefinitionStatus) -> Vec<String> {
        let conditions = status.conditions.iter().flatten();
        conditions
            .map(|c| {
                format!(
                    "{}={} {}",
                    c.type_,
                    c.status,
                    c.reason.clone().unwrap_or_default()
                )
            })
            .collect()
    }

    #[test]
    fn free_names_are_accepted_once() {
        let mut boats = definition("boats", "boats", "Boat");
        let status = plan(&boats, [&boats.clone()], Timestamp::UNIX_EPOCH)
            .status
            .unwrap();
        let expected = [
            "NamesAccepted=True NoConflicts",
            "Established=False Installing",
        ];
        assert_eq!(condition_texts(&status), expected);
        boats.status = Some(status);
        let status = plan(&boats, [&boats.clone()], Timestamp::UNIX_EPOCH)
            .status
            .unwrap();
        assert_eq!(
            condition_texts(&status)[1],
            "Established=True InitialNamesAccepted"
        );
        boats.status = Some(status);
        let again = plan(&boats, [&boats.clone()], Timestamp::MAX);
        assert_eq!(again, CrdNamesPlan::default(), "nothing more to do");
    }

    #[test]
    fn taken_names_are_not() {
        let mut boats = definition("boats", "boats", "Boat");
        boats.status = plan(&boats, [], Timestamp::UNIX_EPOCH).status;
        let other = definition("ships", "ships", "Boat");
        let status = plan(&other, [&boats, &other], Timestamp::UNIX_EPOCH)
            .status
            .unwrap();
        let expected = [
            "NamesAccepted=False KindConflict",
            "Established=False NotAccepted",
        ];
        assert_eq!(condition_texts(&status), expected);
        // Names in another group do not conflict.
        let mut elsewhere = definition("boats", "boats", "Boat");
        elsewhere.spec.group = "example.com".to_owned();
        let status = plan(&elsewhere, [&boats], Timestamp::UNIX_EPOCH)
            .status
            .unwrap();
        assert_eq!(
            condition_texts(&status)[0],
            "NamesAccepted=True NoConflicts"
        );
    }

    // findings-2 R27
    #[test]
    fn a_kind_whose_names_others_have_taken_since_may_have_objects() {
        let mut boats = definition("boats", "boats", "Boat");
        assert!(!may_have_objects(&boats));
        boats.status = plan(&boats, [], Timestamp::UNIX_EPOCH).status;
        assert!(may_have_objects(&boats));
        let mut status = boats.status.clone().unwrap();
        let now = Timestamp::UNIX_EPOCH;
        set(&mut status, "NamesAccepted", false, "KindConflict", "", now);
        set(
            &mut status,
            "Established",
            true,
            "InitialNamesAccepted",
            "",
            now,
        );
        boats.status = Some(status);
        assert!(may_have_objects(&boats));
    }

    #[test]
    fn the_end_waits_for_the_objects() {
        let mut boats = definition("boats", "boats", "Boat");
        boats.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert!(!plan(&boats, [], Timestamp::UNIX_EPOCH).clean_up);
        boats.metadata.finalizers = Some(vec![CUSTOM_RESOURCE_CLEANUP.to_owned()]);
        let plan = plan(&boats, [], Timestamp::UNIX_EPOCH);
        assert!(plan.clean_up);
        assert_eq!(
            condition_texts(&plan.status.unwrap()),
            ["Terminating=True InstanceDeletionInProgress"]
        );
    }
}
