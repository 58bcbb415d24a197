//! Volumes that grow before they are full (rollouts.md D9).

use controller_planners::volume_growth::measurement::of_claim;
use controller_planners::volume_growth::{
    Full, Growth, Measurement, Resource, Usage, is_settled, plan,
};
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use object_model::ObjectKey;
use proptest::prelude::*;
use resource_kinds::stateful_set_policy::Autogrow;

const MIB: u64 = 1 << 20;
const NOW: &str = "2026-01-01T12:00:00Z";

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn rules(value: Value) -> Autogrow {
    json_tree::from_value(value).unwrap()
}

/// A bound claim whose request and volume have these sizes.
fn claim(request: &str, capacity: &str) -> PersistentVolumeClaim {
    json_tree::from_value(json!({
        "metadata": {"name": "data-db-0", "namespace": "shop", "uid": "u", "resourceVersion": "1"},
        "spec": {"volumeName": "pv", "resources": {"requests": {"storage": request}}},
        "status": {"phase": "Bound", "capacity": {"storage": capacity}},
    }))
    .unwrap()
}

fn used(mib: u64) -> Measurement {
    Measurement {
        at: time(NOW),
        used: mib * MIB,
        file_system: None,
        inodes: None,
        room: None,
    }
}

fn grown(claim: &PersistentVolumeClaim, rules: &Autogrow, measurement: &Measurement) -> String {
    match plan(claim, rules, measurement, time(NOW)) {
        Growth::Nothing => "nothing".to_owned(),
        Growth::Grow { size, full } => format!("{size}: {}", full.text()),
        Growth::AtMax { full } => format!("at max: {}", full.text()),
        Growth::NoRoom { full } => format!("no room: {}", full.text()),
    }
}

/// rollouts.md D9: from the given part on, by the given step, up to the maximum.
#[test]
fn a_volume_grows_before_it_is_full() {
    let rules = rules(json!({"max": "130Mi"}));
    let claim = claim("100Mi", "100Mi");
    assert_eq!(grown(&claim, &rules, &used(79)), "nothing");
    assert_eq!(
        grown(&claim, &rules, &used(80)),
        "120Mi: 80 % of the bytes are used"
    );
    let claim = self::claim("120Mi", "120Mi");
    assert_eq!(
        grown(&claim, &rules, &used(119)),
        "130Mi: 99 % of the bytes are used"
    );
    let claim = self::claim("130Mi", "130Mi");
    assert_eq!(
        grown(&claim, &rules, &used(129)),
        "at max: 99 % of the bytes are used"
    );
    // A volume that is larger than its claim grows from its own size.
    let larger = self::claim("50Mi", "100Mi");
    assert_eq!(
        grown(&larger, &rules, &used(90)),
        "120Mi: 90 % of the bytes are used"
    );
    let by_size = self::rules(json!({"max": "1Gi", "by": "200Mi", "atPercent": 50}));
    assert_eq!(
        grown(&larger, &by_size, &used(50)),
        "300Mi: 50 % of the bytes are used"
    );
}

/// rollouts.md D9: files that are many and small fill a volume, too.
#[test]
fn inodes_count_like_bytes() {
    let rules = rules(json!({"max": "1Gi"}));
    let with = |used, total| Measurement {
        file_system: Some(95 * MIB),
        inodes: Some(Usage { used, total }),
        ..self::used(1)
    };
    let claim = claim("100Mi", "100Mi");
    assert_eq!(grown(&claim, &rules, &with(79, 100)), "nothing");
    assert_eq!(
        grown(&claim, &rules, &with(80, 100)),
        "120Mi: 80 % of the inodes are used"
    );
    assert_eq!(grown(&claim, &rules, &with(0, 0)), "nothing");
    // The size of the file system is what is left after its own tables.
    let nearly = Measurement {
        file_system: Some(95 * MIB),
        ..used(76)
    };
    assert_eq!(
        grown(&claim, &rules, &nearly),
        "120Mi: 80 % of the bytes are used"
    );
}

/// rollouts.md D9: once per cooldown, and only with a measurement that is younger than the last growth.
#[test]
fn a_volume_grows_once_per_cooldown() {
    let rules = rules(json!({"max": "1Gi", "cooldownSeconds": 60}));
    let after = |grown_at: &str, measured_at: &str| {
        let mut claim = claim("100Mi", "100Mi");
        let annotation = ("apps.mainstay.dev/grown-at".to_owned(), grown_at.to_owned());
        claim.metadata.annotations = Some([annotation].into());
        let measurement = Measurement {
            at: time(measured_at),
            ..used(99)
        };
        grown(&claim, &rules, &measurement) != "nothing"
    };
    assert!(after("2026-01-01T11:59:00Z", NOW));
    assert!(!after("2026-01-01T11:59:01Z", NOW));
    assert!(!after("2026-01-01T11:50:00Z", "2026-01-01T11:50:00Z"));
    assert!(after("2026-01-01T11:50:00Z", "2026-01-01T11:50:01Z"));
    assert!(
        !after("2026-01-01T13:00:00Z", NOW),
        "the clock was set back"
    );
    assert!(
        !after("yesterday", NOW),
        "what cannot be read counts as now"
    );
}

/// rollouts.md D9: the disk that contains the volume has room for the growth.
#[test]
fn a_volume_grows_only_if_its_disk_has_room() {
    let rules = rules(json!({"max": "1Gi"}));
    let with = |room: u64| Measurement {
        room: Some(room * MIB),
        ..used(90)
    };
    let claim = claim("100Mi", "100Mi");
    assert_eq!(
        grown(&claim, &rules, &with(20)),
        "120Mi: 90 % of the bytes are used"
    );
    assert_eq!(
        grown(&claim, &rules, &with(19)),
        "no room: 90 % of the bytes are used"
    );
}

/// rollouts.md D9: a growth that has not ended, or has failed, is not followed by another.
#[test]
fn a_growth_ends_before_the_next() {
    let rules = rules(json!({"max": "1Gi"}));
    assert!(is_settled(&claim("100Mi", "100Mi")));
    let change = |change: &dyn Fn(&mut Value)| {
        let mut value = json_tree::to_value(claim("100Mi", "100Mi")).unwrap();
        change(&mut value);
        let claim: PersistentVolumeClaim = json_tree::from_value(value).unwrap();
        assert_eq!(grown(&claim, &rules, &used(99)), "nothing");
        is_settled(&claim)
    };
    assert!(!change(
        &|claim| claim["spec"]["resources"]["requests"]["storage"] = json!("200Mi")
    ));
    assert!(!change(&|claim| claim["status"]["phase"] = json!("Lost")));
    assert!(!change(&|claim| claim["status"] = json!({})));
    assert!(!change(
        &|claim| claim["metadata"]["deletionTimestamp"] = json!(NOW)
    ));
    let state = json!({"storage": "ControllerResizeInfeasible"});
    assert!(!change(
        &|claim| claim["status"]["allocatedResourceStatuses"] = state.clone()
    ));
}

fn summary(volume: Value, local: Value) -> Value {
    json!({"node": {"fs": {"capacityBytes": 1000}},
        "pods": [{"volume": [volume]}], "localVolumes": [local]})
}

fn volume(annotations: Value, source: Value) -> PersistentVolume {
    let mut volume =
        json!({"metadata": {"name": "pv", "annotations": annotations}, "spec": source});
    volume["spec"]["capacity"] = json!({"storage": "100Mi"});
    json_tree::from_value(volume).unwrap()
}

/// The figures are those of the volume alone: never those of a disk that it shares.
#[test]
fn figures_of_a_shared_disk_are_no_measurement() {
    let key = ObjectKey::new("shop", "data-db-0");
    let of_claim = |volume: &PersistentVolume, summary: &Value| of_claim(&key, volume, summary);
    let figures = json!({"pvcRef": {"name": "data-db-0", "namespace": "shop"}, "time": NOW,
        "usedBytes": 7, "capacityBytes": 90, "inodesUsed": 3, "inodes": 30});
    let driver = volume(
        json!({}),
        json!({"csi": {"driver": "d", "volumeHandle": "h"}}),
    );
    let measured = of_claim(&driver, &summary(figures.clone(), json!({})));
    let expected = Measurement {
        at: time(NOW),
        used: 7,
        file_system: Some(90),
        inodes: Some(Usage { used: 3, total: 30 }),
        room: None,
    };
    assert_eq!(measured, Some(expected));
    let mut of_disk = figures.clone();
    of_disk["capacityBytes"] = json!(1000);
    assert_eq!(of_claim(&driver, &summary(of_disk, json!({}))), None);
    for field in ["time", "usedBytes", "pvcRef"] {
        let mut without = figures.clone();
        without.as_object_mut().unwrap().remove(field);
        assert_eq!(
            of_claim(&driver, &summary(without, json!({}))),
            None,
            "{field}"
        );
    }
    let class = json!({"pv.kubernetes.io/provisioned-by": "mainstay.dev/local"});
    let local = volume(class, json!({"local": {"path": "/v/pv"}}));
    let in_directory = json!({"path": "/v/pv", "usedBytes": 5, "availableBytes": 400});
    let measured = of_claim(&local, &summary(figures.clone(), in_directory));
    let expected = Measurement {
        used: 5,
        file_system: None,
        inodes: None,
        room: Some(400),
        ..expected
    };
    assert_eq!(measured, Some(expected));
    assert_eq!(
        of_claim(&local, &summary(figures, json!({"path": "/v/other"}))),
        None
    );
}

proptest! {
    /// rollouts.md D9: no claim is made smaller, and none larger than the maximum.
    #[test]
    fn no_request_shrinks_or_exceeds_the_maximum(
        (request, capacity, max) in (0_u64..5000, 0_u64..5000, 0_u64..5000),
        (percent, used, room) in (1_u32..500, 0_u64..9000, proptest::option::of(0_u64..9000)),
    ) {
        let sized = |mib: u64| format!("{mib}Mi");
        let claim = claim(&sized(request), &sized(capacity));
        let rules = rules(json!({"max": sized(max), "by": format!("{percent}%")}));
        let measurement = Measurement { room: room.map(|room| room * MIB), ..self::used(used) };
        if let Growth::Grow { size, full: Full { percent, of } } =
            plan(&claim, &rules, &measurement, time(NOW))
        {
            let size = u64::try_from(size.value()).unwrap();
            prop_assert!(size > request * MIB && size > capacity * MIB && size <= max * MIB);
            prop_assert!(room.is_none_or(|room| size - capacity * MIB <= room * MIB));
            prop_assert!(percent >= 80 && of == Resource::Bytes && request <= capacity);
        }
    }
}
