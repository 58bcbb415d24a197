//! core/v1 PersistentVolumeClaim.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, Quantity};

use crate::json::parts;
use crate::kind::info::{Names, STATUS, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::claim;
use crate::validation::field::Field;
use crate::well_known::annotations::{PVC_PROTECTION, STORAGE_CLASS};

#[derive(Debug)]
pub struct PersistentVolumeClaim;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        finalizers: &[PVC_PROTECTION],
        ..WriteRules::ORDINARY
    },

    subresources: &[STATUS],
    ..namespaced(Names {
        group: "",
        kind: "PersistentVolumeClaim",
        list_kind: "PersistentVolumeClaimList",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short: &["pvc"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Status", "Phase of the claim."),
    table::column("Volume", "The volume that the claim has."),
    table::column("Capacity", "Size of the volume."),
    table::column("Access Modes", "How the volume can be mounted."),
    table::column("StorageClass", "The class that was asked for."),
    table::column(
        "VolumeAttributesClass",
        "The attributes class that was asked for.",
    ),
    table::AGE,
    table::wide("VolumeMode", "File system or block device."),
];

const SPEC_IMMUTABLE: &str = "spec is immutable after creation except resources.requests and \
                              volumeAttributesClassName for bound claims";

impl Kind for PersistentVolumeClaim {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        claim::default(object);
        both_data_sources(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({"phase": "Pending"}));
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        claim::validate_spec(&Field::of(object, "spec"))
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        errors.extend(validate_change(object, old));
        errors
    }
}

impl Printer for PersistentVolumeClaim {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let phase = if object["metadata"]["deletionTimestamp"].is_string() {
            json!("Terminating")
        } else {
            table::text_or(&status["phase"], "")
        };
        let has_volume = spec["volumeName"]
            .as_str()
            .is_some_and(|name| !name.is_empty());
        let (capacity, modes) = if has_volume {
            let modes = table::access_modes(&status["accessModes"]);
            (table::text_or(&status["capacity"]["storage"], ""), modes)
        } else {
            (json!(""), String::new())
        };
        vec![
            table::name(object),
            phase,
            table::text_or(&spec["volumeName"], ""),
            capacity,
            json!(modes),
            json!(class_of(object)),
            table::text_or(&spec["volumeAttributesClassName"], "<unset>"),
            table::age(object, now),
            table::text_or(&spec["volumeMode"], "<unset>"),
        ]
    }
}

/// A change of attributes that was not applied yet may be withdrawn. Another change cannot be undone, because drivers
/// do not store the previous attributes.
const KEEPS_ATTRIBUTES: &str =
    "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil";

/// `dataSource` is the old name of `dataSourceRef`; a claim has both if both can express the source.
fn both_data_sources(claim: &mut Value) {
    let Some(spec) = parts::entry(claim, "spec") else {
        return;
    };
    let (source, reference) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    let in_namespace = reference["namespace"].is_null();
    if source.is_object() && reference.is_null() {
        parts::set(spec, "dataSourceRef", source);
    } else if reference.is_object() && in_namespace && source.is_null() {
        parts::set(spec, "dataSource", reference);
    }
}

/// The class of a claim or volume, from the field or from the old annotation.
pub(super) fn class_of(object: &Value) -> String {
    let beta = object["metadata"]["annotations"][STORAGE_CLASS].as_str();
    let class = beta.or_else(|| object["spec"]["storageClassName"].as_str());
    class.unwrap_or_default().to_owned()
}

fn storage_request(object: &Value) -> Quantity {
    Quantity::from_json(&object["spec"]["resources"]["requests"]["storage"]).unwrap_or_default()
}

/// `statefulset.md` 11.12: a bound claim may request more (or, after a failed expansion, less); the binder may set
/// the volume name; the class may be set once.
fn validate_change(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut comparable = object["spec"].clone();
    let allow = |comparable: &mut Value, path: &[&str]| {
        let target = path
            .iter()
            .try_fold(comparable, |value, name| value.get_mut(*name));
        let before = path
            .iter()
            .try_fold(&old["spec"], |value, name| value.get(*name));
        if let (Some(target), Some(before)) = (target, before) {
            *target = before.clone();
        }
    };
    let unbound = old["spec"]["volumeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty();
    if unbound {
        parts::remove(&mut comparable, "volumeName");
    }
    if old["spec"]["storageClassName"].is_null() && unbound {
        parts::remove(&mut comparable, "storageClassName");
    }
    let bound = old["status"]["phase"] == "Bound";
    if bound {
        allow(&mut comparable, &["resources", "requests", "storage"]);
    }
    parts::restore(&mut comparable, &old["spec"], "volumeAttributesClassName");
    let mut before = old["spec"].clone();
    if unbound {
        parts::remove(&mut before, "volumeName");
    }
    let spec = Field::of(object, "spec");
    if comparable != before {
        errors.push(spec.forbidden(SPEC_IMMUTABLE));
    }
    let attributes = spec.get("volumeAttributesClassName");
    let has = &old["status"]["currentVolumeAttributesClassName"];
    let was_named = !Field::of(old, "spec.volumeAttributesClassName").is_empty();
    if attributes.is_empty() && was_named && has.as_str().is_some_and(|name| !name.is_empty()) {
        errors.push(attributes.forbidden(KEEPS_ATTRIBUTES));
    }
    let capacity = Quantity::from_json(&old["status"]["capacity"]["storage"]).unwrap_or_default();
    let (requested, requested_before) = (storage_request(object), storage_request(old));
    if requested < requested_before && requested <= capacity {
        let path = spec.get_path("resources.requests.storage").path();
        errors.push(FieldError::forbidden(
            &path,
            "field can not be less than status.capacity",
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(size: &str) -> Value {
        let mut object = json!({"metadata": {"name": "c", "namespace": "d"},
            "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}}}});
        PersistentVolumeClaim.default(&mut object);
        object
    }

    fn bound(size: &str) -> Value {
        let mut object = claim(size);
        object["spec"]["volumeName"] = json!("v");
        object["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"]});
        object
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_claim_names_modes_and_size() {
        assert_eq!(PersistentVolumeClaim.validate_create(&claim("1Gi")), []);
        let empty = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {}});
        assert_eq!(
            texts(&PersistentVolumeClaim.validate_create(&empty)),
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ]
        );
    }

    /// findings-2 C28
    #[test]
    fn the_two_names_of_a_source_agree() {
        cov_mark::check!(findings_2_c28);
        let errors = |source: Value, reference: Value| {
            let mut object = claim("1Gi");
            object["spec"]["dataSource"] = source;
            object["spec"]["dataSourceRef"] = reference;
            PersistentVolumeClaim.default(&mut object);
            texts(&PersistentVolumeClaim.validate_create(&object))
        };
        let group = "snapshot.storage.k8s.io";
        let named = |name: &str| json!({"apiGroup": group, "kind": "VolumeSnapshot", "name": name});
        let elsewhere = |name: &str| {
            let mut reference = named(name);
            reference["namespace"] = json!("other");
            reference
        };
        assert_eq!(errors(named("a"), named("a")), [""; 0]);
        assert_eq!(errors(named("a"), Value::Null), [""; 0]);
        assert_eq!(errors(Value::Null, named("a")), [""; 0]);
        assert_eq!(errors(Value::Null, elsewhere("a")), [""; 0]);
        let differs = ["spec: Invalid value: {}: must match dataSourceRef"];
        assert_eq!(errors(named("a"), named("b")), differs);
        let of_claim = json!({"kind": "PersistentVolumeClaim", "name": "a"});
        assert_eq!(errors(named("a"), of_claim), differs);
        assert_eq!(
            errors(named("a"), elsewhere("a")),
            [
                "spec: Invalid value: {}: may not be specified when dataSourceRef.namespace is specified"
            ]
        );
    }

    /// `statefulset.md` 11.12
    #[test]
    fn a_bound_claim_may_only_grow() {
        let check =
            |new: &Value, old: &Value| texts(&PersistentVolumeClaim.validate_update(new, old));
        assert!(check(&bound("2Gi"), &bound("1Gi")).is_empty());
        assert_eq!(
            check(&bound("512Mi"), &bound("1Gi")),
            [
                "spec.resources.requests.storage: Forbidden: field can not be less than \
              status.capacity"
            ]
        );
        let refused = check(&claim("2Gi"), &claim("1Gi"));
        assert_eq!(refused, [format!("spec: Forbidden: {SPEC_IMMUTABLE}")]);
        let mut moved = bound("1Gi");
        moved["spec"]["volumeName"] = json!("w");
        assert_eq!(check(&moved, &bound("1Gi")).len(), 1);
        let mut classed = claim("1Gi");
        classed["spec"]["storageClassName"] = json!("local");
        assert!(check(&classed, &claim("1Gi")).is_empty());
        let mut changed = claim("1Gi");
        changed["spec"]["volumeName"] = json!("v");
        assert!(check(&changed, &claim("1Gi")).is_empty());
    }

    #[test]
    fn a_class_of_attributes_is_taken_back_only_before_it_was_used() {
        let with = |named: Value, current: Value| {
            let mut object = bound("1Gi");
            object["spec"]["volumeAttributesClassName"] = named;
            object["status"]["currentVolumeAttributesClassName"] = current;
            object
        };
        let check = |new: &Value, old: &Value| validate_change(new, old).len();
        let (unused, used) = (
            with(json!("gold"), Value::Null),
            with(json!("gold"), json!("gold")),
        );
        for none in [Value::Null, json!("")] {
            assert_eq!(check(&with(none.clone(), Value::Null), &unused), 0);
            assert_eq!(check(&with(none, json!("gold")), &used), 1);
        }
        assert_eq!(check(&with(json!("silver"), json!("gold")), &used), 0);
    }

    /// `kubectl.md` 1.8
    #[test]
    fn capacity_shows_once_there_is_a_volume() {
        let row = |object: &Value| PersistentVolumeClaim.row(object, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row(&claim("1Gi"))[1..5],
            ["Pending", "", "", ""].map(|text| json!(text))
        );
        assert_eq!(
            row(&bound("1Gi"))[1..5],
            ["Bound", "v", "1Gi", "RWO"].map(|text| json!(text))
        );
    }
}
