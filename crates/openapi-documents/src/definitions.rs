//! The published definitions with their descriptions, from the build script.

use std::io::Read;

use flate2::read::DeflateDecoder;
use json_tree::{Map, Value};

/// The prefix of references between definitions.
pub(crate) const REFERENCE_PREFIX: &str = "#/components/schemas/";

/// The definitions of all kinds and of all types inside of them. They need a few megabytes, and are dropped after
/// each use.
pub(crate) fn definitions() -> Map<String, Value> {
    const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/definitions.json.deflate"));
    let mut unpacked = Vec::new();
    DeflateDecoder::new(PACKED)
        .read_to_end(&mut unpacked)
        .expect("the build script packed it");
    serde_json::from_slice(&unpacked).expect("the build script wrote it")
}

/// The name of the definition that a schema refers to.
pub(crate) fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(REFERENCE_PREFIX)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::graph::Graph;

    const REQUIRED: &str = include_str!("../data/required.tsv");

    /// The prefix of types that are not in the published document.
    const OWN_TYPES: &str = "io.k8s.metrics.";

    /// The type of any JSON value.
    const ANY_JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";

    /// Kinds of computed objects, and kinds whose definitions are in another place.
    const ELSEWHERE: [(&str, &str); 4] = [
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ("v1", "ComponentStatus"),
        ("metrics.k8s.io/v1beta1", "NodeMetrics"),
        ("metrics.k8s.io/v1beta1", "PodMetrics"),
    ];

    /// If a kind is no longer served, it must be removed from this list. Another test checks that every served kind
    /// has a schema.
    #[test]
    fn every_schema_is_of_a_kind_that_is_served() {
        let kinds = resource_kinds::all(&resource_kinds::ClusterConfig::default());
        let stored = kinds.iter().map(|kind| {
            let info = kind.info();
            (info.api_version(), info.kind.to_owned())
        });
        let others = resource_kinds::bodies::kinds().chain(ELSEWHERE);
        let others = others.map(|(version, kind)| (version.to_owned(), kind.to_owned()));
        let supported: BTreeSet<(String, String)> = stored.chain(others).collect();
        let graph = Graph::PUBLISHED;
        let listed = graph.kinds().map(|([group, version, kind], _)| {
            let version = [group, version].join("/");
            let version = version.trim_start_matches('/');
            (version.to_owned(), kind.to_owned())
        });
        assert_eq!(listed.collect::<BTreeSet<_>>(), supported);
    }

    /// findings C16: clients with strict types depend on the required fields. A field is required only if its type
    /// contains it.
    #[test]
    fn required_fields_are_those_of_the_published_document() {
        let rows = REQUIRED.lines().filter(|line| !line.starts_with('#'));
        let published: BTreeMap<&str, Vec<&str>> = rows
            .filter_map(|row| row.split_once('\t'))
            .map(|(definition, fields)| (definition, fields.split(',').collect()))
            .collect();
        assert!(published.len() > 280);
        let definitions = definitions();
        let mut compared = 0;
        for (name, definition) in &definitions {
            let fields = definition.get("required").and_then(Value::as_array);
            let fields = fields.into_iter().flatten().filter_map(Value::as_str);
            let fields: Vec<&str> = fields.collect();
            for field in &fields {
                assert!(
                    definition["properties"].get(field).is_some(),
                    "{name} {field}"
                );
            }
            if !name.starts_with(OWN_TYPES) {
                let expected = published.get(name.as_str()).cloned().unwrap_or_default();
                assert_eq!(fields, expected, "{name}");
                compared += usize::from(!fields.is_empty());
            }
        }
        assert!(compared > 200, "{compared}");
        assert_eq!(definitions[ANY_JSON].get("type"), None);
        let event = &definitions["io.k8s.api.core.v1.Event"];
        assert_eq!(
            event["required"],
            json_tree::json!(["involvedObject", "metadata"])
        );
    }

    /// The search in the tables needs sorted rows.
    #[test]
    fn each_definition_has_its_place_in_the_graph() {
        let graph = Graph::PUBLISHED;
        for (name, definition) in definitions() {
            let node = graph.definition_named(&name).unwrap();
            assert_eq!(graph.text(node.name), name);
            let properties = definition["properties"].as_object();
            let fields = properties.into_iter().flat_map(Map::keys);
            for field in fields {
                let graph_field = graph.field(node, field).unwrap();
                assert_eq!(graph.text(graph_field.name), field);
            }
        }
        for ([group, version, kind], definition) in graph.kinds() {
            let kind_definition = graph.kind(group, version, kind).unwrap();
            assert_eq!(
                graph.text(kind_definition.name),
                graph.text(definition.name)
            );
        }
    }
}
