//! Addresses and node ports of Services.

use std::collections::{BTreeMap, BTreeSet};

use json_tree::{Value, json};
use object_model::{FieldError, FieldPath, Status};

use super::cluster_ip::{self, ADDRESS_TAKEN, Ranges, address_key};
use super::health_check;
use crate::groups::networking::address_of;
use crate::json::parts;
use crate::kind::{Allocation, AllocationLookup, AllocationRefusal};
use crate::validation::field::Field;
use crate::well_known::limits;

const NODE_PORT_RANGE: &str = "provided port is not in the valid range. The range of valid ports \
                               is 30000-32767";
pub(super) const PORT_TAKEN: &str = "provided port is already allocated";

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
        cluster_ip::allocate(ranges, object, old, allocated, &mut errors)?;
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
    use crate::kind::cluster::ServiceRange;
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
