//! core/v1 PersistentVolume.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, Quantity, names};

use super::persistent_volume_claim::class_of;
use crate::groups::storage::{volume_move, volume_replication};
use crate::json::parts;
use crate::kind::info::{Names, STATUS, cluster};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::{claim, metadata, volume_sources};
use crate::well_known::annotations::{PV_PROTECTION, VOLUME_MOVE, VOLUME_REPLICATION};

#[derive(Debug)]
pub struct PersistentVolume;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        finalizers: &[PV_PROTECTION],
        ..WriteRules::ORDINARY
    },

    subresources: &[STATUS],
    ..cluster(Names {
        group: "",
        kind: "PersistentVolume",
        list_kind: "PersistentVolumeList",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short: &["pv"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Capacity", "Size of the volume."),
    table::column("Access Modes", "How the volume can be mounted."),
    table::column(
        "Reclaim Policy",
        "What becomes of the volume when its claim is gone.",
    ),
    table::column("Status", "Phase of the volume."),
    table::column("Claim", "The claim that has the volume."),
    table::column("StorageClass", "The class of the volume."),
    table::column(
        "VolumeAttributesClass",
        "The attributes class of the volume.",
    ),
    table::column("Reason", "Why the volume is in its phase."),
    table::AGE,
    table::wide("VolumeMode", "File system or block device."),
];

/// Fields of the spec that are not part of the volume source.
const COMMON: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

impl Kind for PersistentVolume {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        if let Some(status) = parts::entry(object, "status") {
            parts::fill(status, "phase", "Pending");
        }
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        parts::fill(spec, "persistentVolumeReclaimPolicy", "Retain");
        parts::fill(spec, "volumeMode", "Filesystem");
        volume_sources::default(spec);
    }

    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({"phase": "Pending"}));
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = validate(object);
        errors.extend(validate_move(object, &Value::Null));
        errors
    }

    fn validate_content_update(&self, object: &Value, old_object: &Value) -> Vec<FieldError> {
        let mut errors = validate(object);
        let (new, old) = (Field::of(object, "spec"), Field::of(old_object, "spec"));
        errors.extend(validate_move(object, old_object));
        // Two writes may change the location: the last step of the move of a volume, and the promotion of a replica.
        if volume_move::is_placed_by(object, old_object)
            || volume_replication::is_promoted_by(object, old_object)
        {
            errors.check_unchanged(&new.get("volumeMode"), &old.get("volumeMode"));
            return errors;
        }
        if source(&new) != source(&old) {
            let at = new.get("persistentvolumesource");
            errors.push(at.forbidden("spec.persistentvolumesource is immutable after creation"));
        }
        errors.check_unchanged(&new.get("volumeMode"), &old.get("volumeMode"));
        if old.get("nodeAffinity").is_set() {
            errors.check_unchanged(&new.get("nodeAffinity"), &old.get("nodeAffinity"));
        }
        errors
    }
}

impl Printer for PersistentVolume {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let claim = &spec["claimRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let phase = if object["metadata"]["deletionTimestamp"].is_string() {
            "Terminating".to_owned()
        } else {
            text(&status["phase"])
        };
        let claim = match claim.is_object() {
            true => format!("{}/{}", text(&claim["namespace"]), text(&claim["name"])),
            false => String::new(),
        };
        vec![
            table::name(object),
            table::text_or(&spec["capacity"]["storage"], ""),
            json!(table::access_modes(&spec["accessModes"])),
            table::text_or(&spec["persistentVolumeReclaimPolicy"], ""),
            json!(phase),
            json!(claim),
            json!(class_of(object)),
            table::text_or(&spec["volumeAttributesClassName"], "<unset>"),
            table::text_or(&status["reason"], ""),
            table::age(object, now),
            table::text_or(&spec["volumeMode"], "<unset>"),
        ]
    }
}

/// The part of the spec that describes the location of the data.
fn source(spec: &Field<'_, '_>) -> Vec<(String, Value)> {
    let map = spec.map().into_iter().flatten();
    map.filter(|(key, _)| !COMMON.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn validate_move(object: &Value, old: &Value) -> Option<FieldError> {
    let moved = volume_move::check(object, old);
    let moved = moved.map_err(|error| (VOLUME_MOVE, error.to_string()));
    let replicated = volume_replication::check(object, old);
    let replicated = replicated.map_err(|error| (VOLUME_REPLICATION, error.to_string()));
    let (value, detail) = moved.and(replicated).err()?;
    let at = metadata::path("metadata").child("annotations");
    Some(FieldError::invalid(&at, value, detail))
}

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = claim::access_modes(&spec, "");
    let capacity = spec.get("capacity");
    if capacity.is_empty() {
        errors.push(capacity.required(""));
    } else if capacity.value.get("storage").is_none() || table::count(capacity.value) > 1 {
        errors.push(capacity.not_supported(&["storage"]));
    }
    for (_, amount) in capacity.entries() {
        let quantity = Quantity::from_json(amount.value).unwrap_or_default();
        if quantity.is_zero() || quantity.is_negative() {
            errors.push(amount.invalid("must be greater than zero"));
        }
    }
    let policies = ["Delete", "Recycle", "Retain"];
    errors.check_one_of_if_set(&spec.get("persistentVolumeReclaimPolicy"), &policies);
    errors.check_one_of_if_set(&spec.get("volumeMode"), claim::VOLUME_MODES);
    errors.check_text_if_set(&spec.get("storageClassName"), names::dns_subdomain);
    errors.extend(validate_source(&spec));
    let terms = spec.get_path("nodeAffinity.required.nodeSelectorTerms");
    if spec.get("nodeAffinity").is_set() && terms.is_empty() {
        let detail = "must have at least one node selector term";
        errors.push(terms.required(detail));
    }
    errors
}

fn validate_source(spec: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let sources = source(spec);
    for (name, _) in sources.iter().skip(1) {
        errors.push(
            spec.get_path(name)
                .forbidden("may not specify more than 1 volume type"),
        );
    }
    let Some((name, _)) = sources.first() else {
        errors.push(spec.required("must specify a volume type"));
        return errors;
    };
    errors.extend(volume_sources::validate(name, &spec.get_path(name)));
    if name == "local" && !spec.get("nodeAffinity").is_set() {
        let detail = "Local volume requires node affinity";
        errors.push(FieldError::required(
            &metadata::path("metadata").child("annotations"),
            detail,
        ));
    }
    let recycles = spec.get("persistentVolumeReclaimPolicy").text() == "Recycle";
    if recycles && spec.get_path("hostPath.path").text() == "/" {
        let at = spec.get("persistentVolumeReclaimPolicy");
        errors.push(at.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::storage::volume_move::{MoveStage, VolumeMove};

    fn volume() -> Value {
        let mut object = json!({"metadata": {"name": "v"}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/data"}}});
        PersistentVolume.default(&mut object);
        object
    }

    /// `statefulset.md` 11.14
    #[test]
    fn a_volume_has_modes_capacity_and_a_source() {
        assert_eq!(PersistentVolume.validate_create(&volume()), []);
        let errors: Vec<String> = PersistentVolume
            .validate_create(&json!({"metadata": {"name": "v"}, "spec": {}}))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "spec.accessModes: Required value",
                "spec.capacity: Required value",
                "spec: Required value: must specify a volume type",
            ]
        );
    }

    #[test]
    fn the_source_stays() {
        let mut new = volume();
        new["spec"]["hostPath"]["path"] = json!("/other");
        let errors = PersistentVolume.validate_update(&new, &volume());
        assert!(
            errors[0]
                .to_string()
                .starts_with("spec.persistentvolumesource: Forbidden")
        );
        let mut bound = volume();
        bound["spec"]["claimRef"] = json!({"name": "c", "namespace": "d"});
        assert_eq!(PersistentVolume.validate_update(&bound, &volume()), []);
    }

    #[test]
    fn the_place_changes_with_the_record_of_a_move_only() {
        let on = |node: &str, path: &str, record: &VolumeMove| {
            let mut object = volume();
            object["spec"]["hostPath"].take();
            object["spec"].as_object_mut().unwrap().remove("hostPath");
            object["spec"]["local"] = json!({"path": path});
            object["spec"]["nodeAffinity"] = volume_move::affinity_to(node);
            object["metadata"]["annotations"] = json!({VOLUME_MOVE: record.to_text()});
            object
        };
        let mut record = VolumeMove::request("a1", "one", "two").in_stage(MoveStage::Arrived);
        record.path = Some("/b".to_owned());
        let arrived = on("one", "/a", &record);
        let placed = on("two", "/b", &record.in_stage(MoveStage::Placed));
        assert_eq!(PersistentVolume.validate_update(&placed, &arrived), []);
        let too_early = on("two", "/b", &record);
        assert_eq!(
            PersistentVolume.validate_update(&too_early, &arrived).len(),
            2
        );
        let skipped = on("one", "/a", &record.in_stage(MoveStage::Moved));
        let errors = PersistentVolume.validate_update(&skipped, &arrived);
        assert!(
            errors[0]
                .to_string()
                .starts_with("metadata.annotations: Invalid value"),
            "{errors:?}"
        );
    }

    /// `kubectl.md` 1.8
    #[test]
    fn a_row_shows_the_claim() {
        let mut object = volume();
        object["spec"]["claimRef"] = json!({"name": "c", "namespace": "d"});
        let row = PersistentVolume.row(&object, Timestamp::UNIX_EPOCH);
        let expected = [
            "v", "1Gi", "RWO", "Retain", "Pending", "d/c", "", "<unset>", "",
        ];
        assert_eq!(row[..9], expected.map(|text| json!(text)));
    }
}
