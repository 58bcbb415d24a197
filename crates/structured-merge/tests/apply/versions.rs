//! Managers of other versions (kubectl.md 0.7): HorizontalPodAutoscalers, whose versions have different names for one
//! field.

use json_tree::{Value, json};
use openapi_documents::{Schema, TypeRef};
use resource_kinds::Kind;
use resource_kinds::autoscaling::{HorizontalPodAutoscaler, HorizontalPodAutoscalerV1};
use structured_merge::apply::{ApplyError, ObjectType, OwnableFields, Versions, apply, track};

use crate::bench::{T0, conflicts, owner, owners, writer};

/// The versions 1 and 2.
struct Scalers;

fn kind(api_version: &str) -> Option<&'static dyn Kind> {
    match api_version {
        "autoscaling/v1" => Some(&HorizontalPodAutoscalerV1),
        "autoscaling/v2" => Some(&HorizontalPodAutoscaler),
        _ => None,
    }
}

fn type_in(api_version: &str) -> Option<TypeRef<'static>> {
    let version = api_version.strip_prefix("autoscaling/")?;
    Schema::published().lookup("autoscaling", version, "HorizontalPodAutoscaler")
}

impl Versions for Scalers {
    fn type_in(&self, api_version: &str) -> Option<TypeRef<'_>> {
        type_in(api_version)
    }

    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        kind(api_version)?.decode(object.clone()).ok()
    }
}

/// Applies a configuration in one version to an object in another.
fn applied(
    live: Option<&Value>,
    manager: &str,
    config: &Value,
    force: bool,
) -> Result<Value, ApplyError> {
    let version = config["apiVersion"].as_str().expect("a version");
    let live = live.map(|live| Scalers.convert(live, version).expect("a scaler"));
    let object_type = ObjectType::with_others(type_in(version).expect("a type"), &Scalers);
    let (writer, reach) = (
        writer(manager, version, T0),
        OwnableFields::AllBut(&["status"]),
    );
    apply(live.as_ref(), config, object_type, &writer, reach, force)
}

fn first(percent: Value) -> Value {
    json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a"},
        "spec": {"maxReplicas": 9, "targetCPUUtilizationPercentage": percent,
            "scaleTargetRef": {"kind": "StatefulSet", "name": "web"}}})
}

fn second(percent: u32) -> Value {
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a"},
        "spec": {"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target":
            {"type": "Utilization", "averageUtilization": percent}}}]}})
}

#[test]
fn a_conflict_is_found_in_the_words_of_the_owner() {
    let object = applied(None, "one", &first(json!(50)), false).expect("a new one");
    // An equal value in the other version.
    let object = applied(Some(&object), "two", &second(50), false).expect("no conflict");
    let refused = applied(Some(&object), "two", &second(80), false);
    assert_eq!(
        conflicts(refused),
        [(
            "\"one\"".to_owned(),
            ".spec.targetCPUUtilizationPercentage".to_owned()
        )]
    );
    let object = applied(Some(&object), "two", &second(80), true).expect("by force");
    let left = owner(&object, "one Apply");
    assert_eq!(left["f:spec"].get("f:targetCPUUtilizationPercentage"), None);
    assert_eq!(left["f:spec"]["f:maxReplicas"], json!({}));
}

#[test]
fn what_was_applied_in_another_version_goes_when_it_is_no_longer() {
    let object = applied(None, "one", &first(json!(50)), false).expect("a new one");
    let mut without = second(50);
    without["spec"] = json!({"maxReplicas": 9,
        "scaleTargetRef": {"kind": "StatefulSet", "name": "web"}});
    let object = applied(Some(&object), "one", &without, false).expect("the same manager");
    assert_eq!(object["spec"], without["spec"]);
    assert_eq!(owners(&object).len(), 1);
    assert_eq!(
        object["metadata"]["managedFields"][0]["apiVersion"],
        "autoscaling/v2"
    );
}

#[test]
fn what_others_own_in_another_version_stays() {
    let object = applied(None, "one", &second(50), false).expect("a new one");
    let object = applied(Some(&object), "two", &first(json!(50)), false).expect("the same");
    let mut less = second(50);
    less["spec"] = json!({"minReplicas": 1});
    let object = applied(Some(&object), "one", &less, false).expect("no conflict");
    assert_eq!(object["spec"]["metrics"], second(50)["spec"]["metrics"]);
    let object = applied(Some(&object), "two", &first(Value::Null), false).expect("less");
    assert_eq!(
        object["spec"]["targetCPUUtilizationPercentage"],
        Value::Null
    );
}

#[test]
fn an_update_takes_from_those_of_other_versions_what_it_changes() {
    let object = applied(None, "one", &first(json!(50)), false).expect("a new one");
    let live = Scalers
        .convert(&object, "autoscaling/v2")
        .expect("a scaler");
    let mut changed = live.clone();
    changed["spec"]["metrics"] = second(70)["spec"]["metrics"].clone();
    let hpa_type = type_in("autoscaling/v2").expect("a type");
    let object_type = ObjectType::with_others(hpa_type, &Scalers);
    let editor = writer("editor", "autoscaling/v2", T0);
    track(
        Some(&live),
        &mut changed,
        object_type,
        &editor,
        OwnableFields::Everything,
    );
    let left = owner(&changed, "one Apply");
    assert_eq!(left["f:spec"].get("f:targetCPUUtilizationPercentage"), None);
    assert_eq!(left["f:spec"]["f:maxReplicas"], json!({}));
    let gained = owner(&changed, "editor Update");
    assert_eq!(gained, json!({"f:spec": {"f:metrics": {}}}));
}

#[test]
fn who_wrote_in_a_version_that_there_is_no_longer_is_forgotten() {
    let mut object = applied(None, "one", &second(50), false).expect("a new one");
    let mut former = object["metadata"]["managedFields"][0].clone();
    former["manager"] = json!("former");
    former["apiVersion"] = json!("autoscaling/v2beta1");
    let list = object["metadata"]["managedFields"].as_array_mut();
    list.expect("a list").push(former);
    let object = applied(Some(&object), "one", &second(60), false).expect("no conflict");
    let names: Vec<String> = owners(&object).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["one Apply"]);
}
