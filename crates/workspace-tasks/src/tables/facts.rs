//! A small file with facts of the published document: resources with their verbs, kinds, and merge facts. The
//! file is for readers; here it is compared with the document.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

const EXTENSION: &str = "x-kubernetes-";
const KINDS: &str = "x-kubernetes-group-version-kind";

/// The parts of the facts file that differ from the document; empty if the file does not exist.
pub fn differences(document: &Path, facts: &Path) -> Result<Vec<String>> {
    let read = |path: &Path| -> Result<Value> {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let value = serde_json::from_slice(&bytes);
        value.with_context(|| format!("{} is no JSON document", path.display()))
    };
    if !facts.is_file() {
        return Ok(Vec::new());
    }
    let (document, recorded) = (read(document)?, read(facts)?);
    let computed = of(&document);
    let parts = ["kinds", "merge", "resources"].into_iter();
    Ok(parts
        .flat_map(|part| {
            let (computed, recorded) = (entries(&computed[part]), entries(&recorded[part]));
            let other: Vec<String> = computed
                .symmetric_difference(&recorded)
                .map(|entry| format!("{}: {part}: {entry}", facts.display()))
                .collect();
            other
        })
        .collect())
}

/// The entries of a map of two levels, each as one text.
fn entries(value: &Value) -> BTreeSet<String> {
    let objects = value.as_object().into_iter().flatten();
    objects
        .flat_map(|(name, inner)| {
            let inner = inner.as_object().into_iter().flatten();
            inner.map(move |(key, value)| {
                let mut value = value.clone();
                value.sort_all_objects();
                format!("{name} {key} {value}")
            })
        })
        .collect()
}

fn of(document: &Value) -> Value {
    let definitions = document["definitions"].as_object();
    let (mut kinds, mut merge) = (json!({}), json!({}));
    for (name, definition) in definitions.into_iter().flatten() {
        for kind in definition[KINDS].as_array().into_iter().flatten() {
            let [group, version, kind] = words(kind);
            kinds[format!("{group}/{version}")][kind] = json!(name);
        }
        let fields = definition["properties"].as_object().into_iter().flatten();
        let fields = fields.map(|(field, schema)| (field.as_str(), schema));
        for (field, schema) in std::iter::once(("", definition)).chain(fields) {
            let facts = extensions(schema);
            if !facts.is_empty() {
                merge[name.as_str()][field] = facts.into();
            }
        }
    }
    json!({"kinds": kinds, "merge": merge, "resources": resources(document)})
}

fn words(kind: &Value) -> [&str; 3] {
    ["group", "version", "kind"].map(|word| kind[word].as_str().unwrap_or_default())
}

fn extensions(schema: &Value) -> Map<String, Value> {
    let members = schema.as_object().into_iter().flatten();
    let facts = members.filter_map(|(name, value)| {
        let short = name.strip_prefix(EXTENSION)?;
        (name != KINDS).then(|| (short.to_owned(), value.clone()))
    });
    facts.collect()
}

/// Group version → resource or sub-resource → kind, scope and verbs.
fn resources(document: &Value) -> Value {
    let mut resources = json!({});
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        let Some((group_version, resource)) = resource(path) else {
            continue;
        };
        for operation in item.as_object().into_iter().flatten().map(|(_, it)| it) {
            let (Some(action), Some(_)) = (
                operation["x-kubernetes-action"].as_str(),
                operation[KINDS].as_object(),
            ) else {
                continue;
            };
            let entry = &mut resources[group_version.as_str()][resource.as_str()];
            entry["kind"] = json!(words(&operation[KINDS]).join("/"));
            let inside = path.contains("/{namespace}/") || entry["namespaced"] == true;
            entry["namespaced"] = json!(inside);
            let recorded = entry["actions"].as_array().into_iter().flatten();
            let mut actions: BTreeSet<String> = recorded
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            actions.insert(action.to_owned());
            entry["actions"] = json!(actions);
        }
    }
    resources
}

/// The group version and the resource, with its sub-resource, of a path.
fn resource(path: &str) -> Option<(String, String)> {
    let mut words = path.split('/').filter(|word| !word.is_empty());
    let group_version = match words.next()? {
        "api" => words.next()?.to_owned(),
        "apis" => format!("{}/{}", words.next()?, words.next()?),
        _ => return None,
    };
    let mut rest: Vec<&str> = words.collect();
    if rest.first() == Some(&"watch") {
        return None;
    }
    if rest.len() > 2 && rest[..2] == ["namespaces", "{namespace}"] {
        rest.drain(..2);
    }
    match rest[..] {
        [resource] | [resource, "{name}"] => Some((group_version, resource.to_owned())),
        [resource, "{name}", part] | [resource, "{name}", part, "{path}"] => {
            Some((group_version, format!("{resource}/{part}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        let named = |path: &str| resource(path).map(|(version, name)| format!("{version} {name}"));
        let pods = "/api/v1/namespaces/{namespace}/pods";
        assert_eq!(named(pods).as_deref(), Some("v1 pods"));
        let log = format!("{pods}/{{name}}/log");
        assert_eq!(named(&log).as_deref(), Some("v1 pods/log"));
        let finalize = "/api/v1/namespaces/{name}/finalize";
        assert_eq!(named(finalize).as_deref(), Some("v1 namespaces/finalize"));
        let sets = "/apis/apps/v1/statefulsets";
        assert_eq!(named(sets).as_deref(), Some("apps/v1 statefulsets"));
        assert_eq!(named("/apis/apps/v1/watch/statefulsets"), None);
        assert_eq!(named("/version/"), None);
    }
}
