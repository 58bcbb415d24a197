//! Test: the decoder here, and decoding into the typed form and back, give equal results for each field of each type,
//! with every kind of value.

use std::collections::BTreeSet;

use json_tree::{Map, Value, json};
use k8s_openapi::api::admissionregistration::v1 as admissionregistration;
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::authentication::v1 as authentication;
use k8s_openapi::api::authorization::v1 as authorization;
use k8s_openapi::api::autoscaling::v1 as autoscaling;
use k8s_openapi::api::autoscaling::v2 as autoscaling_v2;
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::certificates::v1 as certificates;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::events::v1 as events;
use k8s_openapi::api::flowcontrol::v1 as flowcontrol;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::api::node::v1 as node;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::api::rbac::v1 as rbac;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::api::scheduling::v1 as scheduling;
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::api::storagemigration::v1beta1 as storagemigration;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;

use super::round_trip;
use crate::json::api_types::{ApiTypes, Field, Shape, Structure, TypeMeta, ValueType};

/// A kind: its version, its name, and the decoder through the typed form.
type Case = (
    &'static str,
    &'static str,
    fn(Value) -> Result<Value, String>,
);

/// The kinds of these groups.
macro_rules! cases {
    ($($group:ident { $($kind:ident)* })*) => {
        vec![$($((
            <$group::$kind as k8s_openapi::Resource>::API_VERSION,
            <$group::$kind as k8s_openapi::Resource>::KIND,
            round_trip::decode::<$group::$kind> as fn(Value) -> Result<Value, String>,
        ),)*)*]
    };
}

fn cases() -> Vec<Case> {
    cases! {
        core {
            ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret
            Service ServiceAccount Binding
        }
        admissionregistration {
            MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding
            ValidatingWebhookConfiguration
        }
        apiregistration { APIService }
        apps { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        authentication { SelfSubjectReview TokenRequest TokenReview }
        authorization {
            LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview
            SubjectAccessReview
        }
        autoscaling { HorizontalPodAutoscaler Scale }
        autoscaling_v2 { HorizontalPodAutoscaler }
        batch { CronJob Job }
        certificates { CertificateSigningRequest }
        coordination { Lease }
        discovery { EndpointSlice }
        events { Event }
        flowcontrol { FlowSchema PriorityLevelConfiguration }
        networking { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
        node { RuntimeClass }
        policy { Eviction PodDisruptionBudget }
        rbac { ClusterRole ClusterRoleBinding Role RoleBinding }
        resource { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
        scheduling { PriorityClass }
        storage {
            CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment
            VolumeAttributesClass
        }
        storagemigration { StorageVersionMigration }
    }
}

#[test]
fn every_kind_is_compared() {
    // Kinds that occur in responses only.
    const ANSWERED: [&str; 2] = ["core/v1.ComponentStatus", "meta/v1.Status"];
    let types = ApiTypes::published();
    let compared: BTreeSet<&str> = cases()
        .iter()
        .filter_map(|(version, kind, _)| Some(types.of_kind(version, kind)?.name))
        .chain(ANSWERED)
        .collect();
    let of_objects = types.names().filter(|name| {
        let structure = types.structure(name).unwrap();
        matches!(structure.type_meta, TypeMeta::Version(_))
    });
    assert_eq!(of_objects.collect::<BTreeSet<_>>(), compared);
}

#[test]
fn the_walk_gives_what_the_round_trip_gives() {
    let types = ApiTypes::published();
    let (mut visited, mut forms) = (BTreeSet::new(), BTreeSet::new());
    let (mut compared, mut wrong) = (0, Vec::new());
    for (version, kind, old) in cases() {
        let root = types.of_kind(version, kind).unwrap();
        let mut samples = Samples {
            types,
            visited: &mut visited,
            forms: &mut forms,
            objects: Vec::new(),
        };
        samples.collect(root, &|value| value);
        for object in samples.objects {
            compared += 1;
            let old = old(object.clone());
            let new = super::decode(version, kind, object.clone());
            let new = new.map_err(|error| error.to_string());
            if !agree(&old, &new) && !is_taken_now(&old, &new) && wrong.len() < 40 {
                wrong.push(format!("{object}\n  old {old:?}\n  new {new:?}"));
            }
        }
    }
    assert!(compared > 20_000, "{compared}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn members_of_raw_values_keep_their_order() {
    let raw = r#""fieldsV1":{"b":{"n":null},"a":[0]}"#;
    let text = format!(r#"{{"metadata":{{"managedFields":[{{{raw}}}]}}}}"#);
    let object = serde_json::from_str(&text).unwrap();
    let decoded = super::decode("v1", "ConfigMap", object).unwrap();
    assert!(decoded.to_string().contains(raw), "{decoded}");
}

/// Whether this decoder accepts a value that the typed form refuses and Kubernetes accepts: null in a list of texts,
/// and a structure without its time.
fn is_taken_now(old: &Result<Value, String>, new: &Result<Value, String>) -> bool {
    match (old, new) {
        (Err(old), Ok(new)) => {
            old.contains("unmarshal null") && old.ends_with("of type string")
                || new.to_string().contains(super::NO_TIME)
        }
        _ => false,
    }
}

/// Whether both results have equal bytes, or equal errors. Some errors of this decoder contain more.
fn agree(old: &Result<Value, String>, new: &Result<Value, String>) -> bool {
    // Two values are equal whatever the order of their fields; their bytes are not.
    let bytes = |object: &Value| object.to_string();
    match (old, new) {
        (Ok(old), Ok(new)) => bytes(old) == bytes(new),
        (Err(old), Err(new)) => {
            // The names of types are those in Go, and the key of a map (`z`) is not part of a path.
            let names = [
                ("v1.a timestamp string", "Time"),
                ("v1.a base64-encoded string", "[]uint8"),
                ("v1.a 32-bit integer", "int32"),
                ("struct field a map.", "struct field "),
            ];
            let mut names = names.iter();
            // The typed form refuses such a structure as a whole if its time is absent.
            let timed = ["field Condition.", "field EventSeries."];
            old.replace(".z.", ".") == *new
                || names.any(|(was, is)| old.contains(was) && new.contains(is))
                || new.starts_with("parsing time")
                || timed.iter().any(|name| new.contains(name))
        }
        _ => false,
    }
}

/// The type of a field without its names. The decoding of its values depends on nothing else.
fn form(field: &Field) -> String {
    let kind = match field.value {
        ValueType::Structure(_) => "structure",
        _ => field.kind,
    };
    let Field {
        shape,
        pointer,
        omitted_when_empty,
        always,
        ..
    } = field;
    format!("{kind} {shape:?} {pointer} {omitted_when_empty} {always}")
}

/// Objects of a kind that each contain one unusual value.
struct Samples<'t> {
    types: &'t ApiTypes,
    /// The types that were visited, in this kind or in another kind.
    visited: &'t mut BTreeSet<&'static str>,
    /// The forms of fields that were visited.
    forms: &'t mut BTreeSet<Option<String>>,
    objects: Vec<Value>,
}

impl<'t> Samples<'t> {
    /// Collects objects that contain a structure of this type; `wrap` puts the structure into an object.
    fn collect(&mut self, structure: &'t Structure, wrap: &dyn Fn(Value) -> Value) {
        if !self.visited.insert(structure.name) {
            return;
        }
        self.objects.push(wrap(self.whole(structure, 3)));
        self.objects.extend(odd_values().into_iter().map(wrap));
        let whole = self.whole(structure, 1);
        let names = structure.by_name().iter().map(|field| field.json);
        for name in names.chain(["apiVersion", "kind", "unknown"]) {
            let field = structure.named(name);
            let mut values = odd_values();
            // Fields of one form use one code path, so most values are only tested with the first such field.
            if !self.forms.insert(field.map(form)) {
                values.truncate(COMMON);
            }
            values.extend(field.map(|field| self.value(field, 0)));
            if field.is_some_and(|field| field.value == ValueType::Raw) {
                // Raw JSON keeps its empty values in this decoder; the typed form removed them.
                values.retain(|value| value.is_null() || value.is_object());
            }
            let wraps: &[fn(Value) -> Value] = match field {
                Some(field) if field.shape == Shape::One => &[|value| value],
                _ => &[
                    |value| value,
                    |value| json!([value]),
                    |value| json!({"b": value, "a": value}),
                ],
            };
            for value in values {
                for wrap_value in wraps {
                    let mut map = Map::new();
                    map.insert(name.to_owned(), wrap_value(value.clone()));
                    self.objects.push(wrap(Value::Object(map)));
                }
            }
            let mut others = whole.clone();
            others[name] = Value::Null;
            self.objects.push(wrap(others.clone()));
            others.as_object_mut().unwrap().shift_remove(name);
            self.objects.push(wrap(others));
        }
        for field in structure.by_name() {
            let Some(inner) = self.types.of_value(field.value) else {
                continue;
            };
            self.collect(inner, &|value| {
                let value = match field.shape {
                    Shape::One => value,
                    Shape::List => json!([value]),
                    Shape::Map => json!({"z": value}),
                };
                wrap(json!({field.json: value}))
            });
        }
    }

    /// A structure with all its fields, in the wrong order. Below `levels` levels it contains only the fields that
    /// are always present.
    fn whole(&self, structure: &Structure, levels: u32) -> Value {
        let fields = structure.by_name().iter().rev();
        let mut map: Map<String, Value> = fields
            .filter(|field| levels > 0 || field.always)
            .map(|field| {
                (
                    field.json.to_owned(),
                    self.value(field, levels.saturating_sub(1)),
                )
            })
            .collect();
        if let TypeMeta::Version(version) = structure.type_meta {
            map.insert("kind".to_owned(), structure.short_name().into());
            map.insert("apiVersion".to_owned(), version.into());
        }
        Value::Object(map)
    }

    /// A valid value of the field.
    fn value(&self, field: &Field, levels: u32) -> Value {
        let one = match field.value {
            ValueType::String => json!("text"),
            ValueType::Bytes => json!("AAE="),
            ValueType::Int32 => json!(7),
            ValueType::Int64 => json!(1_i64 << 40),
            ValueType::Bool => json!(true),
            ValueType::Double => json!(0.5),
            ValueType::Time => json!("2024-02-03T05:06:07.5+01:00"),
            ValueType::MicroTime => json!("2024-02-03T04:05:06Z"),
            ValueType::Duration => json!("1m0s"),
            ValueType::Quantity => json!("1024Mi"),
            ValueType::Items => json!(["b", "a"]),
            ValueType::IntOrString => json!("25%"),
            // In order, because the typed form holds a tree of serde_json, which sorts its members.
            ValueType::Raw => json!({"a": [0], "b": {"n": null}}),
            ValueType::Structure(_) => {
                self.whole(self.types.of_value(field.value).unwrap(), levels)
            }
        };
        match field.shape {
            Shape::One => one,
            Shape::List => json!([one, one]),
            Shape::Map => json!({"b": one, "a": one}),
        }
    }
}

/// This many of the values are tested with every field.
const COMMON: usize = 7;

/// Values that are valid for some types and invalid for other types.
fn odd_values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(""),
        json!([]),
        json!({}),
        json!(5),
        json!(-5),
        json!(1_u64 << 31),
        json!(u64::MAX),
        json!(1.0),
        json!(1.5),
        json!("text"),
        json!("0.0005"),
        json!("AB=="),
        json!("2024-02-03T04:05:06+00:00"),
    ]
}
