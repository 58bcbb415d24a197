//! resource.k8s.io/v1 ResourceSlice.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use super::GROUP;
use super::device;
use super::identifiers::{driver, pool};
use super::lists::{by_name, set};
use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo, Selectable, Words, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::pod_template::node_selector;

/// resource.k8s.io/v1 ResourceSlice: devices of a pool that a driver offers.
#[derive(Debug)]
pub struct ResourceSlice;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },
    ..cluster(Names {
        group: GROUP,
        kind: "ResourceSlice",
        list_kind: "ResourceSliceList",
        plural: "resourceslices",
        singular: "resourceslice",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Node", "The node that has the devices."),
    table::column("Driver", "The driver that offers the devices."),
    table::column("Pool", "The pool that the devices are of."),
    table::AGE,
];

/// Maximum number of devices of a slice, and of a slice whose devices have taints or shared counters.
const DEVICES_MAX: usize = 128;
const ADVANCED_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;

impl Kind for ResourceSlice {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut slice = self.info().decode(object)?;
        // As upstream, fields of features that are disabled in this version are removed.
        if let Some(spec) = slice.get_mut("spec") {
            for device in parts::each(spec, "devices") {
                parts::remove(device, "nodeAllocatableResourceMappings");
                let attributes = device.get_mut("attributes").and_then(Value::as_object_mut);
                for attribute in attributes.into_iter().flat_map(|map| map.values_mut()) {
                    for field in ["bools", "ints", "strings", "versions"] {
                        parts::remove(attribute, field);
                    }
                }
            }
        }
        Ok(slice)
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object, None)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        validate(object, Some(old))
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        let driver = object["spec"]["driver"].as_str().unwrap_or_default();
        if driver == driver.to_lowercase() {
            return Vec::new();
        }
        vec![format!(
            "spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters"
        )]
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }
}

impl Printer for ResourceSlice {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        vec![
            table::name(object),
            table::text_or(&spec["nodeName"], "<unset>"),
            table::text_or(&spec["driver"], ""),
            table::text_or(&spec["pool"]["name"], ""),
            table::age(object, now),
        ]
    }
}

impl Selectable for ResourceSlice {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let name = field.strip_prefix("spec.")?;
        let is_supported = ["driver", "nodeName"].contains(&name);
        let text = object["spec"][name].as_str();
        is_supported.then(|| text.unwrap_or_default().to_owned())
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&["spec.driver", "spec.nodeName"])
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = Vec::new();
    driver(&spec.get("driver"), &mut errors);
    pool(&spec.get_path("pool.name"), &mut errors);
    let (count, generation) = (
        spec.get_path("pool.resourceSliceCount"),
        spec.get_path("pool.generation"),
    );
    if count.int().unwrap_or_default() <= 0 {
        let number = count.int().unwrap_or_default();
        let detail = "must be greater than zero";
        errors.push(FieldError::invalid(&count.path(), number, detail));
    }
    if generation.int().is_some_and(|number| number < 0) {
        errors.push(generation.invalid("must be greater than or equal to zero"));
    }
    if let Some(old) = old {
        let before = Field::of(old, "spec");
        for field in ["pool.name", "driver", "nodeName"] {
            errors.check_unchanged(&spec.get_path(field), &before.get_path(field));
        }
    }
    nodes(&spec, &mut errors);
    let (devices, counters) = (spec.get("devices"), spec.get("sharedCounters"));
    if devices.is_set() && counters.is_set() {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(FieldError::invalid(&spec.path(), "", detail));
    }
    let advanced = devices.items().any(|device| {
        !device.get("taints").is_empty() || !device.get("consumesCounters").is_empty()
    });
    let most = if advanced {
        ADVANCED_DEVICES_MAX
    } else {
        DEVICES_MAX
    };
    let each = spec.get("perDeviceNodeSelection").is_true();
    let check =
        |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| device::validate(at, each, errors);
    set(&devices, most, &by_name, &check, &mut errors);
    set(
        &counters,
        COUNTER_SETS_MAX,
        &by_name,
        &device::counter_set,
        &mut errors,
    );
    errors
}

/// Checks the fields that select the nodes of the devices.
fn nodes(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let mut present = Vec::new();
    let (name, selector) = (spec.get("nodeName"), spec.get("nodeSelector"));
    if name.is_set() {
        present.push("`nodeName`");
        errors.check_text(&name, names::dns_subdomain);
    }
    if selector.is_set() {
        present.push("`nodeSelector`");
        node_selector(&selector, errors);
        let terms = selector.get("nodeSelectorTerms");
        if terms.len() != 1 {
            errors.push(terms.invalid("must have exactly one node selector term"));
        }
    }
    for (field, label) in [
        ("allNodes", "`allNodes`"),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`"),
    ] {
        let at = spec.get_path(field);
        if at.is_true() {
            present.push(label);
        } else if at.is_set() {
            errors.push(at.invalid("must be either unset or set to true"));
        }
    }
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, \
                       `perDeviceNodeSelection` is required";
    match present.as_slice() {
        [] => errors.push(spec.required(ONE)),
        [_] => {}
        several => {
            let value = json!(format!("{{{}}}", several.join(", ")));
            let detail = format!("{ONE}, but multiple fields are set");
            errors.push(FieldError::invalid(&spec.path(), value, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(more: Value) -> Value {
        let mut slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.example.com",
            "nodeName": "n1", "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0", "attributes": {"model": {"string": "x"}}}]}});
        if let (Some(spec), Some(more)) = (slice["spec"].as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        slice
    }

    fn check(more: Value) -> Vec<String> {
        let errors = ResourceSlice.validate_create(&slice(more));
        errors.iter().map(ToString::to_string).collect()
    }

    /// findings C43
    #[test]
    fn a_slice_says_where_its_devices_are() {
        assert_eq!(check(json!({})), [""; 0]);
        assert_eq!(check(json!({"nodeName": null, "allNodes": true})), [""; 0]);
        let cases = [
            (
                json!({"nodeName": null}),
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, \
                 `perDeviceNodeSelection` is required",
            ),
            (
                json!({"allNodes": true}),
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, \
                 `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple \
                 fields are set",
            ),
            (
                json!({"allNodes": false}),
                "spec.allNodes: Invalid value: false: must be either unset or set to true",
            ),
            (
                json!({"pool": {"name": "p"}}),
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
            ),
            (
                json!({"devices": [{"name": "a"}, {"name": "a"}]}),
                "spec.devices[1]: Duplicate value: \"a\"",
            ),
            (
                json!({"sharedCounters": []}),
                "spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed",
            ),
        ];
        for (more, expected) in cases {
            assert_eq!(check(more), [expected]);
        }
    }

    /// findings C43
    #[test]
    fn a_slice_has_so_many_devices() {
        let devices = |count: usize, more: Value| {
            let names = (0..count).map(|n| json!({"name": format!("d{n}"), "taints": more}));
            json!({"devices": names.collect::<Vec<_>>()})
        };
        assert_eq!(check(devices(128, json!([]))), [""; 0]);
        assert_eq!(
            check(devices(129, json!([]))),
            ["spec.devices: Too many: 129: must have at most 128 items"]
        );
        let taint = json!([{"key": "a", "effect": "NoSchedule"}]);
        assert_eq!(
            check(devices(65, taint)),
            ["spec.devices: Too many: 65: must have at most 64 items"]
        );
    }

    /// findings C43
    #[test]
    fn driver_pool_and_node_stay() {
        let old = slice(json!({}));
        let new = slice(json!({"driver": "other", "nodeName": "n2",
            "pool": {"name": "q", "resourceSliceCount": 1}}));
        let errors = ResourceSlice.validate_update(&new, &old);
        let immutable = errors
            .iter()
            .filter(|error| error.detail == "field is immutable");
        assert_eq!(immutable.count(), 3, "{errors:?}");
        assert!(ResourceSlice.warnings(&slice(json!({"driver": "D"})), None)[0].contains("\"D\""));
    }

    /// findings C42
    #[test]
    fn slices_are_selected_by_node_and_driver() {
        let slice = slice(json!({}));
        let field = |name| ResourceSlice.selectable_field(&slice, name);
        assert_eq!(field("spec.nodeName").as_deref(), Some("n1"));
        assert_eq!(field("spec.driver").as_deref(), Some("d.example.com"));
        assert_eq!(field("spec.pool"), None);
    }
}
