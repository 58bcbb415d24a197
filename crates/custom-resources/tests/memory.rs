//! The memory that definitions leave after their deletion. The memory of the whole process is measured, so this test
//! must be alone in its program.

#![expect(clippy::unwrap_used, reason = "a test")]

use custom_resources::served_versions;
use jiff::Timestamp;
use json_tree::{Value, json};
use openapi_documents::Schema;

const DEFINITIONS: usize = 4000;
/// Bytes of a text in a definition.
const TEXT_BYTES: usize = 4000;
/// A single leaked text of each definition would need twice as many bytes.
const GROWTH_MAX: usize = 8 * 1024 * 1024;

/// A definition whose texts differ from those of every other definition.
fn definition(number: usize) -> Value {
    let long = |word: &str| format!("{word}{number}{}", "x".repeat(TEXT_BYTES));
    json!({
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"plural": format!("boats{number}"), "singular": format!("boat{number}"),
                "kind": format!("Boat{number}"), "listKind": format!("Boat{number}List"),
                "shortNames": [long("short")], "categories": [long("category")]},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Crew", "type": "string",
                    "jsonPath": ".crew", "description": long("column")}],
                "selectableFields": [{"jsonPath": format!(".{}", long("field"))}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "crew": {"type": "array", "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": [long("key")],
                        "items": {"type": "object", "properties": {
                            "rank": {"type": "string", "default": long("default")}}}}}}}}],
        },
        "status": {"conditions": [{"type": "NamesAccepted", "status": "True"}]},
    })
}

/// Creates the kind of a definition, uses its texts, and drops it.
fn make_and_drop(number: usize) {
    let version = served_versions(&definition(number)).remove(0);
    let schema = Schema::custom(&version.kind.info(), &version.schema);
    let info = version.kind.info();
    let object_type = schema.lookup(info.group, info.version, info.kind).unwrap();
    let crew = object_type.field("crew").unwrap();
    let rank = crew.type_ref().element().unwrap().field("rank").unwrap();
    let texts = [
        info.short_names.to_vec()[0],
        info.categories.to_vec()[0],
        version.kind.columns()[1].description,
        version.kind.selectable().selectable_fields().to_vec()[0],
        crew.list_map_keys().next().unwrap(),
        rank.key_default().unwrap(),
    ];
    assert!(texts.iter().all(|text| text.len() > TEXT_BYTES));
    let row = version.kind.row(&json!({}), Timestamp::UNIX_EPOCH);
    assert_eq!(row.len(), 2);
}

/// Resident memory of this process, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

/// findings A5: a user who may create definitions can create and delete them repeatedly.
#[test]
fn definitions_that_are_gone_keep_nothing() {
    for number in 0..100 {
        make_and_drop(number);
    }
    let before = resident_bytes();
    for number in 100..100 + DEFINITIONS {
        make_and_drop(number);
    }
    let growth = resident_bytes().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "{growth} bytes more");
}
