//! Edits of the claim templates of a set, and their effect on claims that exist (rollouts.md C).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde::{Deserialize, Serialize};

use super::{Autogrow, StatefulSetPolicy};
use crate::well_known::annotations::{CLAIM_UPDATES, REMOVED_CLAIM_TEMPLATES};

/// The effect of an edit of a claim template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimUpdates {
    /// The edit is for new claims; claims that exist stay as they are.
    NewOnly,
    /// Claims that exist follow the edit, as far as a claim can be changed.
    InPlace,
}

impl ClaimUpdates {
    /// The value with that name.
    pub fn of(text: &str) -> Option<Self> {
        match text {
            "NewOnly" => Some(Self::NewOnly),
            "InPlace" => Some(Self::InPlace),
            _ => None,
        }
    }
}

/// `spec.claims` of a StatefulSetPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct ClaimRules {
    /// `None`: claim templates cannot be edited, as in Kubernetes.
    #[serde(default)]
    pub update: Option<ClaimUpdates>,
    /// Maximum number of claims whose volumes change at once.
    #[serde(default = "one")]
    pub parallel: u32,
    /// Maximum number of failed changes with which further changes begin.
    #[serde(default = "one")]
    pub failures: u32,
    /// Volumes grow before they are full.
    #[serde(default)]
    pub autogrow: Option<Autogrow>,
}

fn one() -> u32 {
    1
}

impl Default for ClaimRules {
    fn default() -> Self {
        Self {
            update: None,
            parallel: one(),
            failures: one(),
            autogrow: None,
        }
    }
}

impl ClaimRules {
    /// The rules for a set: those of its policy, and where that is silent, the annotation of the set (rollouts.md C11).
    pub fn of(
        policy: Option<&StatefulSetPolicy>,
        annotations: Option<&BTreeMap<String, String>>,
    ) -> Self {
        let rules = policy
            .and_then(|policy| policy.spec.claims)
            .unwrap_or_default();
        let annotation = annotations.and_then(|all| all.get(CLAIM_UPDATES));
        let annotated = annotation.and_then(|text| ClaimUpdates::of(text));
        Self {
            update: rules.update.or(annotated),
            ..rules
        }
    }
}

/// The claim templates that were removed from a set, oldest first (rollouts.md C7).
///
/// Their names are unique: the record may have come from a backup or another program, and of templates with one name
/// only the newest counts.
pub fn removed_claim_templates(
    annotations: Option<&BTreeMap<String, String>>,
) -> Vec<PersistentVolumeClaim> {
    let text = annotations.and_then(|all| all.get(REMOVED_CLAIM_TEMPLATES));
    let templates = text.and_then(|text| serde_json::from_str(text).ok());
    let mut templates: Vec<PersistentVolumeClaim> = templates.unwrap_or_default();
    templates.reverse();
    let mut names = BTreeSet::new();
    templates.retain(|template| {
        let name = template.metadata.name.as_ref();
        name.is_some_and(|name| names.insert(name.clone()))
    });
    templates.reverse();
    templates
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn policy(claims: json_tree::Value) -> StatefulSetPolicy {
        let object = json!({"spec": {"setRef": {"name": "db"}, "claims": claims}});
        json_tree::from_value(object).unwrap()
    }

    /// rollouts.md C11
    #[test]
    fn a_policy_comes_before_the_annotation() {
        let annotated = |text: &str| BTreeMap::from([(CLAIM_UPDATES.to_owned(), text.to_owned())]);
        let of = |policy: Option<&StatefulSetPolicy>, text: &str| {
            ClaimRules::of(policy, Some(&annotated(text))).update
        };
        assert_eq!(ClaimRules::of(None, None).update, None);
        assert_eq!(of(None, "InPlace"), Some(ClaimUpdates::InPlace));
        assert_eq!(of(None, "inplace"), None);
        let silent = policy(json!({"parallel": 3}));
        assert_eq!(of(Some(&silent), "NewOnly"), Some(ClaimUpdates::NewOnly));
        let rules = ClaimRules::of(Some(&silent), None);
        assert_eq!((rules.parallel, rules.failures), (3, 1));
        let strict = policy(json!({"update": "NewOnly"}));
        assert_eq!(of(Some(&strict), "InPlace"), Some(ClaimUpdates::NewOnly));
    }

    fn recorded(text: &str) -> Vec<PersistentVolumeClaim> {
        let annotation = (REMOVED_CLAIM_TEMPLATES.to_owned(), text.to_owned());
        removed_claim_templates(Some(&BTreeMap::from([annotation])))
    }

    #[test]
    fn of_recorded_templates_with_one_name_the_newest_counts() {
        let text = r#"[{"metadata": {"name": "a"}, "spec": {"storageClassName": "old"}},
            {"metadata": {"name": "b"}, "spec": {}}, {"metadata": {}, "spec": {}},
            {"metadata": {"name": "a"}, "spec": {"storageClassName": "new"}}]"#;
        let removed = recorded(text);
        let names = removed.iter().map(|template| {
            let class = template.spec.as_ref().unwrap().storage_class_name.clone();
            (template.metadata.name.clone().unwrap(), class)
        });
        let names: Vec<_> = names.collect();
        let expected = [
            ("b".to_owned(), None),
            ("a".to_owned(), Some("new".to_owned())),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_record_that_cannot_be_read_names_nothing() {
        let names = |text: &str| {
            let removed = recorded(text).into_iter();
            removed
                .map(|template| template.metadata.name.unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(r#"[{"metadata": {"name": "a"}, "spec": {}}]"#), ["a"]);
        for text in ["", "{}", "[1]"] {
            assert!(names(text).is_empty(), "{text}");
        }
        assert!(removed_claim_templates(None).is_empty());
    }
}
