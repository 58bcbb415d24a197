//! apiextensions.k8s.io/v1 CustomResourceDefinition.

use jiff::Timestamp;
use json_tree::{Map, Value, json};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as api;
use object_model::{FieldError, FieldPath};
use resource_kinds::annotations::CUSTOM_RESOURCE_CLEANUP;
use resource_kinds::info::{ALL, STATUS};
use resource_kinds::{
    Cell, Column, DecodeError, Deletion, Kind, KindInfo, Printer, Scope, StatusUpdate, Words,
    WriteRules, decode_object_meta, table,
};

use crate::conversion::settings;
use crate::definition_fields::{condition, storage_version};
use crate::{definition_form, definition_parts, stored_versions};

/// The API group of CustomResourceDefinitions.
pub const GROUP: &str = "apiextensions.k8s.io";
/// The resource of CustomResourceDefinitions.
pub const PLURAL: &str = "customresourcedefinitions";

/// apiextensions.k8s.io/v1 CustomResourceDefinition.
#[derive(Debug)]
pub struct Definition;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        unconditional_update: false,
        has_generation: true,
        finalizers: &[CUSTOM_RESOURCE_CLEANUP],
        ..WriteRules::ORDINARY
    },

    group: GROUP,
    version: "v1",
    kind: "CustomResourceDefinition",
    list_kind: "CustomResourceDefinitionList",
    plural: PLURAL,
    singular: "customresourcedefinition",
    short_names: Words::Fixed(&["crd", "crds"]),
    categories: Words::Fixed(&["api-extensions"]),
    scope: Scope::Cluster,
    verbs: ALL,
    subresources: &[STATUS],
    storage: PLURAL,
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    Column {
        name: "Created At",
        kind: "date",
        format: "",
        description: "When the definition was made.",
        priority: 0,
    },
];

impl Kind for Definition {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut object = object;
        if !object.is_object() {
            return Err(DecodeError::DefinitionNotObject(
                "v1.CustomResourceDefinition",
            ));
        }
        definition_form::bring_into_form(&mut object);
        if let Some(metadata) = object.get_mut("metadata") {
            decode_object_meta(metadata)?;
        }
        // The types are only checked: their defaults do not apply to schemas.
        json_tree::from_value::<api::CustomResourceDefinition>(with_required(&object)).map_err(
            |error| DecodeError::Definition {
                kind: "CustomResourceDefinition",
                reason: error.to_string(),
            },
        )?;
        Ok(object)
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        let conversion = spec.entry("conversion").or_insert_with(|| json!({}));
        fill(conversion, "strategy", "None");
        settings::default(conversion);
        if let Some(names) = spec.get_mut("names") {
            let kind = names["kind"].as_str().unwrap_or_default().to_owned();
            fill(names, "singular", &kind.to_lowercase());
            fill(names, "listKind", &format!("{kind}List"));
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        // The creation sets `storedVersions`; the controller writes the rest of the status.
        let stored = storage_version(object).unwrap_or_default();
        object["status"] = json!({"storedVersions": [stored]});
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        let mut status = old.get("status").cloned().unwrap_or_else(|| json!({}));
        stored_versions::add_storage_version(&mut status, object);
        object["status"] = status;
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object, None)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = validate(object, Some(old));
        retain_new_errors(&mut errors, old);
        let spec = FieldPath::root("spec");
        let established = condition(old, "Established") == Some("True");
        let mut retain = |names: &[&str]| {
            let mut at = spec.clone();
            let (mut new, mut former) = (&object["spec"], &old["spec"]);
            for name in names {
                at = at.child(name);
                (new, former) = (&new[*name], &former[*name]);
            }
            if new != former {
                errors.push(FieldError::invalid(&at, new.clone(), "field is immutable"));
            }
        };
        retain(&["group"]);
        retain(&["names", "plural"]);
        if established {
            retain(&["scope"]);
            retain(&["names", "kind"]);
        }
        errors.extend(stored_versions::validate(object, old));
        errors
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }

    fn deletion(&self) -> &dyn Deletion {
        self
    }
}

impl Deletion for Definition {
    /// The registry of definitions in Kubernetes sets the time of the deletion alone.
    fn sets_grace(&self) -> bool {
        false
    }
}

impl StatusUpdate for Definition {
    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        stored_versions::validate(object, old)
    }
}

/// Removes the errors that the stored definition has at the same field with the same value. An earlier version may have
/// stored a definition that is not valid, and labels, finalizers and other schemas must remain writable.
///
/// As kube-apiserver for rules, for the types of lists and for the defaults of earlier versions.
fn retain_new_errors(errors: &mut Vec<FieldError>, old: &Value) {
    if errors.is_empty() {
        return;
    }
    let stored = validate(old, None);
    errors.retain(|error| !stored.contains(error));
}

impl Printer for Definition {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        let meta = &object["metadata"];
        vec![meta["name"].clone(), meta["creationTimestamp"].clone()]
    }
}

fn fill(value: &mut Value, name: &str, default: &str) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    let missing = match map.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if missing {
        map.insert(name.to_owned(), default.into());
    }
}

/// Adds empty required fields, so that the validation, and not the decoder, reports them.
fn with_required(object: &Value) -> Value {
    let mut object = object.clone();
    let Some(map) = object.as_object_mut() else {
        return object;
    };
    let spec = map.entry("spec").or_insert_with(|| json!({}));
    let Some(spec) = spec.as_object_mut() else {
        return object;
    };
    let provide = |map: &mut Map<String, Value>, name: &str, value: Value| {
        if map.get(name).is_none_or(Value::is_null) {
            map.insert(name.to_owned(), value);
        }
    };
    for (name, value) in [
        ("group", json!("")),
        ("scope", json!("")),
        ("names", json!({})),
        ("versions", json!([])),
    ] {
        provide(spec, name, value);
    }
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        provide(names, "kind", json!(""));
        provide(names, "plural", json!(""));
    }
    for version in spec
        .get_mut("versions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(version) = version.as_object_mut() {
            provide(version, "name", json!(""));
            provide(version, "served", json!(false));
            provide(version, "storage", json!(false));
        }
    }
    object
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &object["spec"];
    let at = FieldPath::root("spec");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    let name = text(&object["metadata"]["name"]);
    if name != format!("{plural}.{group}") {
        let at = FieldPath::root("metadata").child("name");
        errors.push(FieldError::invalid(
            &at,
            name,
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    definition_parts::validate_group_and_scope(spec, &at, &mut errors);
    definition_parts::validate_versions(object, &at, &mut errors);
    definition_parts::validate_names(&spec["names"], &at.child("names"), &mut errors);
    errors.extend(settings::validate(object, old, &at.child("conversion")));
    errors.extend(definition_parts::approval_error(object, old));
    if spec["preserveUnknownFields"] == true {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid(
            &at.child("preserveUnknownFields"),
            true,
            detail,
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        let mut object = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "boats.example.org"},
            "spec": {"group": "example.org", "scope": "Namespaced",
                "names": {"plural": "boats", "kind": "Boat", "shortNames": ["bt"]},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema":
                    {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}}}]}});
        Definition.default(&mut object);
        object
    }

    fn texts(object: &Value) -> Vec<String> {
        let errors = Definition.validate_create(object);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plain_definition_gets_its_names() {
        let mut object = definition();
        assert_eq!(texts(&object), [""; 0]);
        let names = &object["spec"]["names"];
        assert_eq!(
            (&names["singular"], &names["listKind"]),
            (&json!("boat"), &json!("BoatList"))
        );
        assert_eq!(object["spec"]["conversion"], json!({"strategy": "None"}));
        Definition.prepare_create(&mut object);
        assert_eq!(object["status"], json!({"storedVersions": ["v1"]}));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let mut object = definition();
        object["metadata"]["name"] = json!("boat.example.org");
        object["spec"]["scope"] = json!("World");
        object["spec"]["versions"][0]["storage"] = json!(false);
        object["spec"]["versions"][0]["schema"] = json!({});
        object["spec"]["versions"][0]["deprecationWarning"] = json!("old");
        assert_eq!(
            texts(&object),
            [
                r#"metadata.name: Invalid value: "boat.example.org": must be spec.names.plural+"."+spec.group"#,
                r#"spec.scope: Unsupported value: "World": supported values: "Cluster", "Namespaced""#,
                "spec.versions[0].schema.openAPIV3Schema: Required value",
                r#"spec.versions[0].deprecationWarning: Invalid value: "old": can only be set for deprecated versions"#,
                r#"spec.versions: Invalid value: ["v1"]: must have exactly one version marked as storage version"#,
            ]
        );
    }

    #[test]
    fn a_served_kind_stays_what_it_is() {
        let mut old = definition();
        old["status"] = json!({"conditions": [{"type": "Established", "status": "True"}], "storedVersions": ["v1"]});
        let mut new = old.clone();
        new["spec"]["names"]["kind"] = json!("Ship");
        new["spec"]["versions"][0]["name"] = json!("v2");
        Definition.prepare_update(&mut new, &old);
        let errors = Definition.validate_update(&new, &old);
        let fields: Vec<String> = errors.iter().map(|error| error.field.to_string()).collect();
        assert_eq!(fields, ["spec.names.kind", "status.storedVersions[0]"]);
    }

    #[test]
    fn a_stored_rule_with_wrong_types_is_not_checked_again_until_it_changes() {
        let mut old = definition();
        let pointer = "/spec/versions/0/schema/openAPIV3Schema/x-kubernetes-validations";
        let schema = &mut old["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        schema["x-kubernetes-validations"] = json!([{"rule": "self.nosuch == 1"}]);
        assert_eq!(Definition.validate_create(&old).len(), 1);
        let mut labelled = old.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        assert_eq!(Definition.validate_update(&labelled, &old), []);
        let mut changed = old.clone();
        *changed.pointer_mut(pointer).unwrap() = json!([{"rule": "self.nosuch == 2"}]);
        assert_eq!(Definition.validate_update(&changed, &old).len(), 1);
        let mut further = old.clone();
        let rules = json!([{"rule": "self.nosuch == 1"}, {"rule": "self.other == 1"}]);
        *further.pointer_mut(pointer).unwrap() = rules;
        assert_eq!(Definition.validate_update(&further, &old).len(), 1);
    }
}
