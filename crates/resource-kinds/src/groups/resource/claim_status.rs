//! Validation of a claim's status: its devices, its users, and the reports of drivers about the
//! devices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use json_tree::Value;
use object_model::{FieldError, names};

use super::claim_spec::{
    CONFIG_MAX, REQUESTS_MAX, Requests, configuration, raw, request_name, request_names, requests,
};
use super::identifiers::{driver, pool, toleration, uid};
use super::lists::{itself, list, set};
use crate::validation::conditions;
use crate::validation::field::{Field, Rules};
use crate::validation::pod_template::node_selector;

const RESERVED_MAX: usize = 256;
const BINDING_CONDITIONS_MAX: usize = 4;
const CONDITIONS_MAX: usize = 8;
const DATA_BYTES_MAX: usize = 10 * 1024;
const ADDRESSES_MAX: usize = 16;
const INTERFACE_BYTES_MAX: usize = 256;
const HARDWARE_ADDRESS_BYTES_MAX: usize = 128;
const TOLERATIONS_MAX: usize = 16;

/// The identity of a device, or of a share of a device.
fn device_key(device: &Value) -> [String; 4] {
    ["driver", "pool", "device", "shareID"]
        .map(|field| device[field].as_str().unwrap_or_default().to_owned())
}

fn results(claim: &Value) -> impl Iterator<Item = &Value> {
    let results = &claim["status"]["allocation"]["devices"]["results"];
    results.as_array().into_iter().flatten()
}

/// Removes the status of devices that the claim no longer has.
pub(super) fn forget_freed_devices(claim: &mut Value, old: &Value) {
    let here: BTreeSet<[String; 4]> = results(claim).map(device_key).collect();
    let freed: BTreeSet<[String; 4]> = results(old)
        .map(device_key)
        .filter(|device| !here.contains(device))
        .collect();
    let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) {
        devices.retain(|device| !freed.contains(&device_key(device)));
        if devices.is_empty() {
            status.shift_remove("devices");
        }
    }
}

/// The validation errors of a changed status.
pub(super) fn validate(claim: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let status = Field::of(claim, "status");
    let before = Field::of(old, "status");
    let (allocation, reserved) = (status.get("allocation"), status.get("reservedFor"));
    let by_uid = |at: &Field<'_, '_>| at.get("uid").text().to_owned();
    set(&reserved, RESERVED_MAX, &by_uid, &consumer, &mut errors);
    let allocated: BTreeSet<[String; 4]> = results(claim).map(device_key).collect();
    let key = |at: &Field<'_, '_>| device_key(at.value).join("/");
    let check_status =
        |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| device_status(at, &allocated, errors);
    set(
        &status.get("devices"),
        usize::MAX,
        &key,
        &check_status,
        &mut errors,
    );
    if !reserved.is_empty() {
        if !allocation.is_set() {
            cov_mark::hit!(findings_c44);
            errors.push(reserved.forbidden("may not be specified when `allocated` is not set"));
        } else if !claim["metadata"]["deletionTimestamp"].is_null() {
            let users = before.get("reservedFor");
            let is_existing =
                |user: &Field<'_, '_>| users.items().any(|other| other.value == user.value);
            if reserved.items().any(|user| !is_existing(&user)) {
                errors.push(reserved.forbidden(
                    "new entries may not be added while `deallocationRequested` or \
                     `deletionTimestamp` are set",
                ));
            }
        }
    }
    if allocation.is_set() {
        if before.get("allocation").is_set() {
            errors.check_unchanged(&allocation, &before.get("allocation"));
        } else {
            let names = requests(&claim["spec"]["devices"]);
            new_allocation(&allocation, &names, &mut errors);
        }
    }
    errors
}

fn consumer(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for field in ["resource", "name", "uid"] {
        let at = at.get_path(field);
        if at.is_empty() {
            errors.push(at.required(""));
        }
    }
}

fn new_allocation(allocation: &Field<'_, '_>, names: &Requests, errors: &mut Vec<FieldError>) {
    let devices = allocation.get("devices");
    let result = |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| result(at, names, errors);
    list(&devices.get("results"), REQUESTS_MAX, &result, errors);
    let config = |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| {
        errors.check_one_of(&at.get("source"), &["FromClaim", "FromClass"]);
        request_names(&at.get("requests"), names, errors);
        configuration(at, errors);
    };
    // The list contains the configuration of the class and of the claim.
    list(&devices.get("config"), 2 * CONFIG_MAX, &config, errors);
    let nodes = allocation.get("nodeSelector");
    if nodes.is_set() {
        node_selector(&nodes, errors);
    }
}

fn result(at: &Field<'_, '_>, request_set: &Requests, errors: &mut Vec<FieldError>) {
    request_name(&at.get("request"), request_set, errors);
    driver(&at.get("driver"), errors);
    pool(&at.get("pool"), errors);
    errors.check_text(&at.get("device"), names::dns_label);
    binding_conditions(at, errors);
    list(&at.get("tolerations"), TOLERATIONS_MAX, &toleration, errors);
    if at.get("shareID").is_set() {
        uid(&at.get("shareID"), errors);
    }
}

/// Checks the conditions of a device that must be true before a pod is bound.
pub(super) fn binding_conditions(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let good = at.get("bindingConditions");
    let bad = at.get("bindingFailureConditions");
    let name = |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| {
        errors.check_text(at, names::qualified_name);
    };
    for conditions in [&good, &bad] {
        set(conditions, BINDING_CONDITIONS_MAX, &itself, &name, errors);
    }
    for condition in bad.items() {
        if good.items().any(|other| other.value == condition.value) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.push(condition.invalid(detail));
        }
    }
    match (good.is_empty(), bad.is_empty()) {
        (true, false) => errors
            .push(good.invalid("bindingConditions are required to use bindingFailureConditions")),
        (false, true) => errors
            .push(bad.invalid("bindingFailureConditions are required to use bindingConditions")),
        _ => {}
    }
}

fn device_status(
    at: &Field<'_, '_>,
    allocated: &BTreeSet<[String; 4]>,
    errors: &mut Vec<FieldError>,
) {
    driver(&at.get("driver"), errors);
    pool(&at.get("pool"), errors);
    errors.check_text(&at.get("device"), names::dns_label);
    if at.get("shareID").is_set() {
        uid(&at.get("shareID"), errors);
    }
    let key = device_key(at.value);
    if !allocated.contains(&key) {
        let name = key.join("/");
        errors.push(FieldError::invalid(
            &at.path(),
            name.trim_end_matches('/'),
            "must be an allocated device in the claim",
        ));
    }
    let conditions = at.get("conditions");
    list(&conditions, CONDITIONS_MAX, &conditions::check, errors);
    if at.get("data").is_set() {
        raw(&at.get("data"), DATA_BYTES_MAX, errors);
    }
    network(&at.get("networkData"), errors);
}

fn network(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for (field, max) in [
        ("interfaceName", INTERFACE_BYTES_MAX),
        ("hardwareAddress", HARDWARE_ADDRESS_BYTES_MAX),
    ] {
        let at = at.get_path(field);
        if at.text().len() > max {
            errors.push(FieldError::too_long(&at.path(), max));
        }
    }
    let address = |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| {
        let parts = at.text().split_once('/');
        let parsed = parts.and_then(|(address, length)| {
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let length: u8 = length.parse().ok().filter(|length| *length <= most)?;
            Some(format!("{address}/{length}"))
        });
        match parsed {
            None => errors.push(at.invalid(
                "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
            )),
            Some(canonical) if canonical != at.text() => {
                errors.push(at.invalid(format!("must be in canonical form ({canonical:?})")));
            }
            Some(_) => {}
        }
    };
    set(&at.get("ips"), ADDRESSES_MAX, &itself, &address, errors);
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn claim(status: Value) -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [{"name": "r",
            "exactly": {"deviceClassName": "gpu"}}]}}, "status": status})
    }

    fn allocation() -> Value {
        json!({"devices": {"results": [{"request": "r", "driver": "d", "pool": "p",
            "device": "x"}]}})
    }

    fn check(new: Value, old: Value) -> Vec<String> {
        let errors = validate(&claim(new), &claim(old));
        errors.iter().map(ToString::to_string).collect()
    }

    /// findings C44
    #[test]
    fn an_allocation_is_for_requests_of_the_claim_and_stays() {
        let good = json!({"allocation": allocation()});
        assert_eq!(check(good.clone(), json!({})), [""; 0]);
        let mut bad = good.clone();
        bad["allocation"]["devices"]["results"][0]["request"] = json!("other");
        assert!(
            check(bad.clone(), json!({}))[0].starts_with(
                "status.allocation.devices.results[0].request: Invalid value: \"other\""
            )
        );
        assert!(check(bad, good)[0].ends_with("field is immutable"));
    }

    /// findings C44
    #[test]
    fn only_an_allocated_claim_is_reserved() {
        cov_mark::check!(findings_c44);
        let user = json!({"resource": "pods", "name": "a", "uid": "u"});
        assert_eq!(
            check(json!({"reservedFor": [user]}), json!({})),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
        let status = json!({"allocation": allocation(), "reservedFor": [user]});
        let old = json!({"allocation": allocation()});
        let mut going = claim(status.clone());
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let errors = validate(&going, &claim(old));
        assert!(errors[0].detail.starts_with("new entries may not be added"));
        assert_eq!(validate(&going, &claim(status)), []);
    }

    /// findings C44
    #[test]
    fn drivers_speak_of_devices_of_the_claim() {
        let device_report = |device: &str| {
            json!([{"driver": "d", "pool": "p", "device": device,
                "networkData": {"ips": ["10.0.0.1/24", "10.0.0.1"]}}])
        };
        let status = json!({"allocation": allocation(), "devices": device_report("y")});
        let errors = check(status, json!({}));
        assert_eq!(
            errors[0],
            "status.devices[0]: Invalid value: \"d/p/y\": must be an allocated device in the claim"
        );
        assert!(errors[1].starts_with("status.devices[0].networkData.ips[1]: Invalid value"));
        let mut freed = claim(json!({"devices": device_report("x")}));
        let old = claim(json!({"allocation": allocation(), "devices": device_report("x")}));
        forget_freed_devices(&mut freed, &old);
        assert_eq!(freed["status"], json!({}));
    }
}
