//! networking.k8s.io/v1 ServiceCIDR.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use crate::json::parts;
use crate::kind::cluster::ServiceRange;
use crate::kind::info::{Names, STATUS, cluster};
use crate::kind::{Kind, KindInfo};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::advice;
use crate::validation::field::{Field, Rules};

/// The name of the range that a cluster starts with.
pub(crate) const DEFAULT_RANGE: &str = "kubernetes";

/// networking.k8s.io/v1 ServiceCIDR: a range of Services' addresses.
#[derive(Debug)]
pub struct ServiceCIDR;

const INFO: KindInfo<'static> = KindInfo {
    subresources: &[STATUS],
    ..cluster(Names {
        group: "networking.k8s.io",
        kind: "ServiceCIDR",
        list_kind: "ServiceCIDRList",
        plural: "servicecidrs",
        singular: "servicecidr",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("CIDRs", "The ranges, one of each family."),
    table::AGE,
];

impl Kind for ServiceCIDR {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        let since = object["metadata"]["creationTimestamp"].clone();
        if object["metadata"]["name"] != DEFAULT_RANGE || since.is_null() {
            return;
        }
        let ready = json!({"type": "Ready", "status": "True", "reason": "",
            "message": "Kubernetes Service CIDR is ready", "lastTransitionTime": since});
        if let Some(status) = parts::entry(object, "status") {
            parts::fill(status, "conditions", json!([ready]));
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let ranges = |object| Field::of(object, "spec.cidrs");
        errors.check_unchanged(&ranges(object), &ranges(old));
        errors
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let ranges = Field::of(object, "spec.cidrs");
        if !ranges.items().any(|range| range.text().contains(':')) {
            return Vec::new();
        }
        advice::not_acted_on(
            "IPv6 range of a ServiceCIDR",
            "Services get IPv4 addresses",
            old,
        )
    }
}

impl Printer for ServiceCIDR {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let ranges = object["spec"]["cidrs"].as_array().into_iter().flatten();
        let ranges: Vec<&str> = ranges.filter_map(Value::as_str).collect();
        vec![
            table::name(object),
            json!(ranges.join(",")),
            table::age(object, now),
        ]
    }
}

/// The ranges of a stored ServiceCIDR from which Services get addresses (KEP-1880): none while it is being deleted, or while its
/// condition `Ready` is not true. A ServiceCIDR without the condition is ready.
pub fn ready_ranges(object: &Value) -> impl Iterator<Item = ServiceRange> {
    let conditions = Field::of(object, "status.conditions");
    let mut conditions = conditions.items();
    let ready = conditions.find(|condition| condition.get("type").text() == "Ready");
    let is_ready = ready.is_none_or(|ready| ready.get("status").text() == "True");
    let is_used = is_ready && object["metadata"]["deletionTimestamp"].is_null();
    let ranges = object["spec"]["cidrs"].as_array().into_iter().flatten();
    let ranges = ranges.filter(move |_| is_used).filter_map(Value::as_str);
    ranges.filter_map(|range| range.parse().ok().map(ServiceRange::of_service_cidr))
}

/// The object for the range of Service addresses.
pub fn default_range(range: ServiceRange) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": DEFAULT_RANGE},
        "spec": {"cidrs": [range.to_string()]},
    })
}

/// Checks a range such as `10.96.0.0/16`: all bits after the prefix must be zero.
fn range_errors(text: &str) -> Vec<String> {
    let wrong = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        let address: std::net::IpAddr = address.parse().ok()?;
        let prefix: u32 = prefix.parse().ok()?;
        let (bits, width) = match address {
            std::net::IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            std::net::IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let behind = bits.checked_shl(prefix).unwrap_or(0);
        (prefix <= width).then_some(behind == 0)
    });
    match parsed {
        Some(true) => Vec::new(),
        Some(false) => vec!["must not have bits set beyond the prefix length".to_owned()],
        None => vec![wrong.to_owned()],
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let ranges = Field::of(object, "spec.cidrs");
    let mut errors = Vec::new();
    if ranges.is_empty() {
        return vec![ranges.required("at least one CIDR required")];
    }
    let v6 = |at: &Field<'_, '_>| at.text().contains(':');
    let all: Vec<Field<'_, '_>> = ranges.items().collect();
    match all.as_slice() {
        [_] => {}
        [one, other] if v6(one) != v6(other) => {}
        [_, _] => errors.push(ranges.invalid(
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
             2001:db8::/64",
        )),
        _ => return vec![ranges.invalid("may only hold up to 2 values")],
    }
    for range in &all {
        errors.check_text(range, range_errors);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(ranges: &[&str]) -> Vec<String> {
        let object = json!({"metadata": {"name": "a"}, "spec": {"cidrs": ranges}});
        let errors = ServiceCIDR.validate_create(&object);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_range_of_each_family() {
        for good in [
            &["10.0.0.0/8"][..],
            &["10.0.0.0/8", "2001:db8::/64"],
            &["::/0"],
        ] {
            assert_eq!(messages(good), [""; 0]);
        }
        for (bad, why) in [
            (&[][..], "at least one"),
            (&["10.0.0.0/8", "11.0.0.0/8"], "for each IP family"),
            (&["10.0.0.1/8"], "beyond the prefix"),
            (&["10.0.0.0/33"], "valid CIDR"),
            (&["10.0.0.0"], "valid CIDR"),
            (&["10.0.0.0/8", "::/0", "::/0"], "up to 2"),
        ] {
            assert!(
                messages(bad)[0].contains(why),
                "{bad:?}: {:?}",
                messages(bad)
            );
        }
    }

    #[test]
    fn the_own_range_is_one() {
        let mut object = default_range(ServiceRange::default());
        assert_eq!(ServiceCIDR.validate_create(&object), []);
        assert_eq!(ServiceCIDR.warnings(&object, None), [""; 0]);
        object["spec"]["cidrs"] = json!(["2001:db8::/64"]);
        assert_eq!(ServiceCIDR.warnings(&object, None).len(), 1);
    }

    #[test]
    fn a_range_is_used_while_it_is_ready() {
        let used = |object: &Value| -> Vec<String> {
            ready_ranges(object)
                .map(|range| range.to_string())
                .collect()
        };
        let mut object = json!({"metadata": {"name": "more"},
            "spec": {"cidrs": ["10.1.0.0/24", "2001:db8::/64"]}});
        assert_eq!(used(&object), ["10.1.0.0/24"]);
        let ready = |status: &str| json!({"conditions": [{"type": "Ready", "status": status}]});
        object["status"] = ready("True");
        assert_eq!(used(&object), ["10.1.0.0/24"]);
        object["status"] = ready("False");
        assert_eq!(used(&object), [""; 0]);
        object["status"] = ready("True");
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(used(&object), [""; 0]);
    }
}
