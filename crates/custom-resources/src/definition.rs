//! apiextensions.k8s.io/v1 CustomResourceDefinition.

use std::collections::BTreeSet;

use jiff::Timestamp;
use json_tree::{Map, Value, json};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as api;
use object_model::{FieldError, FieldPath, names};
use resource_kinds::annotations::CUSTOM_RESOURCE_CLEANUP;
use resource_kinds::info::{ALL, STATUS};
use resource_kinds::{
    Cell, Column, DecodeError, Kind, KindInfo, Printer, Scope, Words, WriteRules, table,
};

use crate::deprecation;
use crate::json_path::JsonPath;
use crate::structural;

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
        // Schemas are stored unchanged: the defaults of the API's types do not apply to them.
        json_tree::from_value::<api::CustomResourceDefinition>(with_required(&object)).map_err(
            |error| DecodeError::Definition {
                kind: "CustomResourceDefinition",
                reason: error.to_string(),
            },
        )?;
        let Value::Object(map) = object else {
            return Err(DecodeError::DefinitionNotObject(
                "v1.CustomResourceDefinition",
            ));
        };
        let supported = ["apiVersion", "kind", "metadata", "spec", "status"];
        let fields = map
            .into_iter()
            .filter(|(name, value)| supported.contains(&name.as_str()) && !value.is_null());
        Ok(Value::Object(fields.collect()))
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        let conversion = spec.entry("conversion").or_insert_with(|| json!({}));
        fill(conversion, "strategy", "None");
        if let Some(names) = spec.get_mut("names") {
            let kind = names["kind"].as_str().unwrap_or_default().to_owned();
            fill(names, "singular", &kind.to_lowercase());
            fill(names, "listKind", &format!("{kind}List"));
        }
        for version in spec
            .get_mut("versions")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            for column in version
                .get_mut("additionalPrinterColumns")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                fill(column, "type", "string");
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        // The creation sets `storedVersions`; the controller writes the rest of the status.
        let stored = storage_version(object).unwrap_or_default();
        object["status"] = json!({"storedVersions": [stored]});
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        let mut status = old.get("status").cloned().unwrap_or_else(|| json!({}));
        let stored = storage_version(object).unwrap_or_default();
        if let Some(list) = status
            .get_mut("storedVersions")
            .and_then(Value::as_array_mut)
            && !list.contains(&stored)
        {
            list.push(stored);
        }
        object["status"] = status;
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        retain_new_rule_errors(&mut errors, old);
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
        let present: BTreeSet<&str> = versions(object)
            .iter()
            .filter_map(|v| v["name"].as_str())
            .collect();
        let stored = old["status"]["storedVersions"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        for (index, name) in stored.iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            if !present.contains(name) {
                let at = FieldPath::root("status")
                    .child("storedVersions")
                    .index(index);
                errors.push(FieldError::invalid(&at, name, "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions".replace("v1", name)));
            }
        }
        errors
    }
}

/// Removes the errors of rules that the stored definition has at the same field with the same value. A program version
/// that did not check the types of rules may have stored them, and labels and finalizers must remain writable.
///
/// As kube-apiserver, which does not check stored expressions again.
fn retain_new_rule_errors(errors: &mut Vec<FieldError>, old: &Value) {
    if errors.is_empty() {
        return;
    }
    let stored = validate(old);
    errors.retain(|error| {
        let is_of_rule = error.field.to_string().contains("x-kubernetes-validations");
        !(is_of_rule && stored.contains(error))
    });
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

pub(crate) fn versions(object: &Value) -> &[Value] {
    object["spec"]["versions"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

fn storage_version(object: &Value) -> Option<Value> {
    let stored = versions(object)
        .iter()
        .find(|version| version["storage"] == true);
    stored.map(|version| version["name"].clone())
}

pub(crate) fn is_terminating(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// The status of the condition of this type.
pub(crate) fn condition<'o>(object: &'o Value, kind: &str) -> Option<&'o str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)?["status"]
        .as_str()
}

fn validate(object: &Value) -> Vec<FieldError> {
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
    if group.is_empty() {
        errors.push(FieldError::required(&at.child("group"), ""));
    } else {
        for clause in names::dns_subdomain(&group) {
            errors.push(FieldError::invalid(
                &at.child("group"),
                group.as_str(),
                clause,
            ));
        }
        if !group.contains('.') {
            let detail = "should be a domain with at least one dot";
            errors.push(FieldError::invalid(
                &at.child("group"),
                group.as_str(),
                detail,
            ));
        }
    }
    match text(&spec["scope"]).as_str() {
        "" => errors.push(FieldError::required(&at.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => {
            let error =
                FieldError::not_supported(&at.child("scope"), other, &["Cluster", "Namespaced"]);
            errors.push(error);
        }
    }
    validate_names(&spec["names"], &at.child("names"), &mut errors);
    if spec["preserveUnknownFields"] == true {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid(
            &at.child("preserveUnknownFields"),
            true,
            detail,
        ));
    }
    let strategy = &at.child("conversion").child("strategy");
    match text(&spec["conversion"]["strategy"]).as_str() {
        "None" | "" => {}
        other => errors.push(FieldError::not_supported(strategy, other, &["None"])),
    }
    validate_versions(object, &at.child("versions"), &mut errors);
    errors
}

fn validate_names(value: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    for name in ["plural", "singular", "kind", "listKind"] {
        let text = value[name].as_str().unwrap_or_default();
        if text.is_empty() {
            errors.push(FieldError::required(&at.child(name), ""));
            continue;
        }
        for clause in names::dns_1035_label(&text.to_lowercase()) {
            errors.push(FieldError::invalid(&at.child(name), text, clause));
        }
    }
    if value["kind"] == value["listKind"] && value["kind"].is_string() {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(
            &at.child("listKind"),
            value["listKind"].clone(),
            detail,
        ));
    }
    for list in ["shortNames", "categories"] {
        let items = value[list].as_array().map_or(&[][..], Vec::as_slice);
        for (index, item) in items.iter().enumerate() {
            let text = item.as_str().unwrap_or_default();
            for clause in names::dns_1035_label(text) {
                errors.push(FieldError::invalid(
                    &at.child(list).index(index),
                    text,
                    clause,
                ));
            }
        }
    }
}

fn validate_versions(object: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let versions = versions(object);
    if versions.is_empty() {
        errors.push(FieldError::required(at, "must have at least one version"));
        return;
    }
    let mut unique_names = BTreeSet::new();
    for (index, version) in versions.iter().enumerate() {
        let at = at.index(index);
        let name = version["name"].as_str().unwrap_or_default();
        for clause in names::dns_1035_label(name) {
            errors.push(FieldError::invalid(&at.child("name"), name, clause));
        }
        if !unique_names.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        for complaint in deprecation::complaints(version) {
            let text = version["deprecationWarning"].clone();
            let at = at.child("deprecationWarning");
            errors.push(FieldError::invalid(&at, text, complaint));
        }
        let schema = &version["schema"]["openAPIV3Schema"];
        let path = at.child("schema").child("openAPIV3Schema");
        if schema.is_object() {
            errors.extend(structural::check(schema, &path));
        } else {
            errors.push(FieldError::required(&path, "schemas are required"));
        }
        validate_parts(version, &at, errors);
    }
    if versions
        .iter()
        .filter(|version| version["storage"] == true)
        .count()
        != 1
    {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(at, Value::Array(Vec::new()), detail));
    }
}

fn validate_parts(version: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let columns = version["additionalPrinterColumns"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    for (index, column) in columns.iter().enumerate() {
        let at = at.child("additionalPrinterColumns").index(index);
        if column["name"].as_str().is_none_or(str::is_empty) {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
        let kinds = ["boolean", "date", "integer", "number", "string"];
        let kind = column["type"].as_str().unwrap_or_default();
        if !kinds.contains(&kind) {
            errors.push(FieldError::not_supported(&at.child("type"), kind, &kinds));
        }
        let path = column["jsonPath"].as_str().unwrap_or_default();
        if path.is_empty() {
            errors.push(FieldError::required(&at.child("jsonPath"), ""));
        } else if JsonPath::parse(path).is_none() {
            let detail = "is an invalid json path";
            errors.push(FieldError::invalid(&at.child("jsonPath"), path, detail));
        }
    }
    let scale = &version["subresources"]["scale"];
    if !scale.is_object() {
        return;
    }
    let at = at.child("subresources").child("scale");
    for (name, start, needed) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", ".s", false),
    ] {
        let text = scale[name].as_str().unwrap_or_default();
        if text.is_empty() {
            if needed {
                errors.push(FieldError::required(&at.child(name), ""));
            }
        } else if !text.starts_with(start)
            || !JsonPath::parse(text).is_some_and(|path| path.is_plain())
        {
            let detail = "should be a json path under .spec or .status, made of names";
            errors.push(FieldError::invalid(&at.child(name), text, detail));
        }
    }
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
                r#"spec.versions[0].deprecationWarning: Invalid value: "old": can only be set for deprecated versions"#,
                "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
                "spec.versions: Invalid value: []: must have exactly one version marked as storage version",
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
