//! Custom resources, with and without a schema.

use json_tree::json;
use openapi_documents::Schema;
use resource_kinds::{KindInfo, Scope, Words, WriteRules};

use crate::bench::*;

const BOAT: KindInfo<'static> = KindInfo {
    group: "example.org",
    version: "v1",
    kind: "Boat",
    list_kind: "BoatList",
    plural: "boats",
    singular: "boat",
    short_names: Words::Fixed(&[]),
    categories: Words::Fixed(&[]),
    scope: Scope::Namespaced,
    verbs: &[],
    subresources: &[],
    storage: "boats",
    writes: WriteRules::ORDINARY,
};

#[test]
fn an_open_object_that_is_atomic_has_one_owner() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "x-kubernetes-map-type": "atomic",
            "x-kubernetes-preserve-unknown-fields": true}}});
    let schema: &'static Schema = Box::leak(Box::new(Schema::custom(&BOAT, &schema)));
    let boats = Bench {
        object_type: schema
            .lookup("example.org", "v1", "Boat")
            .expect("the kind"),
        api_version: "example.org/v1",
        now: T0,
    };
    let boat = |spec: json_tree::Value| {
        json!({"apiVersion": "example.org/v1", "kind": "Boat", "metadata": {"name": "b"},
            "spec": spec})
    };
    let object = boats.apply(None, "one", &boat(json!({"a": {"x": 1}})));
    assert_eq!(owner(&object, "one Apply"), json!({"f:spec": {}}));
    let refused = boats.try_apply(Some(&object), "two", &boat(json!({"b": 1})), false);
    assert_eq!(conflicts(refused)[0].1, ".spec");
}

#[test]
fn what_a_definition_leaves_open_is_owned_entry_by_entry() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "crew": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name", "deck"],
            "items": {"type": "object", "properties": {
                "name": {"type": "string"}, "deck": {"type": "integer", "default": 1},
                "role": {"type": "string"}}}},
    }});
    let schema = Schema::custom(&BOAT, &schema);
    let schema: &'static Schema = Box::leak(Box::new(schema));
    let boats = Bench {
        object_type: schema
            .lookup("example.org", "v1", "Boat")
            .expect("the kind"),
        api_version: "example.org/v1",
        now: T0,
    };
    let boat = |name: &str, more: json_tree::Value| {
        let mut boat = json!({"apiVersion": "example.org/v1", "kind": "Boat",
            "metadata": {"name": "b"}});
        boat[name] = more;
        boat
    };
    let object = boats.apply(None, "one", &boat("spec", json!({"a": {"x": 1}, "l": [1]})));
    let object = boats.apply(Some(&object), "two", &boat("spec", json!({"a": {"y": 2}})));
    assert_eq!(object["spec"], json!({"a": {"x": 1, "y": 2}, "l": [1]}));
    assert_eq!(
        owner(&object, "one Apply"),
        json!({"f:spec": {"f:a": {".": {}, "f:x": {}}, "f:l": {}}})
    );
    let longer = boat("spec", json!({"l": [1, 2]}));
    let refused = boats.try_apply(Some(&object), "two", &longer, false);
    assert_eq!(conflicts(refused)[0].1, ".spec.l");
    let object = boats.apply(Some(&object), "one", &boat("spec", json!({"l": [1]})));
    assert_eq!(object["spec"], json!({"a": {"y": 2}, "l": [1]}));

    let object = boats.apply(
        Some(&object),
        "three",
        &boat("crew", json!([{"name": "ann"}])),
    );
    let same = json!([{"name": "ann", "deck": 1, "role": "cook"}]);
    let object = boats.apply(Some(&object), "three", &boat("crew", same.clone()));
    assert_eq!(object["crew"], same);
    let wrong = boats.try_apply(None, "one", &boat("sail", json!(1)), false);
    assert_eq!(
        wrong.expect_err("refused").to_string(),
        "failed to create typed patch object (/b; example.org/v1, Kind=Boat): .sail: field not \
         declared in schema"
    );
}

#[test]
fn who_owned_entries_owns_the_list_when_it_becomes_one_value() {
    let boats = |list_type: &str| {
        let mut crew = json!({"type": "array", "x-kubernetes-list-type": list_type,
            "items": {"type": "object", "properties": {
                "name": {"type": "string"}, "role": {"type": "string"}}}});
        if list_type == "map" {
            crew["x-kubernetes-list-map-keys"] = json!(["name"]);
        }
        let schema = json!({"type": "object", "properties": {"crew": crew,
            "sail": {"type": "string"}}});
        let schema: &'static Schema = Box::leak(Box::new(Schema::custom(&BOAT, &schema)));
        Bench {
            object_type: schema
                .lookup("example.org", "v1", "Boat")
                .expect("the kind"),
            api_version: "example.org/v1",
            now: T0,
        }
    };
    let boat = |crew: json_tree::Value| {
        json!({"apiVersion": "example.org/v1", "kind": "Boat", "metadata": {"name": "b"},
            "sail": "white", "crew": crew})
    };
    let ann = json!([{"name": "ann", "role": "cook"}]);
    let object = boats("map").apply(None, "one", &boat(ann.clone()));
    let both = json!([{"name": "ann", "role": "cook"}, {"name": "bob"}]);
    let refused = boats("atomic").try_apply(Some(&object), "two", &boat(both), false);
    assert_eq!(
        conflicts(refused),
        [("\"one\"".to_owned(), ".crew".to_owned())]
    );
    let object = boats("atomic").apply(Some(&object), "two", &boat(ann));
    assert_eq!(
        owner(&object, "one Apply"),
        json!({"f:crew": {}, "f:sail": {}})
    );
}
