//! Validation of metadata, for all kinds.

use std::borrow::Cow;

use json_tree::{Value, json};
use object_model::{FieldError, FieldPath, names};

use crate::validation::field::{Field, Rules};
use crate::validation::text_set::TextSet;

/// The validation errors of the metadata of a new object. `name_errors` validates a name of its kind.
pub(crate) fn validate(
    is_namespaced: bool,
    name_errors: &dyn Fn(&str) -> Vec<String>,
    object: &Value,
) -> Vec<FieldError> {
    let metadata = Field::of(object, "metadata");
    let mut errors = Vec::new();
    let name = metadata.get("name");
    let prefix = metadata.get("generateName");
    if !prefix.text().is_empty() {
        // A generated name ends with a letter, so a dash at the end of its prefix is valid.
        let sample = match prefix.text().strip_suffix('-') {
            Some(start) if !start.is_empty() => format!("{start}a"),
            _ => prefix.text().to_owned(),
        };
        let clauses = name_errors(&sample).into_iter();
        errors.extend(clauses.map(|clause| prefix.invalid(clause)));
    }
    if name.text().is_empty() {
        errors.push(name.required("name or generateName is required"));
    } else {
        let clauses = name_errors(name.text()).into_iter();
        errors.extend(clauses.map(|clause| name.invalid(clause)));
    }
    let namespace = metadata.get("namespace");
    match (is_namespaced, namespace.is_empty()) {
        (true, true) => errors.push(namespace.required("")),
        (true, false) => errors.check_text(&namespace, names::dns_label),
        (false, false) => errors.push(namespace.forbidden("not allowed on this type")),
        (false, true) => {}
    }
    errors.extend(validate_free_parts(&metadata));
    errors
}

/// The validation errors of the parts of the metadata that an update may change.
pub(crate) fn validate_update(object: &Value) -> Vec<FieldError> {
    validate_free_parts(&Field::of(object, "metadata"))
}

fn validate_free_parts(metadata: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = labels_and_annotations(metadata);
    errors.extend(owner_references(&metadata.get("ownerReferences")));
    for finalizer in metadata.get("finalizers").items() {
        for clause in names::qualified_name(finalizer.text()) {
            let list = metadata.get("finalizers").path();
            errors.push(FieldError::invalid(&list, finalizer.text(), clause));
        }
    }
    errors
}

/// The validation errors of the metadata of an object inside of another object, which may have no name; the paths start
/// with `metadata`.
pub fn validate_embedded_metadata(metadata: &Value) -> Vec<FieldError> {
    let has = |name: &str| {
        let text = metadata.get(name).and_then(Value::as_str);
        text.is_some_and(|text| !text.is_empty())
    };
    let (has_namespace, has_name) = (has("namespace"), has("name"));
    let mut metadata = metadata.clone();
    if !has_name && let Some(map) = metadata.as_object_mut() {
        map.insert("name".to_owned(), "any".into());
    }
    let object = json!({"metadata": metadata});
    validate(has_namespace, &names::path_segment, &object)
}

/// The validation errors of `metadata.labels` and `metadata.annotations`.
pub fn validate_labels_and_annotations(object: &Value) -> Vec<FieldError> {
    labels_and_annotations(&Field::of(object, "metadata"))
}

fn labels_and_annotations(metadata: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = labels(&metadata.get("labels"));
    errors.extend(annotations(&metadata.get("annotations")));
    errors
}

/// The validation errors of a map of labels.
pub(crate) fn labels(at: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in at.entries() {
        for clause in names::qualified_name(key) {
            errors.push(FieldError::invalid(&at.path(), key, clause));
        }
        for clause in names::label_value(value.text()) {
            errors.push(FieldError::invalid(&at.path(), value.text(), clause));
        }
    }
    errors
}

/// The validation errors of a map of annotations.
pub(crate) fn annotations(at: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in at.entries() {
        let lower = match key.chars().any(char::is_uppercase) {
            true => Cow::Owned(key.to_lowercase()),
            false => Cow::Borrowed(key),
        };
        for clause in names::qualified_name(&lower) {
            errors.push(FieldError::invalid(&at.path(), key, clause));
        }
        bytes += key.len() + value.text().len();
    }
    if bytes > names::ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(
            &at.path(),
            names::ANNOTATIONS_BYTES_MAX,
        ));
    }
    errors
}

fn owner_references(list: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controllers: Vec<String> = Vec::new();
    for owner in list.items() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            let at = owner.get(field);
            if at.is_empty() {
                let detail = match field {
                    "apiVersion" => "version must not be empty",
                    _ => "must not be empty",
                };
                errors.push(FieldError::invalid(&at.path(), at.text(), detail));
            }
        }
        let (version, kind) = (owner.get("apiVersion"), owner.get("kind"));
        // Events are deleted by age, and their owned objects would go with them.
        if version.text() == "v1" && kind.text() == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(
                &list.path(),
                owner.value.clone(),
                detail,
            ));
        }
        if owner.get("controller").is_true() {
            controllers.push(format!("{}/{}", kind.text(), owner.get("name").text()));
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        let detail = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references \
             for {first} and {second}"
        );
        errors.push(FieldError::invalid(
            &list.path(),
            list.value.clone(),
            detail,
        ));
    }
    errors
}

/// The validation errors of a `metav1.LabelSelector`.
pub(crate) fn label_selector(selector: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = labels(&selector.get("matchLabels"));
    for expression in selector.get("matchExpressions").items() {
        let operator = expression.get("operator");
        let values = expression.get("values");
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"))
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(values.forbidden(
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ))
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        errors.check_text(&expression.get("key"), names::qualified_name);
        for value in values.items() {
            errors.check_text(&value, names::label_value);
        }
    }
    errors
}

/// The duplicates in a list, by one of their fields.
pub(crate) fn duplicates(list: &Field<'_, '_>, field: &str) -> Vec<FieldError> {
    let mut values = TextSet::default();
    let mut errors = Vec::new();
    for item in list.items() {
        let at = item.get_path(field);
        if !at.text().is_empty() && !values.insert(at.text()) {
            errors.push(at.duplicate());
        }
    }
    errors
}

/// The path of a top-level field.
pub(crate) fn path(name: &str) -> FieldPath {
    FieldPath::root(name)
}
