//! The fields of the served kinds, from the OpenAPI documents.
//!
//! A field is written as a path: `spec.ports[].nodePort` for a field of a list's entries, `spec.selector{}` for the
//! values of a map.

use std::collections::{BTreeMap, BTreeSet};

use json_tree::Value;

const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The fields without further fields inside of them, by kind. All versions of a kind are merged.
#[derive(Default)]
pub struct Leaves {
    by_kind: BTreeMap<String, BTreeSet<String>>,
    metadata: BTreeSet<String>,
}

impl Leaves {
    /// Adds the kinds of an OpenAPI 3.0 document.
    pub fn add(&mut self, document: &Value) {
        let schemas = &document["components"]["schemas"];
        for (name, schema) in schemas.as_object().into_iter().flatten() {
            if name == METADATA {
                collect(schemas, name, "", &mut Vec::new(), &mut self.metadata);
            }
            let properties = &schema["properties"];
            let is_object = properties["metadata"]["allOf"][0]["$ref"]
                .as_str()
                .or(properties["metadata"]["$ref"].as_str())
                .is_some_and(|reference| reference.ends_with(METADATA));
            if !is_object {
                continue;
            }
            let kinds = schema["x-kubernetes-group-version-kind"].as_array();
            for kind in kinds.into_iter().flatten() {
                let kind = kind["kind"].as_str().unwrap_or_default().to_owned();
                let leaves = self.by_kind.entry(kind).or_default();
                collect(schemas, name, "", &mut Vec::new(), leaves);
            }
        }
        for leaves in self.by_kind.values_mut() {
            leaves.retain(|leaf| {
                !leaf.starts_with("metadata.") && leaf != "apiVersion" && leaf != "kind"
            });
        }
    }

    pub fn kinds(&self) -> impl Iterator<Item = &String> {
        self.by_kind.keys()
    }

    pub fn of(&self, kind: &str) -> BTreeSet<String> {
        self.by_kind.get(kind).cloned().unwrap_or_default()
    }

    pub fn metadata(&self) -> BTreeSet<String> {
        self.metadata.clone()
    }
}

/// Collects the fields of a schema. A schema that contains itself is visited once.
fn collect<'a>(
    schemas: &'a Value,
    name: &'a str,
    path: &str,
    above: &mut Vec<&'a str>,
    leaves: &mut BTreeSet<String>,
) {
    let properties = schemas[name]["properties"].as_object();
    let Some(properties) = properties.filter(|_| !above.contains(&name)) else {
        leaves.insert(path.to_owned());
        return;
    };
    above.push(name);
    for (field, schema) in properties {
        let path = match path {
            "" => field.clone(),
            _ => format!("{path}.{field}"),
        };
        let (schema, path) = if schema["type"] == "array" {
            (&schema["items"], format!("{path}[]"))
        } else if schema["additionalProperties"].is_object() {
            (&schema["additionalProperties"], format!("{path}{{}}"))
        } else {
            (schema, path)
        };
        let reference = schema["$ref"]
            .as_str()
            .or(schema["allOf"][0]["$ref"].as_str());
        match reference.and_then(|reference| reference.rsplit('/').next()) {
            Some(name) => collect(schemas, name, &path, above, leaves),
            None => {
                leaves.insert(path);
            }
        }
    }
    above.pop();
}
