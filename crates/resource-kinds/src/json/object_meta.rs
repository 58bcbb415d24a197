//! The metadata of objects whose other fields have no published type: custom resources, and embedded objects.

use json_tree::{Map, Value};

use super::api_types::{ApiTypes, Structure};
use super::decode::{self, DecodeError};

/// The published type of the metadata.
const OBJECT_META: &str = "meta/v1.ObjectMeta";
/// Lists and maps from which a single invalid element can be removed.
const COLLECTIONS: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

/// Checks metadata against the published type, and removes unknown fields.
///
/// # Errors
/// The mismatch, with the text of upstream's decoder.
pub fn decode_object_meta(metadata: &mut Value) -> Result<(), DecodeError> {
    let types = ApiTypes::published();
    let Some(structure) = types.structure(OBJECT_META) else {
        return Ok(());
    };
    decode::decode_metadata(types, structure, metadata)
}

/// The paths of the unknown fields that [`decode_object_meta`] removes, for instance `ownerReferences[0].nme`, sorted
/// by name.
pub fn unknown_object_meta_fields(metadata: &Value) -> Vec<String> {
    let types = ApiTypes::published();
    let mut paths = Vec::new();
    if let Some(structure) = types.structure(OBJECT_META) {
        unknown(types, structure, metadata, "", &mut paths);
    }
    paths.sort_unstable();
    paths
}

fn unknown(
    types: &ApiTypes,
    structure: &Structure,
    value: &Value,
    prefix: &str,
    paths: &mut Vec<String>,
) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let Some(field) = structure.named(name) else {
            cov_mark::hit!(findings_2_c34);
            paths.push(format!("{prefix}{name}"));
            continue;
        };
        let Some(structure) = types.of_value(field.value) else {
            continue;
        };
        unknown(types, structure, value, &format!("{prefix}{name}."), paths);
        for (index, element) in value.as_array().into_iter().flatten().enumerate() {
            let prefix = format!("{prefix}{name}[{index}].");
            unknown(types, structure, element, &prefix, paths);
        }
    }
}

/// Removes the parts of stored metadata that do not have their published type, as kube-apiserver does at a read; from
/// a list or a map, only the invalid elements. Returns the names of the changed fields.
///
/// An earlier version stored the metadata of custom resources without a check.
pub fn repair_object_meta(metadata: &mut Value) -> Vec<String> {
    let types = ApiTypes::published();
    let Some(structure) = types.structure(OBJECT_META) else {
        return Vec::new();
    };
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
        return vec!["metadata".to_owned()];
    }
    if decode::decode_metadata(types, structure, &mut metadata.clone()).is_ok() {
        return Vec::new();
    }
    let Some(map) = metadata.as_object_mut() else {
        return Vec::new();
    };
    let mut changed = Vec::new();
    map.retain(|name, value| {
        if fits(types, structure, name, value) {
            return true;
        }
        cov_mark::hit!(findings_2_e2);
        changed.push(name.clone());
        if !COLLECTIONS.contains(&name.as_str()) {
            return false;
        }
        match value {
            Value::Array(items) => {
                items.retain(|item| {
                    let alone = Value::Array(vec![item.clone()]);
                    fits(types, structure, name, &alone)
                });
            }
            Value::Object(entries) => {
                entries.retain(|key, entry| {
                    let alone = Map::from_iter([(key.clone(), entry.clone())]);
                    fits(types, structure, name, &Value::Object(alone))
                });
            }
            _ => {}
        }
        fits(types, structure, name, value)
    });
    changed
}

/// Whether metadata with this single field can be decoded.
fn fits(types: &ApiTypes, structure: &Structure, name: &str, value: &Value) -> bool {
    let alone = Map::from_iter([(name.to_owned(), value.clone())]);
    decode::decode_metadata(types, structure, &mut Value::Object(alone)).is_ok()
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn refusal(mut metadata: Value) -> String {
        decode_object_meta(&mut metadata).unwrap_err().to_string()
    }

    // findings-2 E2
    #[test]
    fn metadata_has_the_published_types() {
        assert_eq!(
            refusal(json!({"labels": {"a": 1}})),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type \
             string"
        );
        for wrong in [
            json!([]),
            json!("x"),
            json!({"labels": ["a"]}),
            json!({"annotations": "x"}),
            json!({"finalizers": "a/b"}),
            json!({"finalizers": [1]}),
            json!({"ownerReferences": {}}),
            json!({"ownerReferences": [{"controller": "yes"}]}),
            json!({"managedFields": "x"}),
            json!({"generation": "1"}),
            json!({"name": 1}),
        ] {
            refusal(wrong);
        }
        let mut right =
            json!({"name": "a", "labels": {"a": "b"}, "unknown": 1, "annotations": null});
        decode_object_meta(&mut right).unwrap();
        assert_eq!(right["labels"], json!({"a": "b"}));
        assert!(right.get("unknown").is_none() && right.get("annotations").is_none());
    }

    // findings-2 C34
    #[test]
    fn unknown_fields_of_metadata_are_named() {
        cov_mark::check!(findings_2_c34);
        let metadata = json!({"nme": 1, "labels": {"any": "a"}, "ownerReferences": [{"name": "a"},
            {"nme": "b"}], "managedFields": [{"fieldsV1": {"f:x": {}}, "by": "a"}], "Name": "a"});
        assert_eq!(
            unknown_object_meta_fields(&metadata),
            [
                "Name",
                "managedFields[0].by",
                "nme",
                "ownerReferences[1].nme"
            ]
        );
        assert_eq!(unknown_object_meta_fields(&json!([])), [""; 0]);
    }

    // findings-2 E2
    #[test]
    fn the_readable_part_of_stored_metadata_is_kept() {
        cov_mark::check!(findings_2_e2);
        let mut metadata = json!({"name": "a", "labels": {"a": 1, "b": "c"}, "annotations": "x",
            "finalizers": ["a/b", 7], "ownerReferences": {"uid": 1}, "generation": 3});
        let mut changed = repair_object_meta(&mut metadata);
        changed.sort();
        assert_eq!(
            changed,
            ["annotations", "finalizers", "labels", "ownerReferences"]
        );
        let expected = json!({"name": "a", "labels": {"b": "c"}, "finalizers": ["a/b"],
            "generation": 3});
        assert_eq!(metadata, expected);
        assert_eq!(repair_object_meta(&mut metadata), [""; 0]);
    }
}
