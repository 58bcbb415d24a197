//! Validation of a device that a driver offers.

use object_model::{FieldError, Quantity, Semver, names};

use super::claim_status::binding_conditions;
use super::identifiers::{EFFECTS, qualified};
use super::lists::{list, set};
use crate::validation::field::{Field, Rules};
use crate::validation::pod_template::node_selector;

const ATTRIBUTES_AND_CAPACITIES_MAX: usize = 32;
const ATTRIBUTE_BYTES_MAX: usize = 64;
const TAINTS_MAX: usize = 16;
const CONSUMPTIONS_MAX: usize = 2;
const COUNTERS_MAX: usize = 32;
const OPTIONS_MAX: usize = 10;

/// Checks a device. `own_nodes` is whether each device of the slice has its own node selection.
pub(super) fn validate(device: &Field<'_, '_>, own_nodes: bool, errors: &mut Vec<FieldError>) {
    errors.check_text(&device.get("name"), names::dns_label);
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    let count = attributes.entries().count() + capacity.entries().count();
    if count > ATTRIBUTES_AND_CAPACITIES_MAX {
        let detail = format!(
            "the total number of attributes and capacities must not exceed \
             {ATTRIBUTES_AND_CAPACITIES_MAX}"
        );
        errors.push(FieldError::invalid(&device.path(), count, detail));
    }
    for (name, at) in attributes.entries() {
        qualified(name, &attributes.path(), errors);
        attribute(&at, errors);
    }
    let shared = device.get("allowMultipleAllocations").is_true();
    for (name, at) in capacity.entries() {
        qualified(name, &capacity.path(), errors);
        let policy = at.get("requestPolicy");
        if policy.is_set() && shared {
            request_policy(&policy, &at.get("value"), errors);
        } else if policy.is_set() {
            errors.push(policy.forbidden("allowMultipleAllocations must be true"));
        }
    }
    list(&device.get("taints"), TAINTS_MAX, &taint, errors);
    let by_set = |at: &Field<'_, '_>| at.get("counterSet").text().to_owned();
    let consumption = |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| {
        errors.check_required_text(&at.get("counterSet"), names::dns_label);
        counters(&at.get("counters"), errors);
    };
    set(
        &device.get("consumesCounters"),
        CONSUMPTIONS_MAX,
        &by_set,
        &consumption,
        errors,
    );
    nodes(device, own_nodes, errors);
    binding_conditions(device, errors);
}

/// Checks a set of counters that devices of a pool share.
pub(super) fn counter_set(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    errors.check_required_text(&at.get("name"), names::dns_label);
    counters(&at.get("counters"), errors);
}

fn counters(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let count = at.entries().count();
    if count == 0 {
        errors.push(at.required(""));
    } else if count > COUNTERS_MAX {
        errors.push(FieldError::too_many(&at.path(), count, COUNTERS_MAX));
    } else {
        for (name, _) in at.entries() {
            let clauses = names::dns_label(name).into_iter();
            errors.extend(clauses.map(|clause| FieldError::invalid(&at.path(), name, clause)));
        }
    }
}

fn attribute(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (text, version) = (at.get("string"), at.get("version"));
    let kinds = [at.get("bool"), at.get("int"), text, version];
    match kinds.iter().filter(|kind| kind.is_set()).count() {
        0 => errors.push(FieldError::invalid(
            &at.path(),
            "",
            "exactly one value must be specified",
        )),
        1 => {}
        _ => errors.push(at.invalid("exactly one value must be specified")),
    }
    if version.is_set() && Semver::parse(version.text()).is_none() {
        errors.push(version.invalid("must be a string compatible with semver.org spec 2.0.0"));
    }
    for value in [text, version] {
        if value.text().len() > ATTRIBUTE_BYTES_MAX {
            errors.push(FieldError::too_long(&value.path(), ATTRIBUTE_BYTES_MAX));
        }
    }
}

fn taint(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    errors.check_text(&at.get("key"), names::qualified_name);
    errors.check_text_if_set(&at.get("value"), names::label_value);
    errors.check_one_of(&at.get("effect"), EFFECTS);
}

fn nodes(device: &Field<'_, '_>, per_device: bool, errors: &mut Vec<FieldError>) {
    let fields = ["nodeName", "nodeSelector", "allNodes"].map(|field| device.get_path(field));
    let count = fields.iter().filter(|field| field.is_set()).count();
    let [name, selector, all] = fields;
    if !per_device {
        if count > 0 {
            errors.push(FieldError::invalid(
                &device.path(),
                json_tree::Value::Null,
                "`nodeName`, `nodeSelector` and `allNodes` can only be set if \
                 `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
            ));
        }
        return;
    }
    if name.is_set() {
        errors.check_text(&name, names::dns_subdomain);
    }
    if selector.is_set() {
        node_selector(&selector, errors);
    }
    if all.is_set() && !all.is_true() {
        errors.push(all.invalid("must be either unset or set to true"));
    }
    let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                  `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match count {
        0 => errors.push(device.required(detail)),
        1 => {}
        _ => errors.push(FieldError::invalid(
            &device.path(),
            json_tree::Value::Null,
            detail,
        )),
    }
}

fn amount(at: &Field<'_, '_>) -> Option<Quantity> {
    Quantity::from_json(at.value).ok()
}

/// Checks the amounts of a shared device that a claim may request.
fn request_policy(policy: &Field<'_, '_>, capacity: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (values, range) = (policy.get("validValues"), policy.get("validRange"));
    let default = policy.get("default");
    let missing = |which: &str| default.required(&format!("required when {which} is defined"));
    match (!values.is_empty(), range.is_set()) {
        (true, true) => errors.push(policy.forbidden(
            "exactly one policy can be specified, cannot specify \"validValues\" and \
             \"validRange\" at the same time",
        )),
        (true, false) if !default.is_set() => errors.push(missing("validValues")),
        (false, true) if !default.is_set() => errors.push(missing("validRange")),
        (true, false) => options(&values, &default, capacity, errors),
        (false, true) => range_of(&range, &default, capacity, errors),
        (false, false) => {}
    }
}

fn options(
    values: &Field<'_, '_>,
    default: &Field<'_, '_>,
    most: &Field<'_, '_>,
    errors: &mut Vec<FieldError>,
) {
    let amounts: Vec<Option<Quantity>> = values.items().map(|at| amount(&at)).collect();
    for (index, at) in values.items().enumerate().skip(1) {
        if amounts[index - 1] > amounts[index] {
            errors.push(at.invalid("values must be sorted in ascending order"));
        }
    }
    let check = |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| {
        if amount(at) > amount(most) {
            let detail = format!("option is larger than capacity value: {}", most.text());
            errors.push(at.invalid(detail));
        }
    };
    let key = |at: &Field<'_, '_>| at.text().to_owned();
    set(values, OPTIONS_MAX, &key, &check, errors);
    if !amounts.contains(&amount(default)) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(&values.path(), default.text(), detail));
    }
}

fn range_of(
    range: &Field<'_, '_>,
    default: &Field<'_, '_>,
    most: &Field<'_, '_>,
    errors: &mut Vec<FieldError>,
) {
    let (least, max, step) = (range.get("min"), range.get("max"), range.get("step"));
    let default_value = range.get("default");
    let default = default_value.with(default.value);
    let Some(min) = amount(&least) else {
        errors.push(least.required("required when validRange is defined"));
        return;
    };
    let mut bound = |at: &Field<'_, '_>, over: bool, detail: String| {
        if over {
            errors.push(at.invalid(detail));
        }
    };
    let capacity = most.text();
    bound(
        &least,
        Some(min) > amount(most),
        format!("min is larger than capacity value: {capacity}"),
    );
    bound(
        &default,
        amount(&default) < Some(min),
        format!("default is less than min: {}", least.text()),
    );
    if let Some(largest) = amount(&max) {
        bound(
            &max,
            min > largest,
            format!("min is larger than max: {}", max.text()),
        );
        bound(
            &max,
            Some(largest) > amount(most),
            format!("max is larger than capacity value: {capacity}"),
        );
        bound(
            &default,
            amount(&default) > Some(largest),
            format!("default is more than max: {}", max.text()),
        );
    }
    let Some(size) = amount(&step) else { return };
    if size.is_zero() || size.is_negative() {
        errors.push(step.invalid("must be greater than zero"));
        return;
    }
    let added = min.plus(&size);
    if Some(added) > amount(most) {
        let detail = format!("one step {added} is larger than capacity value: {capacity}");
        errors.push(step.invalid(detail));
    }
    for at in [&default, &max] {
        let Some(value) = amount(at) else { continue };
        let rest = value.value().checked_sub(min.value());
        if rest.and_then(|rest| rest.checked_rem(size.value())) != Some(0) {
            let detail = format!(
                "value is not a multiple of a given step ({}) from ({})",
                step.text(),
                least.text()
            );
            errors.push(FieldError::invalid(&step.path(), at.text(), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn check(more: Value, own_nodes: bool) -> Vec<String> {
        let mut device = json!({"name": "a"});
        if let (Some(device), Some(more)) = (device.as_object_mut(), more.as_object()) {
            device.extend(more.clone());
        }
        let mut errors = Vec::new();
        validate(&Field::root(&device), own_nodes, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    /// findings C43
    #[test]
    fn attributes_have_one_value() {
        let good = json!({"attributes": {"a": {"bool": false}, "b": {"int": 0},
            "c": {"string": ""}, "d": {"version": "1.2.3-rc.1+build.01"}}});
        assert_eq!(check(good, false), [""; 0]);
        let cases = [
            (
                json!({}),
                "attributes[a]: Invalid value: \"\": exactly one value",
            ),
            (
                json!({"bool": true, "int": 1}),
                "attributes[a]: Invalid value: ",
            ),
            (
                json!({"version": "1.2"}),
                "attributes[a].version: Invalid value: \"1.2\": must be a string compatible with",
            ),
            (
                json!({"string": "x".repeat(65)}),
                "attributes[a].string: Too long: may not be more than 64 bytes",
            ),
        ];
        for (attribute, expected) in cases {
            let errors = check(json!({"attributes": {"a": attribute}}), false);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].starts_with(expected), "{errors:?}");
        }
        let many = (0..33).map(|n| (format!("a{n}"), json!({"int": n})));
        let many: json_tree::Map<String, Value> = many.collect();
        let errors = check(json!({"attributes": many}), false);
        assert!(errors[0].contains("must not exceed 32"), "{errors:?}");
    }

    /// findings C43
    #[test]
    fn where_a_device_is_it_says_or_its_slice() {
        assert_eq!(check(json!({"allNodes": true}), true), [""; 0]);
        for (more, per_device, expected) in [
            (json!({"nodeName": "n"}), false, "can only be set if"),
            (json!({}), true, "exactly one of"),
            (
                json!({"nodeName": "n", "allNodes": true}),
                true,
                "exactly one of",
            ),
            (json!({"allNodes": false}), true, "must be either unset"),
        ] {
            let errors = check(more, per_device);
            assert!(errors[0].contains(expected), "{errors:?}");
        }
    }

    /// findings C43
    #[test]
    fn taints_and_counters_are_complete() {
        let errors = check(
            json!({"taints": [{"key": "a"}, {"key": "a", "effect": "x"}],
            "consumesCounters": [{"counterSet": "s"}]}),
            false,
        );
        assert_eq!(
            errors,
            [
                "taints[0].effect: Required value",
                "taints[1].effect: Unsupported value: \"x\": supported values: \"NoExecute\", \
                 \"NoSchedule\", \"None\"",
                "consumesCounters[0].counters: Required value",
            ]
        );
    }

    /// findings C43
    #[test]
    fn a_share_fits_the_device() {
        let policy = |shared: bool, policy: Value| {
            check(
                json!({"allowMultipleAllocations": shared, "capacity": {"mem": {"value": "10",
                "requestPolicy": policy}}}),
                false,
            )
        };
        let range = json!({"default": "4", "validRange": {"min": "2", "max": "8", "step": "2"}});
        assert_eq!(policy(true, range.clone()), [""; 0]);
        let errors = policy(false, range);
        assert!(errors[0].ends_with("allowMultipleAllocations must be true"));
        for (bad, expected) in [
            (json!({"validValues": ["1"]}), "required when validValues"),
            (
                json!({"default": "1", "validValues": ["2", "1"]}),
                "sorted in ascending order",
            ),
            (
                json!({"default": "1", "validValues": ["1", "11"]}),
                "larger than capacity value: 10",
            ),
            (
                json!({"default": "3", "validValues": ["1"]}),
                "default value is not valid",
            ),
            (
                json!({"default": "3", "validRange": {"min": "2", "step": "2"}}),
                "not a multiple of a given step (2) from (2)",
            ),
            (
                json!({"default": "3", "validRange": {"min": "2", "step": "0"}}),
                "must be greater than zero",
            ),
        ] {
            let errors = policy(true, bad);
            assert!(errors[0].contains(expected), "{errors:?}");
        }
    }
}
