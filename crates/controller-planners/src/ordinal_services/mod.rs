//! A Service for each pod of a StatefulSet, with its own node port.
//!
//! **Goal**: with the annotation `mainstay.dev/ordinal-node-port: 30100`, the pod `web-0` is reachable from outside at
//! port 30100 of every node, `web-1` at 30101, and so on. Members of a database that advertise an address to their
//! clients can compute the address from their ordinal. **Relies on**: the garbage collector, which deletes the Services
//! of a deleted set. **Guarantees**: Services that this controller did not create are not changed, whatever their names
//! are.

use std::collections::BTreeMap;
use std::sync::Arc;

use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use object_model::{IncompleteMetadata, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::ORDINAL_NODE_PORT;
use resource_kinds::labels;

use crate::ownership::controller;
use crate::stateful_set::identity;

/// The observed state of one StatefulSet and its Services.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The StatefulSet.
    pub set: Arc<StatefulSet>,
    /// All Services of its namespace.
    pub services: Vec<Arc<Service>>,
}

/// The writes that give each ordinal its Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OrdinalServicesPlan {
    /// Services to apply, by name, with all fields that this controller owns.
    pub apply: Vec<(String, Value)>,
    pub delete: Vec<ServiceDeletion>,
    /// The reason why the Services cannot be created, for an event.
    pub problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDeletion {
    pub name: String,
    pub uid: Uid,
}

/// Plans the Services that the set's annotation requests.
pub fn plan(observed: &Observed) -> Result<OrdinalServicesPlan, IncompleteMetadata> {
    let set = observed.set.as_ref();
    let mut plan = OrdinalServicesPlan::default();
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(plan);
    }
    let owner = identity::owner_reference(set)?;
    let by_name: BTreeMap<&str, &Arc<Service>> = observed
        .services
        .iter()
        .filter_map(|service| Some((service.metadata.name.as_deref()?, service)))
        .collect();
    let desired = desired_services(set, &owner, &by_name, &mut plan.problem);
    for (name, service) in &desired {
        match by_name.get(name.as_str()) {
            Some(existing) if !is_ours(&owner, existing) => {
                plan.problem.get_or_insert(format!(
                    "Service {name} already exists and does not belong to this set"
                ));
            }
            Some(existing) if existing.metadata.deletion_timestamp.is_some() => {}
            Some(existing) if has_fields(existing, service) => {}
            _ => plan.apply.push((name.clone(), service.clone())),
        }
    }
    for (name, service) in by_name {
        let surplus = is_ours(&owner, service) && !desired.contains_key(name);
        if surplus && service.metadata.deletion_timestamp.is_none() {
            plan.delete.push(ServiceDeletion {
                name: name.to_owned(),
                uid: service.metadata.object_uid()?,
            });
        }
    }
    Ok(plan)
}

/// Whether this controller created the Service for the set.
fn is_ours(set: &OwnerReference, service: &Service) -> bool {
    let owner = controller(service.metadata.owner_references.as_deref());
    owner.is_some_and(|owner| owner.uid == set.uid)
}

/// The desired Services, by name.
fn desired_services(
    set: &StatefulSet,
    owner: &OwnerReference,
    services: &BTreeMap<&str, &Arc<Service>>,
    problem: &mut Option<String>,
) -> BTreeMap<String, Value> {
    let annotations = set.metadata.annotations.as_ref();
    let first = annotations.and_then(|all| all.get(ORDINAL_NODE_PORT)?.parse::<i64>().ok());
    let (Some(first), Some(spec)) = (first, set.spec.as_ref()) else {
        return BTreeMap::new();
    };
    let ports = ports(set, services);
    if ports.is_empty() {
        problem.get_or_insert(format!(
            "neither the Service {:?} nor the containers of the template name a port",
            spec.service_name.as_deref().unwrap_or_default()
        ));
        return BTreeMap::new();
    }
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start);
    let start = i64::from(start.unwrap_or_default().max(0));
    let replicas = i64::from(spec.replicas.unwrap_or(1).max(0));
    let mut desired = BTreeMap::new();
    for ordinal in start..start + replicas {
        let node_port = first + ordinal;
        if node_port > i64::from(u16::MAX) {
            problem.get_or_insert(format!(
                "there is no port {node_port} for ordinal {ordinal}"
            ));
            break;
        }
        let name = identity::pod_name(&owner.name, ordinal);
        desired.insert(name.clone(), service(set, owner, &name, &ports, node_port));
    }
    desired
}

/// The ports of the set's governing Service; without a governing Service, the ports of the template's containers.
fn ports(set: &StatefulSet, services: &BTreeMap<&str, &Arc<Service>>) -> Vec<ServicePort> {
    let spec = set.spec.as_ref();
    let governing = spec.and_then(|spec| services.get(spec.service_name.as_deref()?));
    let governing = governing.and_then(|service| service.spec.as_ref()?.ports.clone());
    if let Some(ports) = governing.filter(|ports| !ports.is_empty()) {
        return ports;
    }
    let pod = spec.and_then(|spec| spec.template.spec.as_ref());
    let containers = pod.into_iter().flat_map(|pod| &pod.containers);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .map(|port| ServicePort {
            name: port.name.clone(),
            port: port.container_port,
            protocol: port.protocol.clone(),
            ..ServicePort::default()
        })
        .collect()
}

/// The fields of the Service for a pod. Its first port has the computed node port; the API server
/// chooses the others.
fn service(
    set: &StatefulSet,
    owner: &OwnerReference,
    pod: &str,
    ports: &[ServicePort],
    node_port: i64,
) -> Value {
    let several = ports.len() > 1;
    let ports = ports.iter().enumerate().map(|(index, port)| {
        let target = port
            .target_port
            .clone()
            .unwrap_or(IntOrString::Int(port.port));
        let mut fields = json!({
            "port": port.port,
            "protocol": port.protocol.as_deref().unwrap_or("TCP"),
            "targetPort": target,
        });
        if let Some(name) = &port.name {
            fields["name"] = json!(name);
        } else if several {
            fields["name"] = json!(format!("port-{}", port.port));
        }
        if index == 0 {
            fields["nodePort"] = json!(node_port);
        }
        fields
    });
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": pod,
            "namespace": set.metadata.namespace,
            "labels": {labels::POD_NAME: pod},
            "ownerReferences": [owner],
        },
        "spec": {
            "type": "NodePort",
            "selector": {labels::POD_NAME: pod},
            "ports": ports.collect::<Vec<_>>(),
        },
    })
}

/// Whether the Service contains all fields of `desired`; the Service may have further fields.
fn has_fields(service: &Service, desired: &Value) -> bool {
    json_tree::to_value(service).is_ok_and(|service| {
        let ports = |value: &Value| value["spec"]["ports"].as_array().map(Vec::len);
        covers(&service["spec"], &desired["spec"])
            && covers(
                &service["metadata"]["labels"],
                &desired["metadata"]["labels"],
            )
            && ports(&service) == ports(desired)
    })
}

fn covers(has: &Value, desired: &Value) -> bool {
    match (has, desired) {
        (Value::Object(has), Value::Object(desired)) => desired
            .iter()
            .all(|(key, value)| has.get(key).is_some_and(|has| covers(has, value))),
        (Value::Array(has), Value::Array(desired)) => {
            has.len() == desired.len() && has.iter().zip(desired).all(|(has, w)| covers(has, w))
        }
        (has, desired) => has == desired,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(observed: &Observed) -> OrdinalServicesPlan {
        plan(observed).unwrap()
    }

    fn set(more: Value) -> Arc<StatefulSet> {
        let mut set = json!({
            "metadata": {"namespace": "default", "name": "web", "uid": "u",
                "annotations": {ORDINAL_NODE_PORT: "30100"}},
            "spec": {"replicas": 2, "serviceName": "peers", "selector": {"matchLabels": {}},
                "template": {"spec": {"containers": [{"name": "c",
                    "ports": [{"containerPort": 6379}]}]}}},
        });
        for (path, value) in more.as_object().unwrap() {
            *set.pointer_mut(path).unwrap() = value.clone();
        }
        Arc::new(json_tree::from_value(set).unwrap())
    }

    fn peers() -> Arc<Service> {
        let ports =
            json!([{"name": "sql", "port": 3306, "targetPort": "db"}, {"name": "x", "port": 4567}]);
        let service = json!({"metadata": {"name": "peers"}, "spec": {"ports": ports}});
        Arc::new(json_tree::from_value(service).unwrap())
    }

    /// The Services of a plan as the API would store them.
    fn applied(plan: &OrdinalServicesPlan) -> Vec<Arc<Service>> {
        let service = |(_, service): &(String, Value)| {
            let mut service: Service = json_tree::from_value(service.clone()).unwrap();
            service.metadata.uid = Some(format!("uid-{}", service.metadata.name.clone().unwrap()));
            let spec = service.spec.as_mut().unwrap();
            spec.cluster_ip = Some("10.96.0.7".to_owned());
            let ports = spec.ports.as_mut().unwrap();
            ports
                .iter_mut()
                .for_each(|port| port.node_port = port.node_port.or(Some(31999)));
            Arc::new(service)
        };
        plan.apply.iter().map(service).collect()
    }

    /// `web-0:3306→db@30100`: name, port, target and node port of each Service's first port.
    fn port_texts(plan: &OrdinalServicesPlan) -> Vec<String> {
        let first = |(name, service): &(String, Value)| {
            let port = &service["spec"]["ports"][0];
            let target = port["targetPort"].to_string();
            format!(
                "{name}:{}→{}@{}",
                port["port"],
                target.trim_matches('"'),
                port["nodePort"]
            )
        };
        plan.apply.iter().map(first).collect()
    }

    #[test]
    fn every_ordinal_has_its_port_and_then_nothing_is_left_to_do() {
        let observed = Observed {
            set: set(json!({})),
            services: vec![peers()],
        };
        let first = plan(&observed).unwrap();
        assert_eq!(
            port_texts(&first),
            ["web-0:3306→db@30100", "web-1:3306→db@30101"]
        );
        assert_eq!(
            first.apply[0].1["spec"]["ports"][1]["nodePort"],
            Value::Null
        );
        let mut services = applied(&first);
        services.push(peers());
        let again = planned(&Observed {
            services,
            ..observed
        });
        assert_eq!(again, OrdinalServicesPlan::default());
    }

    #[test]
    fn without_a_governing_service_the_containers_say_the_ports() {
        let ordinals = set(json!({"/spec/replicas": 1}));
        let plan = planned(&Observed {
            set: ordinals,
            services: Vec::new(),
        });
        assert_eq!(port_texts(&plan), ["web-0:6379→6379@30100"]);
    }

    #[test]
    fn surplus_services_go_and_changed_ones_are_put_right() {
        let services = applied(&planned(&Observed {
            set: set(json!({})),
            services: vec![],
        }));
        let moved =
            json!({"/metadata/annotations": {ORDINAL_NODE_PORT: "30200"}, "/spec/replicas": 1});
        let moved = planned(&Observed {
            set: set(moved),
            services: services.clone(),
        });
        assert_eq!(port_texts(&moved), ["web-0:6379→6379@30200"]);
        let deletion = ServiceDeletion {
            name: "web-1".to_owned(),
            uid: "uid-web-1".parse().unwrap(),
        };
        assert_eq!(moved.delete, [deletion]);
        let none = set(json!({"/metadata/annotations": {}}));
        let none = planned(&Observed {
            set: none,
            services,
        });
        assert_eq!((none.apply.len(), none.delete.len()), (0, 2));
    }

    #[test]
    fn what_others_made_is_left_alone_and_said() {
        let theirs = json!({"metadata": {"name": "web-1"}, "spec": {"ports": [{"port": 1}]}});
        let theirs: Service = json_tree::from_value(theirs).unwrap();
        let services = vec![Arc::new(theirs)];
        let plan = planned(&Observed {
            set: set(json!({})),
            services,
        });
        assert_eq!(port_texts(&plan), ["web-0:6379→6379@30100"]);
        let problem = "Service web-1 already exists and does not belong to this set";
        assert_eq!(plan.problem.as_deref(), Some(problem));
        assert_eq!(plan.delete, []);
    }

    #[test]
    fn no_port_to_give_is_said() {
        let containers = "/spec/template/spec/containers";
        let bare = planned(&Observed {
            set: set(json!({containers: []})),
            services: vec![],
        });
        assert!(bare.problem.unwrap().contains("name a port"));
        let high = json!({"/metadata/annotations": {ORDINAL_NODE_PORT: "65535"}});
        let high = planned(&Observed {
            set: set(high),
            services: vec![],
        });
        assert_eq!(port_texts(&high), ["web-0:6379→6379@65535"]);
        assert_eq!(
            high.problem.as_deref(),
            Some("there is no port 65536 for ordinal 1")
        );
    }
}
