//! `healthCheckNodePort`: the port on which nodes report to external load balancers whether they have local
//! endpoints.

use json_tree::Value;
use object_model::{FieldError, FieldPath, Status};

use super::allocate::{PORT_TAKEN, choose_port, explicit_port, node_port_keys, port_key, seed};
use crate::json::parts;
use crate::kind::{Allocation, AllocationLookup, AllocationRefusal};
use crate::validation::field::Field;

/// Whether the Service has a health check node port.
pub(super) fn is_served(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// Allocates the health check node port. It must differ from the Service's node ports.
pub(super) fn allocate(
    object: &mut Value,
    old: Option<&Value>,
    allocated: &dyn AllocationLookup,
    errors: &mut Vec<FieldError>,
) -> Result<(), Status> {
    if !is_served(&object["spec"]) {
        return Ok(());
    }
    let seed = i64::from(seed(object));
    let node_ports = node_port_keys(object);
    let before = old.and_then(|old| old["spec"]["healthCheckNodePort"].as_i64());
    let Some(spec) = object.get_mut("spec") else {
        return Ok(());
    };
    let is_allocated = |key: &String| node_ports.contains(key) || allocated.is_allocated(key);
    let requested = spec["healthCheckNodePort"].as_i64();
    if let Some(number) = requested.filter(|number| *number != 0) {
        if before != Some(number) {
            let at = FieldPath::root("spec").child("healthCheckNodePort");
            errors.extend(explicit_port(&at, "TCP", number, is_allocated));
        }
        return Ok(());
    }
    let free = |number: &i64| !is_allocated(&port_key("TCP", *number));
    let number = choose_port(seed, free).ok_or_else(|| {
        Status::internal("failed to allocate a HealthCheck NodePort: range is full")
    })?;
    parts::set(spec, "healthCheckNodePort", number);
    Ok(())
}

/// The health check node port, which must be unique in the cluster.
pub(super) fn allocation(object: &Value) -> Option<Allocation> {
    let check = Field::of(object, "spec.healthCheckNodePort");
    let port = check.int().filter(|port| *port != 0)?;
    Some(Allocation {
        key: port_key("TCP", port),
        refusal: AllocationRefusal {
            field: check.path().to_string(),
            detail: PORT_TAKEN.to_owned(),
        },
        object: None,
    })
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;
    use crate::groups::core::service::allocate;
    use crate::groups::core::service::allocate::tests::{
        AllocatedKeys, allocated, create, service,
    };
    use crate::kind::{Allocating, Kind};

    #[test]
    fn a_local_balancer_has_a_port_that_tells_of_endpoints() {
        let spec = |policy: &str| {
            json!({"type": "LoadBalancer", "externalTrafficPolicy": policy,
                "ports": [{"port": 80}]})
        };
        let port_of = |object: &Value| object["spec"]["healthCheckNodePort"].as_i64();
        assert_eq!(
            port_of(&create(spec("Cluster"), &allocated(&[])).unwrap()),
            None
        );
        let old = create(spec("Local"), &allocated(&[])).unwrap();
        let port = port_of(&old).unwrap();
        assert_ne!(Some(port), old["spec"]["ports"][0]["nodePort"].as_i64());
        let key = port_key("TCP", port);
        assert!(
            allocate::allocations(&old)
                .iter()
                .any(|allocation| allocation.key == key)
        );
        let update = |spec: Value| {
            let mut new = json!({"metadata": old["metadata"], "spec": spec});
            service().default(&mut new);
            service().prepare_update(&mut new, &old);
            let allocated = AllocatedKeys(
                allocate::allocations(&old)
                    .into_iter()
                    .map(|allocation| allocation.key)
                    .collect(),
                Vec::new(),
            );
            service()
                .allocate(&mut new, Some(&old), &allocated)
                .unwrap();
            new
        };
        assert_eq!(port_of(&update(spec("Local"))), Some(port), "it stays");
        let mut with_port = spec("Cluster");
        with_port["healthCheckNodePort"] = port.into();
        assert_eq!(
            port_of(&update(with_port)),
            None,
            "and goes with the policy"
        );
        let mut requested = spec("Local");
        requested["healthCheckNodePort"] = 30_001.into();
        let refused = create(requested, &allocated(&["node-port/TCP/30001"])).unwrap_err();
        assert!(
            refused.message.ends_with(
                "spec.healthCheckNodePort: Invalid value: 30001: provided port is \
                            already allocated"
            ),
            "{}",
            refused.message
        );
    }
}
