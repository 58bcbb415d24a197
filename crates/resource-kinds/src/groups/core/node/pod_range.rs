//! The pod range of a node: chosen by the cluster, or requested by the creator of the Node.

use std::net::IpAddr;

use json_tree::{Value, json};
use object_model::cidr::Cidr;
use object_model::{FieldError, Status};

use crate::json::parts;
use crate::kind::{Allocation, AllocationLookup, AllocationRefusal, PodRanges};
use crate::validation::field::Field;

const TAKEN: &str = "provided range is already allocated";
/// Maximum number of cluster ranges that one Node reserves. A larger range is older than the configuration.
const RANGES_MAX: usize = 64;

fn key(range: Cidr) -> String {
    format!("pod-range/{range}")
}

/// Makes `podCIDR` and the first of `podCIDRs` equal; `podCIDR` has precedence, as in upstream's conversion.
pub(super) fn same_ranges(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    let single = spec["podCIDR"].as_str().unwrap_or_default().to_owned();
    let first = spec["podCIDRs"][0].as_str().unwrap_or_default().to_owned();
    if single == first {
        return;
    }
    if single.is_empty() {
        parts::set(spec, "podCIDR", first);
    } else {
        parts::set(spec, "podCIDRs", json!([single]));
    }
}

/// Chooses the lowest free range for a new Node without a range. If no range is free, the Node has none. The
/// transaction that stores the Node checks whether a requested range is free, because an existing Node of this name
/// must be detected first.
pub(super) fn allocate(
    ranges: PodRanges,
    object: &mut Value,
    old: Option<&Value>,
    allocated: &dyn AllocationLookup,
) -> Result<(), Status> {
    let range_field = Field::of(object, "spec.podCIDR");
    let before = old.map(|old| old["spec"]["podCIDR"].as_str().unwrap_or_default());
    if !range_field.is_empty() {
        let stays = before.is_some_and(|before| !before.is_empty());
        let errors: Vec<_> = if stays {
            Vec::new()
        } else {
            misplaced(ranges, &range_field).into_iter().collect()
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        return match errors.as_slice() {
            [] => Ok(()),
            errors => Err(Status::invalid("", "Node", name, errors)),
        };
    }
    let free = |range: &Cidr| !allocated.is_allocated(&key(*range));
    if before.is_none()
        && let Some(range) = ranges.nodes().find(free)
        && let Some(spec) = parts::entry(object, "spec")
    {
        parts::set(spec, "podCIDR", range.to_string());
        parts::set(spec, "podCIDRs", json!([range.to_string()]));
    }
    Ok(())
}

/// The error for a range that is not a node range of the cluster.
fn misplaced(ranges: PodRanges, requested: &Field<'_, '_>) -> Option<FieldError> {
    let range = requested.text().parse::<Cidr>();
    (!range.is_ok_and(|range| ranges.has(range))).then(|| {
        requested.invalid(format!(
            "must be one of the /{} ranges of {}, from which nodes of this cluster get theirs",
            ranges.node_prefix(),
            ranges.cluster()
        ))
    })
}

/// The cluster ranges that a Node reserves.
pub(super) fn allocations(ranges: PodRanges, object: &Value) -> Vec<Allocation> {
    let range_field = Field::of(object, "spec.podCIDR");
    let Ok(range) = range_field.text().parse::<Cidr>() else {
        return Vec::new();
    };
    let overlapping = ranges.overlapping(range).take(RANGES_MAX);
    overlapping
        .map(|range| Allocation {
            key: key(range),
            refusal: AllocationRefusal {
                field: "spec.podCIDR".to_owned(),
                detail: TAKEN.to_owned(),
            },
            object: None,
        })
        .collect()
}

/// Checks the form of `podCIDRs`: at most one range of each family.
pub(super) fn validate(spec: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let list = spec.get("podCIDRs");
    let mut families = Vec::new();
    for item in list.items() {
        match family(item.text()) {
            Some(family) => families.push(family),
            None => errors.push(
                item.invalid("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ),
        }
    }
    if errors.is_empty()
        && !matches!(
            families.as_slice(),
            [] | [_] | [true, false] | [false, true]
        )
    {
        errors.push(list.invalid("may specify no more than one CIDR for each IP family"));
    }
    errors
}

/// Whether a range is IPv4; `None` for a text that is not a range.
fn family(text: &str) -> Option<bool> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    let is_ipv4 = address.is_ipv4();
    (prefix <= if is_ipv4 { 32 } else { 128 }).then_some(is_ipv4)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::groups::core::Node;
    use crate::kind::cluster::ServiceRange;
    use crate::kind::{Allocating, Kind};

    struct Held(BTreeSet<String>);

    impl AllocationLookup for Held {
        fn is_allocated(&self, key: &str) -> bool {
            self.0.contains(key)
        }

        fn service_ranges(&self) -> Vec<ServiceRange> {
            Vec::new()
        }
    }

    fn kind() -> Node {
        let range = "10.244.0.0/22".parse().unwrap();
        Node::new(Some(PodRanges::new(range, 24).unwrap()))
    }

    fn node(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "n"}, "spec": spec});
        kind().default(&mut object);
        object
    }

    fn create(spec: Value, allocated: &[&str]) -> Result<Value, String> {
        let mut object = node(spec);
        let allocated = allocated.iter().map(|range| format!("pod-range/{range}"));
        let refused = |status: Status| status.message;
        kind()
            .allocate(&mut object, None, &Held(allocated.collect()))
            .map_err(refused)?;
        let errors = kind().validate_create(&object);
        match errors.first() {
            Some(error) => Err(error.to_string()),
            None => Ok(object["spec"].take()),
        }
    }

    fn keys(spec: &Value) -> Vec<String> {
        let keys = kind().allocations(&json!({"spec": spec}));
        keys.into_iter().map(|one| one.key).collect()
    }

    #[test]
    fn a_new_node_gets_the_lowest_free_range() {
        let spec = create(json!({}), &["10.244.0.0/24", "10.244.2.0/24"]).unwrap();
        assert_eq!(
            spec,
            json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]})
        );
        assert_eq!(keys(&spec), ["pod-range/10.244.1.0/24"]);
        let mut bare = json!({"metadata": {"name": "n"}});
        kind()
            .allocate(&mut bare, None, &Held(BTreeSet::new()))
            .unwrap();
        assert_eq!(bare["spec"]["podCIDR"], "10.244.0.0/24");
    }

    #[test]
    fn a_node_goes_without_a_range_when_none_is_free() {
        let all = [0, 1, 2, 3].map(|third| format!("10.244.{third}.0/24"));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(create(json!({}), &all), Ok(json!({})));
        assert_eq!(keys(&json!({})), [""; 0]);
    }

    #[test]
    fn a_range_asked_for_is_one_of_the_cluster() {
        let spec = create(json!({"podCIDRs": ["10.244.3.0/24"]}), &[]).unwrap();
        assert_eq!(spec["podCIDR"], "10.244.3.0/24");
        for range in [
            "10.244.0.0/25",
            "10.244.0.0/23",
            "10.245.0.0/24",
            "10.244.0.1/24",
            "x",
        ] {
            let error = create(json!({"podCIDR": range}), &[]).unwrap_err();
            assert_eq!(
                error,
                format!(
                    "Node \"n\" is invalid: spec.podCIDR: Invalid value: {range:?}: must be one of \
                     the /24 ranges of 10.244.0.0/22, from which nodes of this cluster get theirs"
                )
            );
        }
        for second in ["10.244.0.0", "x", "::/129"] {
            let error = create(json!({"podCIDRs": ["10.244.0.0/24", second]}), &[]).unwrap_err();
            assert!(error.contains("spec.podCIDRs[1]"), "{error}");
        }
        let two = json!({"podCIDRs": ["10.244.0.0/24", "10.244.1.0/24"]});
        let error = create(two, &[]).unwrap_err();
        assert!(error.ends_with("no more than one CIDR for each IP family"));
    }

    #[test]
    fn an_update_sets_a_range_once() {
        let old = node(json!({}));
        let update = |new: Value| {
            let mut new = node(new);
            kind().allocate(&mut new, Some(&old), &Held(BTreeSet::new()))?;
            Ok::<_, Status>(new["spec"].take())
        };
        assert_eq!(update(json!({})).unwrap(), json!({}));
        let set = update(json!({"podCIDR": "10.244.2.0/24"})).unwrap();
        assert_eq!(keys(&set), ["pod-range/10.244.2.0/24"]);
        assert!(update(json!({"podCIDR": "10.9.2.0/24"})).is_err());
    }

    /// A range of another size reserves all cluster ranges with which it overlaps.
    #[test]
    fn nodes_of_before_keep_their_ranges() {
        let old = node(json!({"podCIDR": "10.244.2.0/23"}));
        let mut new = old.clone();
        let nothing = Held(BTreeSet::new());
        assert!(kind().allocate(&mut new, Some(&old), &nothing).is_ok());
        assert_eq!(kind().validate_update(&new, &old), []);
        assert_eq!(
            keys(&old["spec"]),
            ["pod-range/10.244.2.0/24", "pod-range/10.244.3.0/24"]
        );
        assert_eq!(keys(&json!({"podCIDR": "10.9.0.0/24"})), [""; 0]);
    }

    #[test]
    fn without_ranges_the_cluster_allocates_nothing() {
        let plain = Node::new(None);
        let mut object = json!({"metadata": {"name": "n"}});
        let nothing = Held(BTreeSet::new());
        plain.allocate(&mut object, None, &nothing).unwrap();
        assert_eq!(object, json!({"metadata": {"name": "n"}}));
        assert!(!plain.has_allocations());
        let any = json!({"spec": {"podCIDR": "10.244.2.0/24"}});
        assert_eq!(plain.allocations(&any), []);
    }
}
