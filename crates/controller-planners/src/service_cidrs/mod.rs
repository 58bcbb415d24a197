//! ServiceCIDRs: ranges of Service addresses (KEP-1880).
//!
//! **Goal**: a ServiceCIDR has its finalizer and the condition `Ready`. A deleted one goes when each address in it lies in another
//! one too, and not before ten seconds, in which every server has seen the deletion. **Relies on**: the addresses were read
//! after the deletion was seen. **Guarantees**: a range whose addresses lie in no other range stays.

use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use resource_kinds::ServiceRange;
use resource_kinds::annotations::SERVICE_CIDR_PROTECTION;

/// The time from the deletion of a range to its end, as in kube-controller-manager.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

const READY: &str = "Ready";

/// The action for a ServiceCIDR.
#[derive(Clone, Debug, PartialEq)]
pub enum RangePlan {
    /// No action.
    Leave,
    /// No action before this time has passed.
    Wait(Duration),
    /// No action while there are addresses that lie in this range alone.
    InUse,
    /// A write of the finalizers without or with that of a ServiceCIDR.
    SetFinalizers(Vec<String>),
    /// A write of the conditions.
    SetConditions(Vec<Condition>),
}

/// Whether the plan for the range depends on the addresses of Services.
pub fn needs_addresses(range: &ServiceCIDR) -> bool {
    range.metadata.deletion_timestamp.is_some() && is_protected(range)
}

/// Plans the action for a range. Total.
pub fn plan<'o>(
    range: &ServiceCIDR,
    all: impl IntoIterator<Item = &'o ServiceCIDR>,
    addresses: &[Ipv4Addr],
    now: Timestamp,
) -> RangePlan {
    let finalizers = range.metadata.finalizers.iter().flatten();
    let Some(Time(deleted)) = &range.metadata.deletion_timestamp else {
        if is_protected(range) {
            let message = "Kubernetes Service CIDR is ready";
            let conditions = conditions(range, ("True", "", message), now);
            return conditions.map_or(RangePlan::Leave, RangePlan::SetConditions);
        }
        let protection = SERVICE_CIDR_PROTECTION.to_owned();
        return RangePlan::SetFinalizers(finalizers.cloned().chain([protection]).collect());
    };
    if !is_protected(range) {
        return RangePlan::Leave;
    }
    let others = all.into_iter().filter(|other| {
        other.metadata.uid != range.metadata.uid && other.metadata.deletion_timestamp.is_none()
    });
    let others: Vec<ServiceRange> = others.flat_map(ranges).collect();
    if has_addresses_alone(range, &others, addresses) {
        let message = "There are still IPAddresses referencing the ServiceCIDR, please remove \
                       them or create a new ServiceCIDR";
        let conditions = conditions(range, ("False", "Terminating", message), now);
        return conditions.map_or(RangePlan::InUse, RangePlan::SetConditions);
    }
    match Duration::try_from(GRACE.saturating_sub(now.duration_since(*deleted))) {
        Ok(remaining) if !remaining.is_zero() => RangePlan::Wait(remaining),
        _ => {
            let remaining = finalizers.filter(|finalizer| *finalizer != SERVICE_CIDR_PROTECTION);
            RangePlan::SetFinalizers(remaining.cloned().collect())
        }
    }
}

fn is_protected(range: &ServiceCIDR) -> bool {
    let mut finalizers = range.metadata.finalizers.iter().flatten();
    finalizers.any(|finalizer| finalizer == SERVICE_CIDR_PROTECTION)
}

/// The IPv4 ranges; Services have no IPv6 addresses.
fn ranges(range: &ServiceCIDR) -> impl Iterator<Item = ServiceRange> {
    let spec = range.spec.iter();
    let ranges = spec.flat_map(|spec| spec.cidrs.iter().flatten());
    ranges.filter_map(|range| range.parse().ok().map(ServiceRange::of_service_cidr))
}

/// Whether a Service's address lies in the range and in none of the others.
fn has_addresses_alone(
    range: &ServiceCIDR,
    others: &[ServiceRange],
    addresses: &[Ipv4Addr],
) -> bool {
    let own: Vec<ServiceRange> = ranges(range).collect();
    let is_in = |ranges: &[ServiceRange], address: Ipv4Addr| {
        ranges.iter().any(|range| range.offset(address).is_some())
    };
    let mut addresses = addresses.iter().copied();
    addresses.any(|address| is_in(&own, address) && !is_in(others, address))
}

/// The conditions with `Ready` of that status, reason and message; `None` if they are so.
fn conditions(
    range: &ServiceCIDR,
    (status, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> Option<Vec<Condition>> {
    let stored = range.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = stored.cloned().unwrap_or_default();
    let before = conditions.iter().position(|c| c.type_ == READY);
    let before = before.map(|index| conditions.remove(index));
    let is_same = |c: &Condition| c.status == status && c.reason == reason && c.message == message;
    if before.as_ref().is_some_and(is_same) {
        return None;
    }
    let since = before.filter(|before| before.status == status);
    conditions.push(Condition {
        type_: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.map_or(Time(now), |before| before.last_transition_time),
        observed_generation: None,
    });
    Some(conditions)
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn range(name: &str, cidrs: &[&str]) -> Value {
        json!({"metadata": {"name": name, "uid": name, "finalizers": [SERVICE_CIDR_PROTECTION]},
            "spec": {"cidrs": cidrs}})
    }

    fn deleted(mut range: Value) -> Value {
        range["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        range
    }

    fn planned(number: usize, all: &[Value], addresses: &[&str], seconds: i64) -> RangePlan {
        let all = all.iter().cloned().map(json_tree::from_value);
        let all: Vec<ServiceCIDR> = all.collect::<Result<_, _>>().unwrap();
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        let addresses: Vec<Ipv4Addr> = addresses.collect();
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let now = start + SignedDuration::from_secs(seconds);
        plan(&all[number], &all, &addresses, now)
    }

    #[test]
    fn a_new_range_gets_its_finalizer_and_is_ready() {
        let mut new = range("a", &["10.1.0.0/24"]);
        new["metadata"]["finalizers"] = json!(["other"]);
        let finalizers = ["other".to_owned(), SERVICE_CIDR_PROTECTION.to_owned()];
        let expected = RangePlan::SetFinalizers(finalizers.to_vec());
        assert_eq!(planned(0, &[new], &[], 0), expected);
        let mut new = range("a", &["10.1.0.0/24"]);
        new["status"] = json!({"conditions": [{"type": "Mine", "status": "True", "reason": "x",
            "message": "", "lastTransitionTime": "2025-01-01T00:00:00Z"}]});
        let RangePlan::SetConditions(conditions) = planned(0, &[new.clone()], &[], 0) else {
            panic!("no conditions");
        };
        let types: Vec<&str> = conditions.iter().map(|c| &*c.type_).collect();
        assert_eq!(types, ["Mine", "Ready"]);
        new["status"]["conditions"] = json_tree::to_value(&conditions).unwrap();
        assert_eq!(planned(0, &[new], &[], 9), RangePlan::Leave);
    }

    #[test]
    fn a_deleted_range_without_addresses_goes_after_ten_seconds() {
        let gone = deleted(range("a", &["10.1.0.0/24", "2001:db8::/64"]));
        let all = [gone, range("b", &["10.2.0.0/24"])];
        // 10.1.0.255 is no address of a Service.
        let addresses = ["10.2.0.9", "10.1.0.255"];
        let wait = RangePlan::Wait(Duration::from_secs(7));
        assert_eq!(planned(0, &all, &addresses, 3), wait);
        let removal = RangePlan::SetFinalizers(Vec::new());
        assert_eq!(planned(0, &all, &addresses, 10), removal);
        let mut released = all[0].clone();
        released["metadata"]["finalizers"] = json!(["other"]);
        assert_eq!(planned(0, &[released], &[], 10), RangePlan::Leave);
    }

    #[test]
    fn a_deleted_range_with_addresses_stays() {
        let mut gone = deleted(range("a", &["10.1.0.0/24"]));
        let addresses = ["10.1.0.9"];
        let RangePlan::SetConditions(conditions) = planned(0, &[gone.clone()], &addresses, 60)
        else {
            panic!("no conditions");
        };
        assert_eq!(conditions[0].status, "False");
        assert_eq!(conditions[0].reason, "Terminating");
        gone["status"] = json!({"conditions": json_tree::to_value(&conditions).unwrap()});
        assert_eq!(
            planned(0, &[gone.clone()], &addresses, 60),
            RangePlan::InUse
        );
        // Ranges that contain the whole range, or just the address.
        for other in ["10.0.0.0/8", "10.1.0.0/24", "10.1.0.8/29"] {
            let all = [gone.clone(), range("b", &[other])];
            let removal = RangePlan::SetFinalizers(Vec::new());
            assert_eq!(planned(0, &all, &addresses, 60), removal, "{other}");
            // Of two ranges that are deleted together, neither counts for the other.
            let both = [gone.clone(), deleted(range("b", &[other]))];
            assert_eq!(
                planned(0, &both, &addresses, 60),
                RangePlan::InUse,
                "{other}"
            );
        }
        let all = [gone, range("b", &["10.1.0.16/28"])];
        assert_eq!(planned(0, &all, &addresses, 60), RangePlan::InUse);
    }
}
