//! Cluster IPs of Services (`statefulset.md` 10.14 and 10.15, KEP-1880).

use std::net::{IpAddr, Ipv4Addr};

use json_tree::{Value, json};
use object_model::cidr::Cidr;
use object_model::dialling::special;
use object_model::{FieldError, FieldPath, Status};

use super::allocate::seed;
use crate::json::parts;
use crate::kind::AllocationLookup;
use crate::kind::cluster::ServiceRange;
use crate::validation::field::Field;

pub(super) const ADDRESS_TAKEN: &str = "provided IP is already allocated";
const NOT_IN_RANGE: &str = "the provided network does not match the current range";

/// The ranges of Service addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranges {
    /// The range of the cluster.
    pub cluster: ServiceRange,
    /// The addresses of pods, which no Service gets.
    pub pods: Option<Cidr>,
}

impl Ranges {
    /// The ranges of ready ServiceCIDRs, without those whose packets would not reach a Service: ranges of pods, and special
    /// ranges such as 127.0.0.0/8.
    fn further(self, allocated: &dyn AllocationLookup) -> impl Iterator<Item = ServiceRange> {
        let ranges = allocated.service_ranges().into_iter();
        ranges.filter(move |range| {
            let of_pods = self.pods.is_some_and(|pods| range.overlaps(&pods));
            let is_special = |address| special(IpAddr::V4(address)).is_some();
            !of_pods && !is_special(range.at(0)) && !is_special(range.at(u32::MAX))
        })
    }
}

pub(super) fn address_key(address: &str) -> String {
    format!("service-ip/{address}")
}

/// Chooses the address that the user did not set, or checks the one that the user has set.
pub(super) fn allocate(
    ranges: Ranges,
    object: &mut Value,
    old: Option<&Value>,
    allocated: &dyn AllocationLookup,
    errors: &mut Vec<FieldError>,
) -> Result<(), Status> {
    let seed = seed(object);
    let Some(spec) = object.get_mut("spec") else {
        return Ok(());
    };
    let selectorless_headless =
        spec["clusterIP"] == "None" && Field::of(spec, "selector").is_empty();
    if selectorless_headless && spec["ipFamilyPolicy"].is_null() && spec["ipFamilies"].is_null() {
        // The IP families of endpoints without a selector are unknown; upstream sets both families.
        parts::set(spec, "ipFamilyPolicy", "RequireDualStack");
        parts::set(spec, "ipFamilies", json!(["IPv4", "IPv6"]));
    }
    parts::fill(spec, "ipFamilyPolicy", "SingleStack");
    parts::fill(spec, "ipFamilies", json!(["IPv4"]));
    let requested = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    if requested == "None" {
        parts::set(spec, "clusterIPs", json!(["None"]));
        return Ok(());
    }
    let unchanged = old.is_some_and(|old| old["spec"]["clusterIP"] == *requested);
    if !requested.is_empty() {
        if !unchanged {
            errors.extend(explicit(ranges, &requested, allocated));
        }
        return Ok(());
    }
    // The stored ranges are read only if the cluster's is full.
    let chosen = choose_address(ranges.cluster, seed, allocated)
        .or_else(|| {
            let mut further = ranges.further(allocated);
            further.find_map(|range| choose_address(range, seed, allocated))
        })
        .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
    parts::set(spec, "clusterIP", chosen.to_string());
    parts::set(spec, "clusterIPs", json!([chosen.to_string()]));
    Ok(())
}

/// The error for a requested address.
fn explicit(
    ranges: Ranges,
    requested: &str,
    allocated: &dyn AllocationLookup,
) -> Option<FieldError> {
    let path = FieldPath::root("spec").child("clusterIPs");
    let refuse = |why: &str| {
        let detail = format!("failed to allocate IP {requested}: {why}");
        Some(FieldError::invalid(&path, json!([requested]), detail))
    };
    // Validation refuses an invalid address.
    let address: Ipv4Addr = requested.parse().ok()?;
    let has = |range: ServiceRange| range.offset(address).is_some();
    if !has(ranges.cluster) && !ranges.further(allocated).any(has) {
        refuse(NOT_IN_RANGE)
    } else if allocated.is_allocated(&address_key(requested)) {
        refuse(ADDRESS_TAKEN)
    } else {
        None
    }
}

fn choose_address(
    range: ServiceRange,
    seed: u32,
    allocated: &dyn AllocationLookup,
) -> Option<Ipv4Addr> {
    let last = range.size().saturating_sub(2);
    let band = range.static_band().min(last);
    let free = |offset: &u32| !allocated.is_allocated(&address_key(&range.at(*offset).to_string()));
    let upper = last - band;
    let mut others = (0..upper).map(|step| band + 1 + (seed.wrapping_add(step)) % upper);
    let offset = others.find(free).or_else(|| (1..=band).rev().find(free))?;
    Some(range.at(offset))
}

#[cfg(test)]
mod tests {
    use super::super::allocate::allocations;
    use super::super::allocate::tests::{AllocatedKeys, allocated, create};
    use super::*;
    use crate::groups::core::Service;
    use crate::kind::Allocating;

    /// All addresses of the cluster's range, from that number on.
    fn all_from(first: u8) -> AllocatedKeys {
        let keys = (first..=254).map(|n| format!("service-ip/10.96.0.{n}"));
        AllocatedKeys(keys.collect(), Vec::new())
    }

    /// `statefulset.md` 10.15
    #[test]
    fn the_upper_part_is_chosen_from_first() {
        let object = create(json!({}), &allocated(&[])).unwrap();
        let address: Ipv4Addr = object["spec"]["clusterIP"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(address.octets()[3] > 16);
        assert_eq!(object["spec"]["clusterIPs"], json!([address.to_string()]));
        let object = create(json!({}), &all_from(17)).unwrap();
        assert_eq!(object["spec"]["clusterIP"], "10.96.0.16");
        assert_eq!(create(json!({}), &all_from(1)).unwrap_err().code, 500);
    }

    /// `statefulset.md` 10.14
    #[test]
    fn an_address_asked_for_is_in_range_and_free() {
        let requested = json!({"clusterIP": "10.96.0.5"});
        let object = create(requested.clone(), &allocated(&[])).unwrap();
        assert_eq!(object["spec"]["clusterIPs"], json!(["10.96.0.5"]));
        assert_eq!(allocations(&object)[0].key, "service-ip/10.96.0.5");
        let refused = create(requested, &allocated(&["service-ip/10.96.0.5"])).unwrap_err();
        assert_eq!(
            refused.message,
            "Service \"s\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.5\"]: failed to \
             allocate IP 10.96.0.5: provided IP is already allocated"
        );
        let refused = create(json!({"clusterIP": "10.1.0.5"}), &allocated(&[])).unwrap_err();
        assert!(
            refused
                .message
                .ends_with("the provided network does not match the current range")
        );
    }

    fn with_ranges(mut allocated: AllocatedKeys, ranges: &[&str]) -> AllocatedKeys {
        let ranges = ranges.iter().map(|range| range.parse().unwrap());
        allocated.1 = ranges.map(ServiceRange::of_service_cidr).collect();
        allocated
    }

    /// KEP-1880
    #[test]
    fn ranges_of_service_cidrs_are_used_too() {
        let requested = json!({"clusterIP": "10.1.0.5"});
        let more = with_ranges(allocated(&[]), &["10.1.0.0/24"]);
        let object = create(requested.clone(), &more).unwrap();
        assert_eq!(allocations(&object)[0].key, "service-ip/10.1.0.5");
        let taken = with_ranges(allocated(&["service-ip/10.1.0.5"]), &["10.1.0.0/24"]);
        let refused = create(requested, &taken).unwrap_err();
        assert!(refused.message.ends_with(ADDRESS_TAKEN));
        for edge in ["10.1.0.0", "10.1.0.255"] {
            create(json!({"clusterIP": edge}), &more).unwrap_err();
        }
        let small = ["10.2.0.0/32", "10.2.0.0/31", "10.1.0.0/30"];
        let more = with_ranges(all_from(1), &small);
        let object = create(json!({}), &more).unwrap();
        assert_eq!(object["spec"]["clusterIP"], "10.1.0.2");
    }

    #[test]
    fn ranges_that_cannot_be_reached_are_not_used() {
        let service = Service::new(
            "10.96.0.0/24".parse().unwrap(),
            "10.244.0.0/16".parse().ok(),
        );
        for (range, address) in [
            ("10.244.7.0/24", "10.244.7.9"),
            ("10.0.0.0/8", "10.1.1.1"),
            ("127.0.0.0/8", "127.0.0.5"),
            ("169.254.0.0/16", "169.254.169.254"),
            ("0.0.0.0/0", "8.8.8.8"),
        ] {
            let more = with_ranges(allocated(&[]), &[range]);
            let mut object = json!({"metadata": {"name": "s", "namespace": "d"},
                "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address]}});
            let refused = service.allocate(&mut object, None, &more).unwrap_err();
            assert!(refused.message.ends_with(NOT_IN_RANGE), "{range}");
        }
    }
}
