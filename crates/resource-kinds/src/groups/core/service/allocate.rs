//! Addresses and node ports of Services (`statefulset.md` 10.14 and 10.15).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use json_tree::{Value, json};
use object_model::cidr::Cidr;
use object_model::dialling::special;
use object_model::{FieldError, FieldPath, Status};

use super::health_check;
use crate::groups::networking::address_of;
use crate::json::parts;
use crate::kind::cluster::ServiceRange;
use crate::kind::{Allocation, AllocationLookup, AllocationRefusal};
use crate::validation::field::Field;
use crate::well_known::limits;

const NODE_PORT_RANGE: &str = "provided port is not in the valid range. The range of valid ports \
                               is 30000-32767";
pub(super) const PORT_TAKEN: &str = "provided port is already allocated";
const ADDRESS_TAKEN: &str = "provided IP is already allocated";
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

/// Whether Services of this type have a cluster IP.
pub(super) fn has_address(object: &Value) -> bool {
    matches!(
        object["spec"]["type"].as_str(),
        Some("ClusterIP" | "NodePort" | "LoadBalancer")
    )
}

fn has_node_ports(object: &Value) -> bool {
    let spec = &object["spec"];
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn address_key(address: &str) -> String {
    format!("service-ip/{address}")
}

pub(super) fn port_key(protocol: &str, port: i64) -> String {
    format!("node-port/{protocol}/{port}")
}

/// Makes `clusterIP` and the first of `clusterIPs` equal. If one of them is set (or, on an update, changed), the
/// other follows.
pub(super) fn same_addresses(object: &mut Value, old: Option<&Value>) {
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    let before = old.map(|old| &old["spec"]);
    let single = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    let list = spec["clusterIPs"].as_array().cloned().unwrap_or_default();
    let single_changed = before.is_some_and(|old| old["clusterIP"] != spec["clusterIP"]);
    let list_changed = before.is_some_and(|old| old["clusterIPs"] != spec["clusterIPs"]);
    match (single.is_empty(), list.is_empty()) {
        (false, true) => parts::set(spec, "clusterIPs", json!([single])),
        (true, false) if single_changed && !list_changed => parts::remove(spec, "clusterIPs"),
        (false, false) if single_changed && !list_changed => {
            parts::set(spec, "clusterIPs", json!([single]));
        }
        (false, false) if list_changed && !single_changed => {
            parts::set(spec, "clusterIP", list[0].clone());
        }
        _ => {}
    }
}

/// Removes fields that the new type does not have, unless the user has changed them in this update. Most of these
/// fields were set by default, so a user would not know that they must be removed.
pub(super) fn drop_with_type(object: &mut Value, old: &Value) {
    let balanced = |object: &Value| object["spec"]["type"] == "LoadBalancer";
    let mut removed = Vec::new();
    if is_reached_from_outside(&old["spec"]) && !is_reached_from_outside(&object["spec"]) {
        removed.push("externalTrafficPolicy");
    }
    if balanced(old) && !balanced(object) {
        removed.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if health_check::is_served(&old["spec"]) && !health_check::is_served(&object["spec"]) {
        removed.push("healthCheckNodePort");
    }
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    for field in removed {
        if spec[field] == old["spec"][field] {
            parts::remove(spec, field);
        }
    }
}

/// Whether clients outside of the cluster can reach the Service, so that `externalTrafficPolicy` applies.
pub(super) fn is_reached_from_outside(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort" | "LoadBalancer") => true,
        Some("ClusterIP") => !Field::of(spec, "externalIPs").is_empty(),
        _ => false,
    }
}

/// An update without allocated values keeps the stored values.
pub(super) fn keep_allocations(object: &mut Value, old: &Value) {
    let retains_address = has_address(object) && has_address(old);
    let retains_ports = has_node_ports(object) && has_node_ports(old);
    let retains_check =
        health_check::is_served(&object["spec"]) && health_check::is_served(&old["spec"]);
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    if retains_address {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec[field].is_null() {
                parts::restore(spec, &old["spec"], field);
            }
        }
    }
    if retains_ports {
        keep_ports(spec, &old["spec"]);
    }
    if retains_check && spec["healthCheckNodePort"].is_null() {
        parts::restore(spec, &old["spec"], "healthCheckNodePort");
    }
}

/// Ports are identified by name, as upstream does: a port may get another number and keep its node port.
fn keep_ports(spec: &mut Value, old: &Value) {
    let numbers = |spec: &Value| -> BTreeMap<String, i64> {
        let ports = Field::of(spec, "ports");
        ports
            .items()
            .filter_map(|port| {
                Some((
                    port.get("name").text().to_owned(),
                    port.get("nodePort").int()?,
                ))
            })
            .collect()
    };
    let before = numbers(old);
    let mut used: BTreeSet<i64> = numbers(spec).into_values().collect();
    for port in parts::each(spec, "ports") {
        let number = before.get(port["name"].as_str().unwrap_or_default());
        if let Some(number) = number.filter(|_| port["nodePort"].is_null())
            && used.insert(*number)
        {
            parts::set(port, "nodePort", *number);
        }
    }
}

/// Allocates the values that the user did not set; releases the values that the new type does not have.
pub(super) fn allocate(
    ranges: Ranges,
    object: &mut Value,
    old: Option<&Value>,
    allocated: &dyn AllocationLookup,
) -> Result<(), Status> {
    let mut errors = Vec::new();
    if has_address(object) {
        allocate_address(ranges, object, old, allocated, &mut errors)?;
    } else if let Some(spec) = object.get_mut("spec") {
        let released = old.is_some_and(|old| old["spec"]["clusterIPs"] == spec["clusterIPs"]);
        if released {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                parts::remove(spec, field);
            }
        }
    }
    if has_node_ports(object) {
        allocate_ports(object, old, allocated, &mut errors)?;
    } else if let Some(old) = old.filter(|old| has_node_ports(old)) {
        release_ports(object, old);
    }
    health_check::allocate(object, old, allocated, &mut errors)?;
    if errors.is_empty() {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(Status::invalid("", "Service", name, &errors))
}

fn allocate_address(
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

/// A number that differs between objects and is constant for one object. Allocation starts at this number, so that
/// recently released addresses are not reused at once.
pub(super) fn seed(object: &Value) -> u32 {
    let metadata = &object["metadata"];
    let texts = ["uid", "namespace", "name"].map(|key| metadata[key].as_str().unwrap_or_default());
    texts
        .join("/")
        .bytes()
        .fold(0x811c_9dc5, |hash: u32, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
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

fn allocate_ports(
    object: &mut Value,
    old: Option<&Value>,
    allocated: &dyn AllocationLookup,
    errors: &mut Vec<FieldError>,
) -> Result<(), Status> {
    let seed = i64::from(seed(object));
    let existing: BTreeSet<String> = old.map(node_port_keys).unwrap_or_default();
    let mut chosen = BTreeSet::new();
    let path = FieldPath::root("spec").child("ports");
    let Some(spec) = object.get_mut("spec") else {
        return Ok(());
    };
    let requested: BTreeSet<i64> = Field::of(spec, "ports")
        .items()
        .filter_map(|port| port.get("nodePort").int())
        .chain(spec["healthCheckNodePort"].as_i64())
        .collect();
    for (index, port) in parts::each(spec, "ports").enumerate() {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        if let Some(number) = port["nodePort"].as_i64().filter(|number| *number != 0) {
            let at = path.index(index).child("nodePort");
            let is_allocated =
                |key: &String| !existing.contains(key) && allocated.is_allocated(key);
            errors.extend(explicit_port(&at, &protocol, number, is_allocated));
            continue;
        }
        let free = |number: &i64| {
            let key = port_key(&protocol, *number);
            !requested.contains(number) && !chosen.contains(&key) && !allocated.is_allocated(&key)
        };
        let number = choose_port(seed, free)
            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
        chosen.insert(port_key(&protocol, number));
        parts::set(port, "nodePort", number);
    }
    Ok(())
}

/// The error for a requested node port.
pub(super) fn explicit_port(
    at: &FieldPath,
    protocol: &str,
    number: i64,
    is_allocated: impl Fn(&String) -> bool,
) -> Option<FieldError> {
    if !(limits::NODE_PORT_MIN..=limits::NODE_PORT_MAX).contains(&number) {
        Some(FieldError::invalid(at, number, NODE_PORT_RANGE))
    } else if is_allocated(&port_key(protocol, number)) {
        Some(FieldError::invalid(at, number, PORT_TAKEN))
    } else {
        None
    }
}

pub(super) fn choose_port(seed: i64, free: impl Fn(&i64) -> bool) -> Option<i64> {
    let count = limits::NODE_PORT_MAX - limits::NODE_PORT_MIN + 1;
    let mut all = (0..count).map(|step| limits::NODE_PORT_MIN + (seed + step) % count);
    all.find(free)
}

/// Removes node ports that the new type does not have, unless the user has changed them.
fn release_ports(object: &mut Value, old: &Value) {
    let keys = node_port_keys(old);
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    for port in parts::each(spec, "ports") {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let number = port["nodePort"].as_i64().unwrap_or_default();
        if keys.contains(&port_key(protocol, number)) {
            parts::remove(port, "nodePort");
        }
    }
}

pub(super) fn node_port_keys(object: &Value) -> BTreeSet<String> {
    let ports = Field::of(object, "spec.ports");
    ports
        .items()
        .filter_map(|port| {
            let number = port.get("nodePort").int().filter(|number| *number != 0)?;
            Some(port_key(port.get("protocol").text(), number))
        })
        .collect()
}

/// The address and the node ports of a Service.
pub(super) fn allocations(object: &Value) -> Vec<Allocation> {
    let mut all = Vec::new();
    for address in Field::of(object, "spec.clusterIPs").items() {
        if has_address(object) && !matches!(address.text(), "" | "None") {
            all.push(Allocation {
                key: address_key(address.text()),
                refusal: AllocationRefusal {
                    field: "spec.clusterIPs".to_owned(),
                    detail: format!("failed to allocate IP {}: {ADDRESS_TAKEN}", address.text()),
                },
                object: Some(address_of(address.text(), "services", object)),
            });
        }
    }
    for port in Field::of(object, "spec.ports").items() {
        let number = port.get("nodePort");
        if let Some(value) = number.int().filter(|value| *value != 0) {
            all.push(Allocation {
                key: port_key(port.get("protocol").text(), value),
                refusal: AllocationRefusal {
                    field: number.path().to_string(),
                    detail: PORT_TAKEN.to_owned(),
                },
                object: None,
            });
        }
    }
    all.extend(health_check::allocation(object));
    all
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::groups::core::Service;
    use crate::kind::{Allocating, Kind};

    /// The allocations of other Services, and the ranges of ServiceCIDRs.
    pub struct AllocatedKeys(pub BTreeSet<String>, pub Vec<ServiceRange>);

    impl AllocationLookup for AllocatedKeys {
        fn is_allocated(&self, key: &str) -> bool {
            self.0.contains(key)
        }

        fn service_ranges(&self) -> Vec<ServiceRange> {
            self.1.clone()
        }
    }

    pub fn allocated(keys: &[&str]) -> AllocatedKeys {
        let keys = keys.iter().map(|key| (*key).to_owned());
        AllocatedKeys(keys.collect(), Vec::new())
    }

    pub fn service() -> Service {
        Service::new("10.96.0.0/24".parse().unwrap(), None)
    }

    pub fn create(spec: Value, allocated: &AllocatedKeys) -> Result<Value, Status> {
        let mut object = json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec});
        service().default(&mut object);
        service().prepare_create(&mut object);
        service().allocate(&mut object, None, allocated)?;
        Ok(object)
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
        let upper: Vec<String> = (17..=254)
            .map(|n| format!("service-ip/10.96.0.{n}"))
            .collect();
        let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
        let object = create(json!({}), &allocated(&upper)).unwrap();
        assert_eq!(object["spec"]["clusterIP"], "10.96.0.16");
        let all: Vec<String> = (1..=254)
            .map(|n| format!("service-ip/10.96.0.{n}"))
            .collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(create(json!({}), &allocated(&all)).unwrap_err().code, 500);
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
        let all: Vec<String> = (1..=254)
            .map(|n| format!("service-ip/10.96.0.{n}"))
            .collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let more = with_ranges(
            allocated(&all),
            &["10.2.0.0/32", "10.2.0.0/31", "10.1.0.0/30"],
        );
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

    #[test]
    fn headless_services_hold_no_address() {
        let spec = json!({"clusterIP": "None", "selector": {"app": "x"}});
        let object = create(spec, &allocated(&[])).unwrap();
        assert_eq!(object["spec"]["clusterIPs"], json!(["None"]));
        assert_eq!(object["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(allocations(&object), []);
        let object = create(json!({"type": "ExternalName"}), &allocated(&[])).unwrap();
        assert!(object["spec"]["clusterIPs"].is_null());
    }

    #[test]
    fn node_ports_are_chosen_and_kept() {
        let spec = json!({"type": "NodePort",
            "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]});
        let old = create(spec.clone(), &allocated(&[])).unwrap();
        let keys = node_port_keys(&old);
        assert_eq!(keys.len(), 2);
        let mut new = old.clone();
        new["spec"]["ports"] = json!([{"name": "b", "port": 82}, {"name": "a", "port": 80}]);
        service().default(&mut new);
        service().prepare_update(&mut new, &old);
        service()
            .allocate(
                &mut new,
                Some(&old),
                &AllocatedKeys(keys.clone(), Vec::new()),
            )
            .unwrap();
        assert_eq!(node_port_keys(&new), keys);
        new["spec"]["type"] = json!("ClusterIP");
        service()
            .allocate(&mut new, Some(&old), &allocated(&[]))
            .unwrap();
        assert!(node_port_keys(&new).is_empty());
    }

    #[test]
    fn what_the_old_type_had_goes_with_it() {
        let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "x.y/z",
            "ports": [{"port": 80}]});
        let old = create(spec, &allocated(&[])).unwrap();
        assert_eq!(old["spec"]["externalTrafficPolicy"], "Cluster");
        let become_type = |kind: &str, policy: &str| {
            let mut new = old.clone();
            new["spec"]["type"] = json!(kind);
            new["spec"]["externalTrafficPolicy"] = json!(policy);
            service().default(&mut new);
            service().prepare_update(&mut new, &old);
            new
        };
        let new = become_type("ClusterIP", "Cluster");
        for field in [
            "externalTrafficPolicy",
            "allocateLoadBalancerNodePorts",
            "loadBalancerClass",
        ] {
            assert!(new["spec"].get(field).is_none(), "{field}");
        }
        let new = become_type("NodePort", "Cluster");
        assert_eq!(new["spec"]["externalTrafficPolicy"], "Cluster");
        let new = become_type("ClusterIP", "Local");
        assert_eq!(new["spec"]["externalTrafficPolicy"], "Local");
    }

    #[test]
    fn a_node_port_asked_for_is_in_range_and_free() {
        let spec =
            |port: i64| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
        assert!(create(spec(30_080), &allocated(&[])).is_ok());
        let refused = create(spec(80), &allocated(&[])).unwrap_err();
        assert!(
            refused
                .message
                .ends_with("The range of valid ports is 30000-32767")
        );
        let refused = create(spec(30_080), &allocated(&["node-port/TCP/30080"])).unwrap_err();
        assert!(
            refused
                .message
                .ends_with("provided port is already allocated")
        );
    }
}
