//! The rows that come from the published API document (OpenAPI 2.0).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// The prefix of references between definitions.
pub const REFERENCE: &str = "#/definitions/";

/// A field that the document requires although clients omit it: the validation of its kind decides.
const LEFT_OUT: (&str, &str) = ("io.k8s.api.events.v1.Event", "eventTime");

/// The version of a type whose objects belong to several groups.
const ANY_VERSION: &str = "*";

/// The published document.
pub struct Document {
    definitions: Map<String, Value>,
}

impl Document {
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let whole: Value = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no JSON document", path.display()))?;
        Self::of(&whole).with_context(|| format!("{} has no definitions", path.display()))
    }

    pub fn of(whole: &Value) -> Option<Self> {
        let definitions = whole.get("definitions")?.as_object()?.clone();
        Some(Self { definitions })
    }

    /// The definitions of served versions.
    fn served(&self) -> impl Iterator<Item = (&str, &Value)> {
        let all = self.definitions.iter();
        all.map(|(name, definition)| (name.as_str(), definition))
            .filter(|(name, _)| is_served(name))
    }

    /// The names of all definitions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.definitions.keys().map(String::as_str)
    }

    /// The schema of a definition.
    pub fn definition(&self, name: &str) -> Option<&Value> {
        self.definitions.get(name)
    }

    /// Whether a definition is that of a kind.
    pub fn is_of_kind(&self, definition: &str, api_version: &str, kind: &str) -> bool {
        let kinds = self.definition(definition);
        let kinds =
            kinds.and_then(|schema| schema.get("x-kubernetes-group-version-kind")?.as_array());
        self.api_version(definition).as_deref() == Some(api_version)
            && kinds.is_some_and(|kinds| kinds.iter().any(|entry| entry["kind"] == kind))
    }

    /// How lists and maps merge: definition, field (`-`: the type itself), list type, list map keys, map
    /// type, patch strategy, patch merge key.
    pub fn merge_rows(&self) -> BTreeSet<String> {
        let mut rows = BTreeSet::new();
        for (name, definition) in self.served() {
            let definition_row = std::iter::once(("-", definition));
            for (field, schema) in definition_row.chain(properties(definition)) {
                if let Some(facts) = merge_facts(schema) {
                    rows.insert(format!("{name}\t{field}\t{facts}"));
                }
            }
        }
        rows
    }

    /// The fields that objects must have: definition, names.
    pub fn required_rows(&self) -> BTreeSet<String> {
        self.served()
            .filter_map(|(name, definition)| {
                let fields = definition.get("required")?.as_array()?;
                let fields: BTreeSet<&str> = fields.iter().filter_map(Value::as_str).collect();
                let fields: Vec<&str> = fields.into_iter().collect();
                (!fields.is_empty()).then(|| format!("{name}\t{}", fields.join(",")))
            })
            .collect()
    }

    /// The fields that are keys of lists: the definition of the elements, and the field.
    pub fn list_keys(&self) -> BTreeSet<(String, String)> {
        let fields = self
            .served()
            .flat_map(|(_, definition)| properties(definition));
        fields
            .filter_map(|(_, schema)| {
                let keys = schema.get("x-kubernetes-list-map-keys")?.as_array()?;
                let element = reference(schema.get("items")?)?;
                Some((element, keys))
            })
            .flat_map(|(element, keys)| {
                let keys = keys.iter().filter_map(Value::as_str);
                keys.map(|key| (element.to_owned(), key.to_owned()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Whether every object of a definition has the field: it is required, or it is an object's metadata.
    pub fn has_always(&self, definition: &str, field: &str) -> bool {
        let required = self.definitions.get(definition);
        let required = required.and_then(|schema| schema.get("required")?.as_array());
        let mut required = required.into_iter().flatten();
        required.any(|name| name == field) && (definition, field) != LEFT_OUT
            || field == "metadata" && self.api_version(definition).is_some()
    }

    /// The `apiVersion` of a definition's objects: [`ANY_VERSION`] for a type of several groups, `None` for a
    /// type that is no object.
    pub fn api_version(&self, definition: &str) -> Option<String> {
        let definition = self.definitions.get(definition)?;
        let kinds = definition.get("x-kubernetes-group-version-kind")?;
        let [kind] = &kinds.as_array()?[..] else {
            return Some(ANY_VERSION.to_owned());
        };
        let (group, version) = (kind.get("group")?.as_str()?, kind.get("version")?.as_str()?);
        Some(match group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        })
    }

    /// The fields of a definition, without the two fields that name the kind of an object; `None` for an
    /// unknown definition.
    pub fn field_names(&self, definition: &str) -> Option<BTreeSet<&str>> {
        let is_object = self.api_version(definition).is_some();
        let definition = self.definitions.get(definition)?;
        let names = properties(definition).map(|(name, _)| name);
        let is_included = |name: &&str| !(is_object && matches!(*name, "apiVersion" | "kind"));
        Some(names.filter(is_included).collect())
    }
}

/// The beta version that the server serves (KEP-4192).
const SERVED_BETA: &str = "io.k8s.api.storagemigration.v1beta1.";

/// Whether a definition belongs to a served version: a stable one or [`SERVED_BETA`].
pub fn is_served(definition: &str) -> bool {
    let version = definition.rsplit('.').nth(1).unwrap_or_default();
    let is_stable = !version.contains("alpha") && !version.contains("beta");
    is_stable || definition.starts_with(SERVED_BETA)
}

fn properties(definition: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let fields = definition.get("properties").and_then(Value::as_object);
    fields
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.as_str(), schema))
}

fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(REFERENCE)
}

fn merge_facts(schema: &Value) -> Option<String> {
    let fact = |name: &str| schema.get(format!("x-kubernetes-{name}"));
    let text = |name: &str| fact(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let keys = fact("list-map-keys").and_then(Value::as_array);
    let keys: Vec<&str> = keys
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let row = [
        text("list-type"),
        if keys.is_empty() {
            "-".to_owned()
        } else {
            keys.join(",")
        },
        text("map-type"),
        text("patch-strategy"),
        text("patch-merge-key"),
    ];
    row.iter().any(|cell| cell != "-").then(|| row.join("\t"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Document {
        let whole = json!({"definitions": {
            "io.k8s.api.core.v1.Boat": {
                "required": ["ports", "crew"],
                "x-kubernetes-map-type": "atomic",
                "properties": {
                    "kind": {"type": "string"},
                    "crew": {"type": "array", "x-kubernetes-patch-strategy": "merge"},
                    "ports": {
                        "type": "array",
                        "items": {"$ref": "#/definitions/io.k8s.api.core.v1.Port"},
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["port", "protocol"],
                    },
                },
            },
            "io.k8s.api.core.v1beta1.Boat": {"required": ["crew"]},
            "io.k8s.api.apps.v1.Fleet": {"x-kubernetes-group-version-kind": [
                {"group": "apps", "kind": "Fleet", "version": "v1"},
            ]},
            "io.k8s.apimachinery.pkg.apis.meta.v1.Options": {"x-kubernetes-group-version-kind": [
                {"group": "", "kind": "Options", "version": "v1"},
                {"group": "apps", "kind": "Options", "version": "v1"},
            ]},
        }});
        Document::of(&whole).unwrap()
    }

    /// findings A16: rows name the definition and the field.
    #[test]
    fn rows_name_definition_and_field() {
        let merge: Vec<String> = document().merge_rows().into_iter().collect();
        assert_eq!(
            merge,
            [
                "io.k8s.api.core.v1.Boat\t-\t-\t-\tatomic\t-\t-",
                "io.k8s.api.core.v1.Boat\tcrew\t-\t-\t-\tmerge\t-",
                "io.k8s.api.core.v1.Boat\tports\tmap\tport,protocol\t-\t-\t-",
            ]
        );
        let keys: Vec<(String, String)> = document().list_keys().into_iter().collect();
        let port = |key: &str| ("io.k8s.api.core.v1.Port".to_owned(), key.to_owned());
        assert_eq!(keys, [port("port"), port("protocol")]);
    }

    /// findings C16: required fields are sorted, and of stable versions only.
    #[test]
    fn required_fields_are_sorted() {
        let required: Vec<String> = document().required_rows().into_iter().collect();
        assert_eq!(required, ["io.k8s.api.core.v1.Boat\tcrew,ports"]);
        let document = document();
        let names = document.field_names("io.k8s.api.core.v1.Boat").unwrap();
        // A port is no object, so `kind` is an ordinary field.
        assert_eq!(names, BTreeSet::from(["crew", "kind", "ports"]));
    }

    #[test]
    fn objects_have_a_version_and_always_metadata() {
        let document = document();
        let version = |definition| document.api_version(definition);
        assert_eq!(version("io.k8s.api.core.v1.Boat"), None);
        assert_eq!(
            version("io.k8s.api.apps.v1.Fleet").as_deref(),
            Some("apps/v1")
        );
        let options = "io.k8s.apimachinery.pkg.apis.meta.v1.Options";
        assert_eq!(version(options).as_deref(), Some(ANY_VERSION));
        let always = |definition, field| document.has_always(definition, field);
        assert!(always("io.k8s.api.core.v1.Boat", "crew"));
        assert!(!always("io.k8s.api.core.v1.Boat", "metadata"));
        assert!(always("io.k8s.api.apps.v1.Fleet", "metadata"));
    }
}
