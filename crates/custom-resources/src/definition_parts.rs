//! The rules for the versions of a definition. Rules, texts and paths are those of
//! `pkg/apis/apiextensions/validation` in k8s.io/apiextensions-apiserver.

use std::collections::BTreeSet;

use json_tree::Value;
use object_model::{FieldError, FieldPath, names};

use crate::definition_fields::versions;
use crate::deprecation;
use crate::json_path::{JsonPath, STEPS_MAX};
use crate::schema_node::Node;
use crate::schema_path::{Brackets, resolve};
use crate::schema_rules;

/// Maximum number of selectable fields of a version.
const SELECTABLE_FIELDS_MAX: usize = 8;
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];
/// The annotation with which the group of the community's own API is used.
const APPROVED: &str = "api-approved.kubernetes.io";

/// The path of a part of a version, for messages. Kubernetes moves a part that all versions share to the top of the
/// spec before it validates a definition.
struct Places<'d> {
    spec: &'d FieldPath,
    versions: &'d [Value],
}

impl Places<'_> {
    fn is_shared(&self, part: &str) -> bool {
        let mut values = self
            .versions
            .iter()
            .map(|version| version.get(part).filter(|value| !value.is_null()));
        let first = values.next();
        values.all(|value| Some(value) == first)
    }

    /// The versions whose part is validated, with its path.
    fn each(&self, part: &str, shared_name: &str) -> Vec<(usize, FieldPath)> {
        if self.is_shared(part) {
            return vec![(0, self.spec.child(shared_name))];
        }
        let at = self.spec.child("versions");
        let indices = 0..self.versions.len();
        indices
            .map(|index| (index, at.index(index).child(part)))
            .collect()
    }
}

/// Adds the errors of the names and the group.
pub(crate) fn validate_group_and_scope(spec: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let text = |name: &str| spec[name].as_str().unwrap_or_default();
    let (group, scope) = (text("group"), text("scope"));
    let group_at = at.child("group");
    let clauses = names::dns_subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required(&group_at, ""));
    } else if !clauses.is_empty() {
        errors.push(FieldError::invalid(&group_at, group, clauses.join(",")));
    } else if !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        errors.push(FieldError::invalid(&group_at, group, detail));
    }
    let allowed = ["Cluster", "Namespaced"];
    if scope.is_empty() {
        errors.push(FieldError::required(&at.child("scope"), ""));
    } else if !allowed.contains(&scope) {
        let error = FieldError::not_supported(&at.child("scope"), scope, &allowed);
        errors.push(error);
    }
}

/// Adds the errors of `spec.names`.
pub(crate) fn validate_names(value: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    for name in ["plural", "singular", "kind", "listKind"] {
        if text(name).is_empty() {
            errors.push(FieldError::required(&at.child(name), ""));
        }
    }
    for name in ["plural", "singular", "kind", "listKind"] {
        let is_kind = matches!(name, "kind" | "listKind");
        let lower = match is_kind {
            true => text(name).to_lowercase(),
            false => text(name).to_owned(),
        };
        let clauses = names::dns_1035_label(&lower);
        if text(name).is_empty() || clauses.is_empty() {
            continue;
        }
        let prefix = match is_kind {
            true => "may have mixed case, but should otherwise match: ",
            false => "",
        };
        let detail = format!("{prefix}{}", clauses.join(","));
        errors.push(FieldError::invalid(&at.child(name), text(name), detail));
    }
    label_list(value, "shortNames", at, errors);
    if !text("kind").is_empty() && text("kind") == text("listKind") {
        let detail = "kind and listKind may not be the same";
        let error = FieldError::invalid(&at.child("listKind"), text("listKind"), detail);
        errors.push(error);
    }
    label_list(value, "categories", at, errors);
}

fn label_list(value: &Value, name: &str, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let items = value[name].as_array().into_iter().flatten().enumerate();
    for (index, item) in items {
        let text = item.as_str().unwrap_or_default();
        let clauses = names::dns_1035_label(text);
        if !clauses.is_empty() {
            let at = at.child(name).index(index);
            errors.push(FieldError::invalid(&at, text, clauses.join(",")));
        }
    }
}

/// Adds the errors of `spec.versions`.
pub(crate) fn validate_versions(object: &Value, spec: &FieldPath, errors: &mut Vec<FieldError>) {
    let versions = versions(object);
    let at = spec.child("versions");
    let places = Places { spec, versions };
    for (index, version) in versions.iter().enumerate() {
        if !version["schema"]["openAPIV3Schema"].is_object() {
            let at = at.index(index).child("schema").child("openAPIV3Schema");
            errors.push(FieldError::required(&at, ""));
        }
    }
    let mut unique = BTreeSet::new();
    let mut are_unique = true;
    for (index, version) in versions.iter().enumerate() {
        let name = version["name"].as_str().unwrap_or_default();
        are_unique &= unique.insert(name);
        let clauses = names::dns_1035_label(name);
        if !clauses.is_empty() {
            let at = at.index(index).child("name");
            errors.push(FieldError::invalid(&at, name, clauses.join(",")));
        }
        for complaint in deprecation::complaints(version) {
            let text = version["deprecationWarning"].clone();
            let at = at.index(index).child("deprecationWarning");
            errors.push(FieldError::invalid(&at, text, complaint));
        }
    }
    validate_schemas(&places, errors);
    if !are_unique {
        let detail = "must contain unique version names";
        errors.push(FieldError::invalid(&at, version_names(versions), detail));
    }
    let stored = versions.iter().filter(|version| version["storage"] == true);
    if stored.count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(&at, version_names(versions), detail));
    }
    for (index, at) in places.each("subresources", "subresources") {
        if let Some(version) = versions.get(index) {
            scale(&version["subresources"]["scale"], &at, errors);
        }
    }
    for (index, at) in places.each("additionalPrinterColumns", "additionalPrinterColumns") {
        let columns = versions
            .get(index)
            .map(|version| &version["additionalPrinterColumns"]);
        let columns = columns.and_then(Value::as_array).into_iter().flatten();
        for (index, column) in columns.enumerate() {
            printer_column(column, &at.index(index), errors);
        }
    }
    selectable_fields(&places, errors);
}

fn version_names(versions: &[Value]) -> Value {
    Value::Array(
        versions
            .iter()
            .map(|version| version["name"].clone())
            .collect(),
    )
}

fn validate_schemas(places: &Places<'_>, errors: &mut Vec<FieldError>) {
    let has_status = |version: &Value| version["subresources"]["status"].is_object();
    let is_shared = places.is_shared("schema");
    for (index, at) in places.each("schema", "validation") {
        let Some(version) = places.versions.get(index) else {
            continue;
        };
        let has_status = match is_shared {
            true => places.versions.iter().any(has_status),
            false => has_status(version),
        };
        let schema = &version["schema"]["openAPIV3Schema"];
        if schema.is_object() {
            let at = at.child("openAPIV3Schema");
            errors.extend(schema_rules::check(schema, has_status, &at));
        }
    }
}

fn printer_column(column: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let text = |name: &str| column[name].as_str().unwrap_or_default();
    if text("name").is_empty() {
        errors.push(FieldError::required(&at.child("name"), ""));
    }
    let kind = text("type");
    let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
    if kind.is_empty() {
        errors.push(FieldError::required(&at.child("type"), detail));
    } else if !COLUMN_TYPES.contains(&kind) {
        errors.push(FieldError::invalid(&at.child("type"), kind, detail));
    }
    let format = text("format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.push(FieldError::invalid(&at.child("format"), format, detail));
    }
    let (path, at) = (text("jsonPath"), at.child("JSONPath"));
    if path.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        simple_path(path, &at, errors);
    }
}

/// Whether a path has the form that is checked: a dot at the start.
fn simple_path(path: &str, at: &FieldPath, errors: &mut Vec<FieldError>) -> bool {
    let is_simple = path.starts_with('.');
    if !is_simple {
        let detail = "must be a simple json path starting with .";
        errors.push(FieldError::invalid(at, path, detail));
    }
    is_simple
}

fn scale(scale: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    if !scale.is_object() {
        return;
    }
    for (name, starts, detail) in [
        (
            "specReplicasPath",
            &[".spec."][..],
            Some("should be a json path under .spec"),
        ),
        (
            "statusReplicasPath",
            &[".status."],
            Some("should be a json path under .status"),
        ),
        ("labelSelectorPath", &[".spec.", ".status."], None),
    ] {
        let path = scale[name].as_str().unwrap_or_default();
        let at = at.child("scale").child(name);
        if path.is_empty() {
            if detail.is_some() {
                errors.push(FieldError::required(&at, ""));
            }
        } else if simple_path(path, &at, errors)
            && !starts.iter().any(|start| path.starts_with(start))
        {
            let detail = detail.unwrap_or("should be a json path under either .spec or .status");
            errors.push(FieldError::invalid(&at, path, detail));
        } else if path.starts_with('.') && JsonPath::of_names(path).is_none() {
            let detail = format!("must have at most {STEPS_MAX} names");
            errors.push(FieldError::invalid(&at, path, detail));
        }
    }
}

/// Kubernetes refuses selectable fields that all versions share if the schemas of the versions differ, and the
/// reverse, with a text about a missing schema. Such fields are checked by the schema of each version here.
fn selectable_fields(places: &Places<'_>, errors: &mut Vec<FieldError>) {
    const PART: &str = "selectableFields";
    let is_shared = places.is_shared(PART) && places.is_shared("schema");
    for (index, version) in places.versions.iter().enumerate() {
        let at = match is_shared {
            true if index > 0 => return,
            true => places.spec.child(PART),
            false => places.spec.child("versions").index(index).child(PART),
        };
        let fields = version[PART].as_array().map_or(&[][..], Vec::as_slice);
        let schema = &version["schema"]["openAPIV3Schema"];
        let Some(schema) = Node::new(schema).filter(|_| schema.is_object()) else {
            if !fields.is_empty() {
                let detail =
                    "may only be set when `version.schema.openAPIV3Schema` is not included";
                errors.push(FieldError::invalid(&at, "", detail));
            }
            continue;
        };
        fields_of_version(fields, schema, &at, errors);
    }
}

fn fields_of_version(
    fields: &[Value],
    schema: Node<'_>,
    at: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let mut unique = BTreeSet::new();
    for (index, field) in fields.iter().enumerate() {
        let path = field["jsonPath"].as_str().unwrap_or_default();
        let at = at.index(index).child("jsonPath");
        if path.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let target = match resolve(path, schema, Brackets::Refused) {
            Ok(target) => target,
            Err(reason) => {
                let detail = format!("is an invalid path: {reason}");
                errors.push(FieldError::invalid(&at, path, detail));
                continue;
            }
        };
        if target.root == "metadata" {
            let detail = "must not point to fields in metadata";
            errors.push(FieldError::invalid(&at, path, detail));
        }
        if !matches!(target.schema.text("type"), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings \
                          with formats are allowed.";
            errors.push(FieldError::invalid(&at, path, detail));
        }
        if !unique.insert(target.path) {
            errors.push(FieldError::duplicate(&at, path));
        }
    }
    if unique.len() > SELECTABLE_FIELDS_MAX {
        let error = FieldError::too_many(at, unique.len(), SELECTABLE_FIELDS_MAX);
        errors.push(error);
    }
}

/// The state of the annotation with which a group of the community is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

impl Approval {
    fn of(object: &Value) -> Self {
        let text = object["metadata"]["annotations"][APPROVED].as_str();
        let text = text.unwrap_or_default();
        if text.is_empty() {
            Self::Missing
        } else if text.starts_with("unapproved") {
            Self::Bypassed
        } else if is_address(text) {
            Self::Approved
        } else {
            Self::Invalid
        }
    }
}

/// Whether a text is an absolute address with a host.
fn is_address(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && !host.is_empty()
        && !text.contains(|c: char| c.is_control() || c == ' ')
}

/// The error of a definition in a group of the Kubernetes community without its approval. An update that does not
/// change the approval is valid.
pub(crate) fn approval_error(object: &Value, old: Option<&Value>) -> Option<FieldError> {
    let group = object["spec"]["group"].as_str().unwrap_or_default();
    let is_protected = ["k8s.io", "kubernetes.io"].iter().any(|domain| {
        let before = group.strip_suffix(domain);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    });
    let approval = Approval::of(object);
    if !is_protected || old.is_some_and(|old| Approval::of(old) == approval) {
        return None;
    }
    let at = FieldPath::root("metadata")
        .child("annotations")
        .key(APPROVED);
    cov_mark::hit!(findings_2_e7);
    let page = "see https://github.com/kubernetes/enhancements/pull/1111";
    let needed = format!("protected groups must have approval annotation \"{APPROVED}\"");
    match approval {
        Approval::Approved | Approval::Bypassed => None,
        Approval::Missing => Some(FieldError::required(&at, format!("{needed}, {page}"))),
        Approval::Invalid => {
            let value = object["metadata"]["annotations"][APPROVED].clone();
            let detail = format!(
                "{needed} with either a URL or a reason starting with \"unapproved\", {page}"
            );
            Some(FieldError::invalid(&at, value, detail))
        }
    }
}
