//! Validation of a Job, and of its template.

use json_tree::Value;
use object_model::{FieldError, LabelSelector, names};

use crate::json::parts;
use crate::validation::conditions::is_true;
use crate::validation::field::{Field, Rules};
use crate::validation::{metadata, workload};
use crate::well_known::labels::{CONTROLLER_UID, JOB_NAME, LEGACY_CONTROLLER_UID, LEGACY_JOB_NAME};

/// Maximum parallelism, and maximum number of failed indexes, of an Indexed job.
const INDEXED_MAX: i64 = 100_000;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const RULES_MAX: usize = 20;

/// The validation errors of a new job.
pub(super) fn create(object: &Value) -> Vec<FieldError> {
    let mut errors = whole(object, None);
    if object["spec"]["manualSelector"] != true {
        generated(object, &mut errors);
    }
    errors
}

/// The validation errors of a changed job.
pub(super) fn update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = whole(object, Some(old));
    let (new, before) = (Field::of(object, "spec"), Field::of(old, "spec"));
    if !is_elastic(object, old) {
        errors.check_unchanged(&new.get("completions"), &before.get("completions"));
    }
    errors.check_unchanged(&new.get("selector"), &before.get("selector"));
    let mut template = old["spec"]["template"].clone();
    if is_waiting(old) {
        take_directives(&mut template, &object["spec"]["template"]);
    }
    let at = new.get("template");
    if *at.value != template {
        errors.push(at.invalid("field is immutable"));
    }
    for field in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        errors.check_unchanged(&new.get_path(field), &before.get_path(field));
    }
    errors
}

/// Whether an Indexed job may change its size: completions must equal the parallelism before and after.
fn is_elastic(object: &Value, old: &Value) -> bool {
    let spec = &object["spec"];
    spec["completionMode"] == "Indexed"
        && spec["completions"].is_i64()
        && old["spec"]["completions"].is_i64()
        && spec["completions"] == spec["parallelism"]
}

/// Whether the job has not started, so that its scheduling fields may still change.
fn is_waiting(old: &Value) -> bool {
    old["spec"]["suspend"] == true && old["status"]["startTime"].is_null()
}

fn take_directives(template: &mut Value, from: &Value) {
    for (part, fields) in [
        ("metadata", &["labels", "annotations"][..]),
        (
            "spec",
            &["nodeSelector", "affinity", "tolerations", "schedulingGates"][..],
        ),
    ] {
        if let Some(part_of) = parts::entry(template, part) {
            for field in fields {
                parts::restore(part_of, &from[part], field);
            }
        }
    }
}

fn whole(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = settings(&spec, workload::has_new_template(object, old));
    let selector = spec.get("selector");
    if selector.is_set() {
        errors.extend(metadata::label_selector(&selector));
        let selector = LabelSelector::from_json(selector.value).ok();
        workload::check_labels(&spec, selector.as_ref(), &mut errors);
    } else {
        errors.push(selector.required(""));
    }
    let last = workload::count(object, "spec", "completions") - 1;
    let name = Field::of(object, "metadata.name");
    if object["spec"]["completionMode"] == "Indexed" && last >= 0 && !name.is_empty() {
        let pod = format!("{}-{last}", name.text());
        if !names::dns_label(&pod).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {pod}");
            errors.push(name.invalid(detail));
        }
    }
    errors
}

/// Validates the spec of a job, or of a CronJob's job template; `whole` includes the pod template.
pub(super) fn settings(spec: &Field<'_, '_>, whole: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.check_not_negative(&spec.get_path(field));
    }
    let mode = spec.get("completionMode");
    errors.check_one_of_if_set(&mode, &["Indexed", "NonIndexed"]);
    if mode.text() == "Indexed" {
        indexed(spec, &mut errors);
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            let at = spec.get_path(field);
            if at.is_set() {
                errors.push(at.invalid("requires indexed completion mode"));
            }
        }
    }
    if spec.get("maxFailedIndexes").is_set() && !spec.get("backoffLimitPerIndex").is_set() {
        let at = spec.get("backoffLimitPerIndex");
        errors.push(at.required("when maxFailedIndexes is specified"));
    }
    let replacement = spec.get("podReplacementPolicy");
    errors.check_one_of_if_set(&replacement, &["Failed", "TerminatingOrFailed"]);
    errors.check_text_if_set(&spec.get("managedBy"), names::qualified_name);
    failure_policy(spec, &mut errors);
    success_policy(spec, &mut errors);
    workload::check_template_for(spec, &["OnFailure", "Never"], &[], whole, &mut errors);
    errors
}

fn indexed(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let completions = spec.get("completions");
    if !completions.is_set() {
        errors.push(completions.required("when completion mode is Indexed"));
    }
    for field in ["parallelism", "maxFailedIndexes"] {
        let at = spec.get_path(field);
        if at.int().is_some_and(|number| number > INDEXED_MAX) {
            errors.push(at.invalid(format!("must be less than or equal to {INDEXED_MAX}")));
        }
    }
    let most = spec.get("maxFailedIndexes");
    if most.int() > completions.int() && completions.is_set() {
        errors.push(most.invalid("must be less than or equal to completions"));
    }
}

fn failure_policy(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let policy = spec.get("podFailurePolicy");
    if !policy.is_set() {
        return;
    }
    let restart = spec.get_path("template.spec.restartPolicy");
    if restart.text() != "Never" {
        let detail = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.push(restart.invalid(detail));
    }
    let replacement = spec.get("podReplacementPolicy");
    if replacement.text() == "TerminatingOrFailed" {
        errors.push(replacement.not_supported(&["Failed"]));
    }
    let rules = policy.get("rules");
    if rules.items().count() > RULES_MAX {
        errors.push(rules.invalid(format!("must have at most {RULES_MAX} items")));
    }
    for rule in rules.items() {
        failure_rule(spec, &rule, errors);
    }
}

fn success_policy(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let policy = spec.get("successPolicy");
    if !policy.is_set() {
        return;
    }
    let rules = policy.get("rules");
    let count = rules.items().count();
    if count == 0 {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(rules.required(detail));
    }
    if count > RULES_MAX {
        errors.push(rules.invalid(format!("must have at most {RULES_MAX} items")));
    }
    let completions = spec.get("completions").int().unwrap_or_default();
    for rule in rules.items() {
        let (indexes, count) = (rule.get("succeededIndexes"), rule.get("succeededCount"));
        if !indexes.is_set() && !count.is_set() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(rule.required(detail));
        }
        errors.check_not_negative(&count);
        let listed = indexes
            .is_set()
            .then(|| listed(indexes.text(), completions));
        if let Some(Err(detail)) = &listed {
            errors.push(indexes.invalid(format!("error parsing succeededIndexes: {detail}")));
        }
        if count.int().is_some_and(|count| count > completions) {
            let detail = format!(
                "must be less than or equal to {completions} (the number of specified completions)"
            );
            errors.push(count.invalid(detail));
        } else if let Some(Ok(listed)) = listed
            && count.int().is_some_and(|count| count > listed)
        {
            errors.push(count.invalid(format!(
                "must be less than or equal to {listed} (the number of indexes in the specified \
                 succeededIndexes field)"
            )));
        }
    }
}

/// The number of indexes in a text such as `0,2-4`.
///
/// *Errors.* The first part that is malformed, not in order, or not below `completions`.
fn listed(text: &str, completions: i64) -> Result<i64, String> {
    let number = |text: &str| {
        let number = text.parse::<i64>();
        number.map_err(|_| format!("cannot convert string to integer for index: {text:?}"))
    };
    let (mut all, mut next) = (0, 0);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first < next || last < first {
            return Err(format!(
                "non-increasing order, previous: {}, current: {first}",
                next - 1
            ));
        }
        if last >= completions {
            return Err(format!("too large index: {part:?}"));
        }
        all += last - first + 1;
        next = last + 1;
    }
    Ok(all)
}

fn failure_rule(spec: &Field<'_, '_>, rule: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let action = rule.get("action");
    errors.check_one_of(&action, ACTIONS);
    if action.text() == "FailIndex" && !spec.get("backoffLimitPerIndex").is_set() {
        errors.push(action.invalid("requires the backoffLimitPerIndex to be set"));
    }
    let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
    match (codes.is_set(), !conditions.is_empty()) {
        (true, true) => {
            let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.push(rule.invalid(detail));
        }
        (false, false) => {
            let detail = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.push(rule.invalid(detail));
        }
        _ => {}
    }
    if codes.is_set() {
        errors.check_one_of(&codes.get("operator"), &["In", "NotIn"]);
        let values = codes.get("values");
        if values.is_empty() {
            errors.push(values.invalid("at least one value is required"));
        }
        if codes.get("operator").text() == "In" {
            for zero in values.items().filter(|value| value.int() == Some(0)) {
                errors.push(zero.invalid("must not be 0 for the In operator"));
            }
        }
        let name = codes.get("containerName");
        let lists = ["template.spec.containers", "template.spec.initContainers"];
        let exists = lists.map(|list| spec.get_path(list)).iter().any(|list| {
            let mut all = list.items();
            all.any(|container| container.get("name").text() == name.text())
        });
        if name.is_set() && !exists {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.push(name.invalid(detail));
        }
    }
    for pattern in conditions.items() {
        errors.check_text(&pattern.get("type"), names::qualified_name);
        errors.check_one_of(&pattern.get("status"), &["False", "True", "Unknown"]);
    }
}

/// Labels that the server generates must have the generated values.
fn generated(object: &Value, errors: &mut Vec<FieldError>) {
    let root = Field::root(object);
    let metadata = root.get_path("spec.template.metadata");
    let (name, uid) = (
        root.get_path("metadata.name"),
        root.get_path("metadata.uid"),
    );
    if uid.is_empty() {
        errors.push(uid.required(""));
    }
    for (key, expected) in [
        (LEGACY_CONTROLLER_UID, &uid),
        (CONTROLLER_UID, &uid),
        (LEGACY_JOB_NAME, &name),
        (JOB_NAME, &name),
    ] {
        let labels = metadata.get("labels");
        let value = labels.value[key].as_str().unwrap_or_default();
        if value != expected.text() {
            let path = labels.path().key(key);
            let detail = format!("must be '{}'", expected.text());
            errors.push(FieldError::invalid(&path, value, detail));
        }
    }
}

/// The validation errors of a changed status.
pub(super) fn status(object: &Value, old: &Value) -> Vec<FieldError> {
    let status = Field::of(object, "status");
    let mut errors = Vec::new();
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        errors.check_not_negative(&status.get_path(field));
    }
    for list in ["succeeded", "failed"] {
        for uid in status.get("uncountedTerminatedPods").get_path(list).items() {
            if uid.text().is_empty() {
                errors.push(uid.invalid("must not be empty"));
            }
        }
    }
    let conditions = status.get("conditions");
    if is_true(object, "Complete") && is_true(object, "Failed") {
        errors.push(conditions.invalid("cannot set Complete=True and Failed=true conditions"));
    }
    for end in ["Complete", "Failed"] {
        if is_true(old, end) && !is_true(object, end) {
            errors.push(conditions.invalid(format!("cannot disable the {end}=True condition")));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::super::Job;
    use super::*;
    use crate::kind::{Kind, StatusUpdate};

    fn accept(change: impl FnOnce(&mut Value)) -> Value {
        let mut object = json!({"metadata": {"name": "pi", "namespace": "d", "uid": "u"}, "spec": {
            "template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "c", "image": "i"}]}}}});
        change(&mut object["spec"]);
        let mut object = Job.decode(object).unwrap();
        Job.default(&mut object);
        Job.prepare_create(&mut object);
        object
    }

    fn checked(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let errors = Job.validate_create(&accept(change));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pods_of_a_job_end() {
        assert_eq!(
            checked(|spec| spec["template"]["spec"]["restartPolicy"] = json!("Always")),
            [
                "spec.template.spec.restartPolicy: Unsupported value: \"Always\": supported \
                 values: \"Never\", \"OnFailure\""
            ]
        );
    }

    #[test]
    fn an_indexed_job_says_how_many_indexes_there_are() {
        assert_eq!(
            checked(|spec| {
                spec["completionMode"] = json!("Indexed");
                spec["parallelism"] = json!(2);
            }),
            ["spec.completions: Required value: when completion mode is Indexed"]
        );
        assert_eq!(
            checked(|spec| spec["backoffLimitPerIndex"] = json!(1)).len(),
            1
        );
    }

    #[test]
    fn a_label_that_the_server_sets_cannot_be_chosen() {
        assert_eq!(
            checked(|spec| {
                spec["template"]["metadata"] = json!({"labels": {"job-name": "other"}});
            }),
            ["spec.template.metadata.labels[job-name]: Invalid value: \"other\": must be 'pi'"]
        );
    }

    #[test]
    fn the_template_stays() {
        let old = accept(|_| {});
        let changed = |field: &str, value: Value| {
            let mut new = old.clone();
            new["spec"][field] = value;
            Job.validate_update(&new, &old).len()
        };
        assert_eq!(changed("parallelism", json!(5)), 0);
        assert_eq!(changed("suspend", json!(true)), 0);
        assert_eq!(changed("completions", json!(5)), 1);
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        assert_eq!(Job.validate_update(&new, &old).len(), 1);
        let mut waiting = old.clone();
        waiting["spec"]["suspend"] = json!(true);
        assert_eq!(Job.validate_update(&new, &waiting), []);
    }

    #[test]
    fn a_rule_about_failures_looks_at_one_thing() {
        let with =
            |rule: Value| checked(|spec| spec["podFailurePolicy"] = json!({"rules": [rule]}));
        assert!(
            with(json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}))
                .is_empty()
        );
        assert_eq!(
            with(json!({"action": "Ignore"})),
            [
                "spec.podFailurePolicy.rules[0]: Invalid value: {\"action\":\"Ignore\"}: \
                 specifying one of OnExitCodes and OnPodConditions is required"
            ]
        );
    }

    #[test]
    fn a_rule_about_success_names_indexes_that_there_are() {
        let with = |rule: Value| {
            checked(|spec| {
                spec["completionMode"] = json!("Indexed");
                spec["completions"] = json!(5);
                spec["successPolicy"] = json!({"rules": [rule]});
            })
        };
        assert_eq!(
            with(json!({"succeededIndexes": "0,2-4", "succeededCount": 4})),
            [""; 0]
        );
        for (rule, part) in [
            (
                json!({}),
                "at least one of succeededCount or succeededIndexes",
            ),
            (json!({"succeededIndexes": "0,5"}), "too large index"),
            (json!({"succeededIndexes": "3,1"}), "non-increasing order"),
            (
                json!({"succeededIndexes": "x"}),
                "cannot convert string to integer",
            ),
            (
                json!({"succeededCount": 6}),
                "the number of specified completions",
            ),
            (
                json!({"succeededIndexes": "0", "succeededCount": 2}),
                "the number of indexes in",
            ),
        ] {
            let errors = with(rule);
            assert!(errors.len() == 1 && errors[0].contains(part), "{errors:?}");
        }
    }

    #[test]
    fn an_index_fails_only_where_indexes_have_a_limit() {
        let rule = json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}});
        let with = |limit: Value| {
            checked(|spec| {
                spec["completionMode"] = json!("Indexed");
                spec["completions"] = json!(5);
                spec["backoffLimitPerIndex"] = limit;
                spec["podFailurePolicy"] = json!({"rules": [rule]});
            })
        };
        assert_eq!(with(json!(1)), [""; 0]);
        assert_eq!(
            with(Value::Null),
            [
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the \
              backoffLimitPerIndex to be set"
            ]
        );
    }

    #[test]
    fn an_ended_job_does_not_begin_again() {
        let mut old = accept(|_| {});
        old["status"] = json!({"conditions": [{"type": "Complete", "status": "True"}]});
        let mut new = old.clone();
        assert_eq!(Job.validate_status_update(&new, &old), []);
        new["status"]["conditions"] = json!([]);
        assert_eq!(Job.validate_status_update(&new, &old).len(), 1);
    }
}
