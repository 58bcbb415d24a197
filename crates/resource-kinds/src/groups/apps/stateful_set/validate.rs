//! Validation of a StatefulSet (`statefulset.md` §6).

use json_tree::Value;
use object_model::{FieldError, IntOrPercent, LabelSelector, names};

use super::claim_templates;
use crate::groups::stateful_set_policy::ClaimUpdates;
use crate::json::parts;
use crate::validation::field::{Field, Rules};
use crate::validation::{claim, metadata, workload};

/// `statefulset.md` 6.5
const MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];
const SPEC_IMMUTABLE: &str = "updates to statefulset spec for fields other than 'replicas', \
    'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
    'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

/// The validation errors of a new set.
pub(super) fn create(object: &Value) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = settings(&spec);
    errors.check_text_if_set(&spec.get("serviceName"), names::dns_label);
    template(&spec, true, &mut errors);
    for claim in spec.get("volumeClaimTemplates").items() {
        claim_template(&claim, &mut errors);
    }
    errors.extend(claim_names(&spec));
    errors
}

/// The errors of an updated set. Stored values that earlier rules allowed may stay (`statefulset.md` 6.12).
/// `claim_updates` permits edits of the claim templates (rollouts.md C1).
pub(super) fn update(
    object: &Value,
    old: &Value,
    claim_updates: Option<ClaimUpdates>,
) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = settings(&spec);
    let edits_claims = claim_updates.is_some() && claim_templates::are_edited(object, old);
    let is_changed = object["spec"]["template"] != old["spec"]["template"];
    template(&spec, is_changed || edits_claims, &mut errors);
    let mut comparable = object["spec"].clone();
    for field in MUTABLE {
        parts::restore(&mut comparable, &old["spec"], field);
    }
    if edits_claims {
        claim_templates::validate(&spec, &mut errors);
        parts::restore(&mut comparable, &old["spec"], "volumeClaimTemplates");
    }
    if comparable != old["spec"] {
        errors.push(spec.forbidden(SPEC_IMMUTABLE));
    }
    errors
}

fn settings(spec: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let management = spec.get("podManagementPolicy");
    match management.text() {
        "OrderedReady" | "Parallel" => {}
        "" => errors.push(management.required("")),
        _ => errors.push(management.invalid("must be 'OrderedReady' or 'Parallel'")),
    }
    strategy(&spec.get("updateStrategy"), &mut errors);
    for field in ["whenDeleted", "whenScaled"] {
        let policies = spec.get("persistentVolumeClaimRetentionPolicy");
        let policy = policies.get_path(field);
        if !matches!(policy.text(), "Retain" | "Delete") {
            errors.push(policy.not_supported(&["Delete", "Retain"]));
        }
    }
    errors.check_not_negative(&spec.get("replicas"));
    errors.check_not_negative(&spec.get("minReadySeconds"));
    errors.check_not_negative(&spec.get_path("ordinals.start"));
    // `statefulset.md` 6.7
    workload::check_selector(&spec.get("selector"), "statefulset", &mut errors);
    errors
}

/// `statefulset.md` 6.9 and 6.10
fn strategy(strategy: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "" => errors.push(strategy.required("")),
        "OnDelete" => {
            if rolling.is_set() {
                errors.push(rolling.invalid("only allowed for updateStrategy 'RollingUpdate'"));
            }
        }
        "RollingUpdate" => {
            errors.check_not_negative(&rolling.get("partition"));
            let most = rolling.get("maxUnavailable");
            match IntOrPercent::from_json(most.value) {
                Some(IntOrPercent::Int(count)) if count < 0 => {
                    errors.push(most.invalid("must be greater than or equal to 0"));
                }
                Some(IntOrPercent::Int(0) | IntOrPercent::Percent(0)) => {
                    errors.push(most.invalid("cannot be 0"));
                }
                Some(IntOrPercent::Percent(share)) if share > 100 => {
                    errors.push(most.invalid("must not be greater than 100%"));
                }
                None if most.is_set() => {
                    let rule = "a valid percent string must be a numeric string followed by an \
                                ending '%'";
                    let clause = names::mismatch(rule, "[0-9]+%", &["1%", "93%"]);
                    errors.push(most.invalid(clause));
                }
                _ => {}
            }
        }
        _ => errors.push(strategy.invalid("must be 'RollingUpdate' or 'OnDelete'")),
    }
}

/// `statefulset.md` 6.7, 6.8 and 6.12
fn template(spec: &Field<'_, '_>, whole: bool, errors: &mut Vec<FieldError>) {
    let selector = LabelSelector::from_json(spec.get("selector").value).ok();
    workload::check_labels(spec, selector.as_ref(), errors);
    let claims: Vec<&str> = spec
        .get("volumeClaimTemplates")
        .items()
        .filter_map(|claim| claim.value["metadata"]["name"].as_str())
        .collect();
    workload::check_template(spec, "StatefulSet", &claims, whole, errors);
}

pub(super) fn claim_template(claim: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let metadata = claim.get("metadata");
    let name = metadata.get("name");
    errors.check_required_text(&name, names::dns_subdomain);
    errors.extend(metadata::labels(&metadata.get("labels")));
    errors.extend(metadata::annotations(&metadata.get("annotations")));
    errors.extend(claim::validate_spec(&claim.get("spec")));
}

pub(super) fn claim_names(spec: &Field<'_, '_>) -> Vec<FieldError> {
    metadata::duplicates(&spec.get("volumeClaimTemplates"), "metadata.name")
}

/// Checks the counts of a status (statefulset.md 5.17).
pub(super) fn status(object: &Value, old: &Value) -> Vec<FieldError> {
    let status = Field::of(object, "status");
    let count = |field: &str| status.get_path(field).int().unwrap_or_default();
    let mut errors = Vec::new();
    let parts = [
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
    ];
    for field in ["replicas"].iter().chain(&parts) {
        errors.check_not_negative(&status.get_path(field));
    }
    errors.check_not_negative(&status.get("observedGeneration"));
    errors.check_not_negative(&status.get("collisionCount"));
    for field in parts {
        if count(field) > count("replicas") {
            errors.push(
                status
                    .get_path(field)
                    .invalid("cannot be greater than status.replicas"),
            );
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let at = status.get("availableReplicas");
        errors.push(at.invalid("cannot be greater than status.readyReplicas"));
    }
    let before = old["status"]["collisionCount"].as_i64().unwrap_or_default();
    if count("collisionCount") < before {
        let path = status.get("collisionCount").path();
        errors.push(FieldError::invalid(
            &path,
            count("collisionCount"),
            "cannot be decremented",
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;
    use crate::groups::apps::StatefulSet;
    use crate::kind::reads::keep;
    use crate::kind::{Kind, StatusUpdate};

    fn set(change: impl Fn(&mut Value)) -> Value {
        let mut object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"serviceName": "nginx", "selector": {"matchLabels": {"app": "nginx"}},
                "template": {"metadata": {"labels": {"app": "nginx"}},
                    "spec": {"containers": [{"name": "nginx", "image": "nginx",
                        "volumeMounts": [{"name": "www", "mountPath": "/www"}]}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "www"}, "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}}}}]}});
        change(&mut object["spec"]);
        let mut object = StatefulSet.decode(object).unwrap();
        StatefulSet.default(&mut object);
        StatefulSet.prepare_create(&mut object);
        object
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn created(change: impl Fn(&mut Value)) -> Vec<String> {
        texts(&StatefulSet.validate_create(&set(change)))
    }

    fn updated(change: impl Fn(&mut Value)) -> Vec<String> {
        texts(&StatefulSet.validate_update(&set(change), &set(|_| {})))
    }

    #[test]
    fn an_ordinary_set_is_fine() {
        assert!(created(|_| {}).is_empty());
        assert!(updated(|_| {}).is_empty());
    }

    /// `statefulset.md` 6.6
    #[test]
    fn a_name_has_no_dots() {
        let mut object = set(|_| {});
        object["metadata"]["name"] = json!("a.b");
        let expected = "metadata.name: Invalid value: \"a.b\": must not contain dots";
        assert_eq!(texts(&StatefulSet.validate_create(&object)), [expected]);
    }

    /// `statefulset.md` 6.7 to 6.9, T24: one response contains all causes.
    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let errors = created(|spec| {
            spec["template"]["metadata"]["labels"] = json!({"app": "other"});
            spec["template"]["spec"]["restartPolicy"] = json!("Never");
            spec["template"]["spec"]["activeDeadlineSeconds"] = json!(5);
            spec["updateStrategy"] = json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}});
            spec["podManagementPolicy"] = json!("Random");
            spec["replicas"] = json!(-1);
        });
        assert_eq!(
            errors,
            [
                "spec.podManagementPolicy: Invalid value: \"Random\": must be 'OrderedReady' or \
                 'Parallel'",
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed \
                 for updateStrategy 'RollingUpdate'",
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` \
                 does \
                 not match template `labels`",
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \
                 \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in \
                 StatefulSet is not Supported",
            ]
        );
    }

    /// `statefulset.md` 6.7
    #[test]
    fn a_selector_is_needed() {
        assert_eq!(
            created(|spec| spec["selector"] = json!({})),
            ["spec.selector: Invalid value: {}: empty selector is invalid for statefulset"]
        );
    }

    /// `statefulset.md` 6.10 and 6.11
    #[test]
    fn numbers_and_policies() {
        let errors = created(|spec| {
            spec["minReadySeconds"] = json!(-1);
            spec["ordinals"] = json!({"start": -1});
            spec["persistentVolumeClaimRetentionPolicy"] = json!({"whenScaled": "Keep"});
        });
        assert_eq!(
            errors,
            [
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \
                 \"Keep\": \
                 supported values: \"Delete\", \"Retain\"",
                "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
    }

    /// `statefulset.md` 6.5, T23
    #[test]
    fn identity_stays() {
        let refused = [format!("spec: Forbidden: {SPEC_IMMUTABLE}")];
        assert_eq!(
            updated(|spec| spec["serviceName"] = json!("other")),
            refused
        );
        assert_eq!(
            updated(|spec| spec["podManagementPolicy"] = json!("Parallel")),
            refused
        );
        let size = "/volumeClaimTemplates/0/spec/resources/requests/storage";
        assert_eq!(
            updated(|spec| *spec.pointer_mut(size).unwrap() = json!("2Gi")),
            refused
        );
        let labels = json!({"app": "nginx", "x": "y"});
        let both = updated(|spec| {
            spec["selector"]["matchLabels"] = labels.clone();
            spec["template"]["metadata"]["labels"] = labels.clone();
        });
        assert_eq!(both, refused);
        for (field, value) in [
            ("replicas", json!(5)),
            ("minReadySeconds", json!(5)),
            ("ordinals", json!({"start": 3})),
            ("revisionHistoryLimit", json!(2)),
            ("updateStrategy", json!({"type": "OnDelete"})),
            (
                "persistentVolumeClaimRetentionPolicy",
                json!({"whenScaled": "Delete"}),
            ),
        ] {
            assert!(
                updated(|spec| spec[field] = value.clone()).is_empty(),
                "{field}"
            );
        }
    }

    /// `statefulset.md` 6.12
    #[test]
    fn a_new_template_is_checked_and_an_old_one_is_left_alone() {
        let broken = |spec: &mut Value| {
            spec["template"]["spec"]["containers"][0]["name"] = json!("No");
        };
        assert_eq!(created(broken).len(), 1);
        assert_eq!(updated(broken).len(), 1);
        let old = set(broken);
        let new = set(|spec| {
            broken(spec);
            spec["replicas"] = json!(2);
        });
        assert_eq!(StatefulSet.validate_update(&new, &old), []);
        assert_eq!(created(|spec| spec["serviceName"] = json!("No")).len(), 1);
    }

    /// `statefulset.md` 5.17
    #[test]
    fn counters_add_up() {
        let mut object = set(|_| {});
        object["status"] = json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 0});
        assert_eq!(
            texts(&StatefulSet.validate_status_update(&object, &set(|_| {}))),
            ["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"]
        );
        let errors = StatefulSet.validate_status_update(&object, &set(|_| {}));
        let mut old = set(|_| {});
        for read in [&mut object, &mut old] {
            keep(read, StatefulSet.status_update().reads());
        }
        assert_eq!(object["spec"], json!({"replicas": old["spec"]["replicas"]}));
        assert_eq!(StatefulSet.validate_status_update(&object, &old), errors);
    }

    /// `statefulset.md` 6.14
    #[test]
    fn an_endless_history_is_pointed_out() {
        let object = set(|spec| spec["revisionHistoryLimit"] = json!(-1));
        assert_eq!(StatefulSet.warnings(&object, None).len(), 1);
    }
}
