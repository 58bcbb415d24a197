//! Common parts of the kinds that create pods from a template: defaults, validation, scale, columns.

use json_tree::{Value, json};
use object_model::{FieldError, IntOrPercent, LabelSelector, names};

use crate::json::decode::{self, DecodeError};
use crate::json::parts;
use crate::printing::Cell;
use crate::validation::field::{Field, NEGATIVE, Rules};
use crate::validation::{metadata, pod_template};

/// Default number of retained old revisions (upstream's).
pub(crate) const REVISION_HISTORY: i64 = 10;

/// The warning about an unlimited history.
const ENDLESS_HISTORY: &str = "spec.revisionHistoryLimit: a negative value retains all historical \
                               revisions; a value >= 0 is recommended";

/// Decodes an object of the group `apps` with a selector and a template. An absent selector stays absent, although
/// the typed form contains an empty selector.
pub(crate) fn decode(kind: &str, object: Value) -> Result<Value, DecodeError> {
    let selector = object.pointer("/spec/selector");
    let selects = selector.is_some_and(|selector| !selector.is_null());
    let mut object = decode::decode("apps/v1", kind, object)?;
    if !selects && let Some(spec) = object.get_mut("spec") {
        parts::remove(spec, "selector");
    }
    decode_template(object.get_mut("spec"));
    Ok(object)
}

/// Completes the decoding of the template in a spec.
pub(crate) fn decode_template(spec: Option<&mut Value>) {
    if let Some(spec) = spec.and_then(|spec| spec.pointer_mut("/template/spec")) {
        pod_template::both_account_names(spec);
    }
}

/// Sets the defaults of the template in a spec.
pub(crate) fn default_template(spec: &mut Value) {
    if let Some(template) = parts::entry(spec, "template")
        && let Some(spec) = parts::entry(template, "spec")
    {
        pod_template::default_spec(spec);
    }
}

/// Removes zero counts of a status that are not written.
pub(crate) fn drop_zero_counts(object: &mut Value, counts: &[&str]) {
    if let Some(Value::Object(status)) = object.get_mut("status") {
        status.retain(|key, value| value.as_i64() != Some(0) || !counts.contains(&key.as_str()));
    }
}

/// A text such as `app=web` for the selector of a Scale.
pub(crate) fn selector_text(selector: &Value) -> String {
    LabelSelector::from_json(selector).map_or_else(|_| String::new(), |s| s.to_string())
}

/// The `autoscaling/v1` Scale of an object with `spec.replicas` and `status.replicas`.
pub(crate) fn scale(object: &Value, selector: &str) -> Value {
    let mut identity = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        parts::restore(&mut identity, &object["metadata"], field);
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": identity,
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or_default(),
            "selector": selector,
        },
    })
}

/// Sets the replica count from a Scale.
pub(crate) fn set_scale(object: &mut Value, scale: &Value) -> Vec<FieldError> {
    let replicas = Field::of(scale, "spec.replicas");
    let mut errors = Vec::new();
    errors.check_not_negative(&replicas);
    match replicas.int() {
        Some(count) if i32::try_from(count).is_err() => {
            errors.push(replicas.invalid("must be a 32-bit number"));
        }
        _ if replicas.is_set() && replicas.int().is_none() => {
            errors.push(replicas.invalid("must be an integer"));
        }
        _ => {}
    }
    if errors.is_empty()
        && let Some(spec) = parts::entry(object, "spec")
    {
        // A Scale without a number requests 0 replicas, the zero value in upstream.
        parts::set(spec, "replicas", replicas.int().unwrap_or_default());
    }
    errors
}

/// Checks that a selector exists and does not select everything.
pub(crate) fn check_selector(selector: &Field<'_, '_>, what: &str, errors: &mut Vec<FieldError>) {
    if !selector.is_set() {
        errors.push(selector.required(""));
        return;
    }
    errors.extend(metadata::label_selector(selector));
    if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
        errors.push(selector.invalid(format!("empty selector is invalid for {what}")));
    }
}

/// Checks that the selector matches the labels of the template.
pub(crate) fn check_labels(
    spec: &Field<'_, '_>,
    selector: Option<&LabelSelector>,
    errors: &mut Vec<FieldError>,
) {
    let labels = spec.get_path("template.metadata.labels");
    let Some(selector) = selector else {
        errors.push(spec.get("selector").invalid("invalid label selector"));
        return;
    };
    if !selector.is_everything() && !selector.matches(labels.value) {
        let value = match labels.value {
            Value::Null => json!({}),
            other => other.clone(),
        };
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(&labels.path(), value, detail));
    }
}

/// Whether the pod template differs from the stored template. A stored template is not validated again, because
/// earlier rules may have been less strict.
pub(crate) fn has_new_template(object: &Value, old: Option<&Value>) -> bool {
    old.is_none_or(|old| old["spec"]["template"] != object["spec"]["template"])
}

/// Checks a template whose pods must have the restart policy `Always`. `whole` checks all fields; it is set for new
/// templates.
pub(crate) fn check_template(
    spec: &Field<'_, '_>,
    what: &str,
    claims: &[&str],
    whole: bool,
    errors: &mut Vec<FieldError>,
) {
    check_template_for(spec, &["Always"], claims, whole, errors);
    let deadline = spec.get_path("template.spec.activeDeadlineSeconds");
    if deadline.is_set() {
        let detail = format!("activeDeadlineSeconds in {what} is not Supported");
        errors.push(deadline.forbidden(detail));
    }
}

/// Checks a template whose pods must have one of these restart policies.
pub(crate) fn check_template_for(
    spec: &Field<'_, '_>,
    restart_policies: &[&str],
    claims: &[&str],
    whole: bool,
    errors: &mut Vec<FieldError>,
) {
    let template = spec.get("template");
    let restart = template.get_path("spec.restartPolicy");
    if whole {
        let template_errors = pod_template::validate_template(&template, claims).into_iter();
        // An invalid restart policy is reported below, with the values that the kind allows.
        errors.extend(template_errors.filter(|error| error.field != restart.path()));
    }
    if !restart_policies.contains(&restart.text()) {
        errors.push(restart.not_supported(restart_policies));
    }
}

/// Checks a non-negative number, or a percentage.
pub(crate) fn check_int_or_percent(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    match IntOrPercent::from_json(at.value) {
        Some(IntOrPercent::Int(count)) if count < 0 => errors.push(at.invalid(NEGATIVE)),
        None if at.is_set() => {
            let rule = "a valid percent string must be a numeric string followed by an ending '%'";
            errors.push(at.invalid(names::mismatch(rule, "[0-9]+%", &["1%", "93%"])));
        }
        _ => {}
    }
}

/// Checks a percentage of at most 100 %.
pub(crate) fn check_share(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if let Some(IntOrPercent::Percent(share)) = IntOrPercent::from_json(at.value)
        && share > 100
    {
        errors.push(at.invalid("must not be greater than 100%"));
    }
}

/// Whether the value is `0` or `0%`.
pub(crate) fn is_none(value: &Value) -> bool {
    matches!(
        IntOrPercent::from_json(value),
        Some(IntOrPercent::Int(0) | IntOrPercent::Percent(0))
    )
}

/// Checks that the counts of a status are not negative, and that no count of `parts` exceeds `replicas`.
pub(crate) fn check_counts(object: &Value, parts: &[&str]) -> Vec<FieldError> {
    let status = Field::of(object, "status");
    let all = status.get("replicas");
    let mut errors = Vec::new();
    errors.check_not_negative(&all);
    errors.check_not_negative(&status.get("observedGeneration"));
    for part in parts {
        let part = status.get_path(part);
        errors.check_not_negative(&part);
        if part.int() > Some(all.int().unwrap_or_default()) {
            errors.push(part.invalid("cannot be greater than status.replicas"));
        }
    }
    errors
}

/// Warnings about the template of an object, and about its history.
pub(crate) fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let spec = Field::of(object, "spec");
    let mut all = Vec::new();
    let same = old.is_some_and(|old| old["spec"]["template"] == object["spec"]["template"]);
    if !same {
        all.extend(pod_template::warnings(&spec.get_path("template.spec")));
    }
    let limit = spec.get("revisionHistoryLimit");
    if limit.int().is_some_and(|number| number < 0) {
        all.push(ENDLESS_HISTORY.to_owned());
    }
    all
}

/// A count; 0 if it is absent.
pub(crate) fn count(object: &Value, part: &str, field: &str) -> i64 {
    object[part][field].as_i64().unwrap_or_default()
}

/// The names and the images of a template's containers.
pub(crate) fn containers(template: &Field<'_, '_>) -> [Cell; 2] {
    let containers = template.get_path("spec.containers");
    ["name", "image"].map(|field| {
        let texts: Vec<&str> = containers
            .items()
            .map(|c| c.get_path(field).text())
            .collect();
        json!(texts.join(","))
    })
}

/// The selector, for tables.
pub(crate) fn selector_cell(selector: &Value) -> Cell {
    match selector_text(selector) {
        text if text.is_empty() => json!("<none>"),
        text => json!(text),
    }
}
