//! Properties of server-side apply that hold for every object and configuration.

use json_tree::{Map, Value, json};
use openapi_documents::{Schema, TypeRef};
use proptest::prelude::*;
use structured_merge::apply::{FieldSet, OwnableFields, Writer, apply, track};

fn pod() -> TypeRef<'static> {
    Schema::published()
        .lookup("", "v1", "Pod")
        .expect("a served kind")
}

fn writer(manager: &str) -> Writer<'_> {
    Writer {
        manager,
        api_version: "v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
    }
}

fn forced(live: Option<&Value>, manager: &str, config: &Value) -> Value {
    let reach = OwnableFields::Everything;
    apply(live, config, pod(), &writer(manager), reach, true).expect("of the form of a pod")
}

fn peaceful(live: Option<&Value>, manager: &str, config: &Value) -> Value {
    let reach = OwnableFields::Everything;
    apply(live, config, pod(), &writer(manager), reach, false).expect("no conflicts")
}

/// Containers with env and ports, labels and finalizers, whose names match this pattern.
fn pods(name: &'static str) -> impl Strategy<Value = Value> {
    let containers = prop::collection::vec(container(name), 0..3);
    let labels = prop::collection::btree_map(name, "[01]", 0..3);
    let finalizers = prop::collection::btree_set(name, 0..3);
    (containers, labels, finalizers).prop_map(|(containers, labels, finalizers)| {
        let mut metadata = json!({"name": "p"});
        if !labels.is_empty() {
            metadata["labels"] = json!(labels);
        }
        if !finalizers.is_empty() {
            metadata["finalizers"] = json!(finalizers);
        }
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
        let containers = distinct(containers, &["name"]);
        if !containers.is_empty() {
            pod["spec"] = json!({"containers": containers});
        }
        pod
    })
}

fn container(name: &'static str) -> impl Strategy<Value = Value> {
    let env = (name, "[01]").prop_map(|(name, value)| json!({"name": name, "value": value}));
    let port = (1..4i32, prop::option::of(Just("UDP")), "[01]");
    let port = port.prop_map(|(number, protocol, name)| match protocol {
        Some(protocol) => json!({"containerPort": number, "name": name, "protocol": protocol}),
        None => json!({"containerPort": number, "name": name}),
    });
    let env = prop::collection::vec(env, 0..3);
    let ports = prop::collection::vec(port, 0..3);
    (name, env, ports, prop::option::of("[01]")).prop_map(|(name, env, ports, image)| {
        let mut container = json!({"name": name});
        let lists = [
            ("env", distinct(env, &["name"])),
            ("ports", distinct(ports, &["containerPort", "protocol"])),
        ];
        for (field, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            container[field] = json!(list);
        }
        if let Some(image) = image {
            container["image"] = json!(image);
        }
        container
    })
}

/// The first element of each key.
fn distinct(list: Vec<Value>, key: &[&str]) -> Vec<Value> {
    let mut elements: Vec<Value> = Vec::new();
    for element in list {
        let same = |other: &Value| {
            key.iter()
                .all(|field| other.get(field) == element.get(field))
        };
        if !elements.iter().any(same) {
            elements.push(element);
        }
    }
    elements
}

fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("metadata"),
        Just("spec"),
        Just("managedFields"),
        Just("containers"),
        Just("name"),
        Just("env"),
        Just("ports"),
        Just("containerPort"),
        Just("annotations"),
        Just("kubectl.kubernetes.io/last-applied-configuration"),
        Just("fieldsV1"),
        Just("operation"),
        Just("f:spec"),
        Just("k:{\"name\":\"a\"}"),
        Just("k:["),
        Just("v:1"),
        Just("."),
        Just(""),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![
            Just("Apply"),
            Just("v1"),
            Just("FieldsV1"),
            Just("{\"apiVersion\":\"v1\"}")
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5).prop_map(|entries| {
                let entries = entries.into_iter();
                let map: Map<String, Value> = entries
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect();
                Value::Object(map)
            }),
        ]
    })
}

/// An object without its managed fields.
fn content(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.shift_remove("managedFields");
    }
    object
}

/// The object with sorted lists, so that only their contents are compared.
fn unordered(value: &Value) -> Value {
    match value {
        Value::Array(list) => {
            let mut list: Vec<Value> = list.iter().map(unordered).collect();
            list.sort_by_key(Value::to_string);
            Value::Array(list)
        }
        Value::Object(object) => {
            let mut fields: Vec<_> = object.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            fields
                .map(|(name, value)| (name.clone(), unordered(value)))
                .collect()
        }
        scalar => scalar.clone(),
    }
}

proptest! {
    #[test]
    fn applying_twice_changes_nothing(a in pods("[a][xy]"), b in pods("[ab][xy]"), c in pods("[ab][xy]")) {
        let live = forced(Some(&forced(None, "one", &a)), "two", &b);
        let once = forced(Some(&live), "one", &c);
        let twice = peaceful(Some(&once), "one", &c);
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn what_is_applied_is_there(a in pods("[ab][xy]"), b in pods("[ab][xy]")) {
        let live = forced(Some(&forced(None, "one", &a)), "two", &b);
        // A second merge of the configuration changes nothing.
        let again = forced(Some(&live), "three", &b);
        prop_assert_eq!(content(&again), content(&live));
    }

    #[test]
    fn alone_an_applier_gets_what_it_applies(a in pods("[ab][xy]"), b in pods("[ab][xy]")) {
        let live = forced(None, "one", &a);
        prop_assert_eq!(content(&live), content(&a));
        let changed = peaceful(Some(&live), "one", &b);
        prop_assert_eq!(unordered(&content(&changed)), unordered(&b));
    }

    #[test]
    fn disjoint_managers_never_disturb_each_other(
        a in pods("[a][xy]"), b in pods("[b][xy]"), changed in pods("[a][xy]"),
    ) {
        let live = peaceful(Some(&peaceful(None, "one", &a)), "two", &b);
        let live = peaceful(Some(&live), "one", &changed);
        let alone = peaceful(Some(&peaceful(None, "one", &changed)), "two", &b);
        prop_assert_eq!(unordered(&live), unordered(&alone));
    }

    #[test]
    fn the_order_of_disjoint_appliers_does_not_matter(a in pods("[a][xy]"), b in pods("[b][xy]")) {
        let one_way = peaceful(Some(&peaceful(None, "one", &a)), "two", &b);
        let the_other = peaceful(Some(&peaceful(None, "two", &b)), "one", &a);
        prop_assert_eq!(unordered(&one_way), unordered(&the_other));
    }

    #[test]
    fn an_updater_owns_just_what_it_changes(a in pods("[ab][xy]"), b in pods("[ab][xy]")) {
        let live = forced(None, "one", &a);
        let mut edited = b;
        edited["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
        track(Some(&live), &mut edited, pod(), &writer("editor"), OwnableFields::Everything);
        // A first apply of the present state causes no conflict, and owns all fields.
        let mine = content(&edited);
        let object = peaceful(Some(&edited), "two", &mine);
        prop_assert_eq!(content(&object), mine);
    }

    #[test]
    fn what_is_decoded_is_what_was_encoded(a in pods("[ab][xy]"), b in pods("[ab][xy]")) {
        let live = forced(Some(&forced(None, "one", &a)), "two", &b);
        for entry in live["metadata"]["managedFields"].as_array().into_iter().flatten() {
            let fields = &entry["fieldsV1"];
            let text = fields.to_string();
            let set = FieldSet::from_fields_v1(&text).expect("a set of fields");
            prop_assert_eq!(set.to_fields_v1(), text);
        }
    }

    #[test]
    fn sets_obey_the_laws_of_sets(a in pods("[ab][xy]"), b in pods("[ab][xy]")) {
        let fields = |pod: &Value| {
            let object = forced(None, "one", pod);
            object["metadata"]["managedFields"][0]["fieldsV1"].to_string()
        };
        let (a, b) = (fields(&a), fields(&b));
        let a = FieldSet::from_fields_v1(&a).unwrap_or_default();
        let b = FieldSet::from_fields_v1(&b).unwrap_or_default();
        let both = a.intersection(&b);
        prop_assert_eq!(&a.union(&b), &b.union(&a));
        prop_assert_eq!(&both, &b.intersection(&a));
        prop_assert!(both.is_subset(&a) && a.is_subset(&a.union(&b)));
        prop_assert_eq!(a.difference(&b).union(&both), a.clone());
        prop_assert!(a.difference(&b).intersection(&b).is_empty());
    }

    #[test]
    fn nothing_makes_it_panic(live in any_json(), config in any_json(), pod_like in pods("[ab][xy]")) {
        for (live, config) in [(&live, &config), (&pod_like, &config), (&live, &pod_like)] {
            for manager in ["kubectl", ""] {
                let writer = writer(manager);
                for force in [false, true] {
                    let reach = OwnableFields::AllBut(&["status"]);
                    let _outcome = apply(Some(live), config, pod(), &writer, reach, force);
                }
                let mut object = config.clone();
                track(Some(live), &mut object, pod(), &writer, OwnableFields::Everything);
                let mut object = config.clone();
                track(None, &mut object, pod(), &writer, OwnableFields::Only(&["spec"]));
            }
        }
        if let Ok(set) = FieldSet::from_fields_v1(&live.to_string()) {
            let encoded = set.to_fields_v1();
            prop_assert_eq!(FieldSet::from_fields_v1(&encoded), Ok(set.clone()));
        }
    }
}
