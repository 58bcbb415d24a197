//! The definitions of the kinds in `kinds.tsv` and of all types inside of them, in the form of OpenAPI 3.0.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::agreement;
use super::document::{Document, REFERENCE};

/// The prefix of references in OpenAPI 3.0.
const REFERENCE_3: &str = "#/components/schemas/";

/// Types of messages that belong to no kind.
const COMMON: [&str; 3] = [
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
];

/// The types whose values are strings or numbers. OpenAPI 2.0 can only describe them as strings.
const STRING_OR_NUMBER: [&str; 2] = [
    "io.k8s.apimachinery.pkg.api.resource.Quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
];

/// Extensions with facts of other tables.
const OF_OTHER_TABLES: [&str; 7] = [
    "x-kubernetes-group-version-kind",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-patch-merge-key",
    "x-kubernetes-patch-strategy",
    "x-kubernetes-unions",
];

/// The group of kinds that are not in the document: the build script has their definitions.
const ELSEWHERE: &str = "metrics.k8s.io/";

/// The text of the file, from the rows of `kinds.tsv`.
pub fn text(document: &Document, kinds: &str) -> Result<String> {
    let mut pending: Vec<&str> = COMMON.to_vec();
    for row in agreement::rows(kinds) {
        let cells: Vec<&str> = row.split('\t').collect();
        let [version, kind, definition] = cells[..] else {
            anyhow::bail!("kinds: a row has not three cells: {row}");
        };
        if version.starts_with(ELSEWHERE) {
            continue;
        }
        ensure!(
            document.is_of_kind(definition, version, kind),
            "kinds: {definition} is not {version} {kind} in the document"
        );
        pending.push(definition);
    }
    let mut definitions: BTreeMap<&str, Value> = BTreeMap::new();
    while let Some(name) = pending.pop() {
        if definitions.contains_key(name) {
            continue;
        }
        let definition = document.definition(name);
        let definition = definition.with_context(|| format!("no definition of {name}"))?;
        let mut references = BTreeSet::new();
        collect_references(definition, &mut references);
        pending.extend(references);
        definitions.insert(name, converted(name, definition));
    }
    let mut text = serde_json::to_string_pretty(&definitions)?;
    text.push('\n');
    Ok(text)
}

fn collect_references<'d>(schema: &'d Value, references: &mut BTreeSet<&'d str>) {
    match schema {
        Value::Object(members) => {
            // A property may have the name `$ref`: its value is a schema.
            let target = members.get("$ref").and_then(Value::as_str);
            references.extend(target.and_then(|target| target.strip_prefix(REFERENCE)));
            for member in members.values() {
                collect_references(member, references);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                collect_references(element, references);
            }
        }
        _ => {}
    }
}

/// A definition in the form of OpenAPI 3.0, with its members sorted by name.
fn converted(name: &str, definition: &Value) -> Value {
    let mut definition = definition.clone();
    convert(&mut definition);
    if let Value::Object(members) = &mut definition {
        correct(name, members);
    }
    definition.sort_all_objects();
    definition
}

/// Changes what a single definition has otherwise: required fields, and types that OpenAPI 2.0 cannot describe.
fn correct(name: &str, members: &mut Map<String, Value>) {
    if let Some(Value::Array(required)) = members.get_mut("required") {
        required.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
    }
    if STRING_OR_NUMBER.contains(&name) {
        members.remove("type");
        members.remove("format");
        members.insert("x-kubernetes-int-or-string".to_owned(), true.into());
    }
}

/// Removes the facts of other tables from a schema and all schemas inside of it, and changes their references.
fn convert(schema: &mut Value) {
    let Value::Object(members) = schema else {
        return;
    };
    members.retain(|name, _| !OF_OTHER_TABLES.contains(&name.as_str()));
    for (name, member) in members {
        match (name.as_str(), member) {
            ("$ref", Value::String(target)) => {
                *target = target.replacen(REFERENCE, REFERENCE_3, 1);
            }
            // The names of properties are free: one may be that of an extension.
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(convert);
            }
            ("items" | "additionalProperties", schema) => convert(schema),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Document {
        let common = COMMON.map(|name| (name.to_owned(), json!({"type": "object"})));
        let mut definitions: Map<String, Value> = common.into_iter().collect();
        let boat = json!({
            "type": "object",
            "required": ["sail", "mast"],
            "properties": {
                "sail": {"$ref": "#/definitions/Sail", "x-kubernetes-map-type": "atomic"},
                "mast": {"type": "string"},
                "$ref": {"type": "string"},
                "x-kubernetes-map-type": {"type": "string"},
            },
            "x-kubernetes-group-version-kind": [{"group": "sea", "version": "v1", "kind": "Boat"}],
        });
        definitions.insert("Boat".to_owned(), boat);
        let sizes = json!({"type": "array", "items": {"$ref": format!("#/definitions/{}", STRING_OR_NUMBER[0])}});
        definitions.insert("Sail".to_owned(), json!({"properties": {"sizes": sizes}}));
        let quantity = json!({"type": "string", "description": "a size"});
        definitions.insert(STRING_OR_NUMBER[0].to_owned(), quantity);
        definitions.insert("Unused".to_owned(), json!({"type": "object"}));
        Document::of(&json!({"definitions": definitions})).unwrap()
    }

    #[test]
    fn a_kind_brings_the_definitions_of_its_types() {
        let text = text(&document(), "# head\nsea/v1\tBoat\tBoat\n").unwrap();
        let definitions: Map<String, Value> = serde_json::from_str(&text).unwrap();
        let mut expected: Vec<&str> = COMMON.into_iter().chain(["Boat", "Sail"]).collect();
        expected.push(STRING_OR_NUMBER[0]);
        expected.sort_unstable();
        assert_eq!(definitions.keys().collect::<Vec<_>>(), expected);
        assert_eq!(
            definitions["Boat"],
            json!({
                "type": "object",
                "required": ["mast", "sail"],
                "properties": {
                    "sail": {"$ref": "#/components/schemas/Sail"},
                    "mast": {"type": "string"},
                    "$ref": {"type": "string"},
                    "x-kubernetes-map-type": {"type": "string"},
                },
            })
        );
        assert_eq!(
            definitions[STRING_OR_NUMBER[0]],
            json!({"description": "a size", "x-kubernetes-int-or-string": true})
        );
    }

    #[test]
    fn a_row_that_the_document_does_not_have_is_an_error() {
        let error = |rows| text(&document(), rows).unwrap_err().to_string();
        assert_eq!(
            error("sea/v2\tBoat\tBoat\n"),
            "kinds: Boat is not sea/v2 Boat in the document"
        );
        assert_eq!(
            error("sea/v1\tBoat\n"),
            "kinds: a row has not three cells: sea/v1\tBoat"
        );
    }
}
