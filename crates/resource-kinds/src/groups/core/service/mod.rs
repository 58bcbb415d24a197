//! core/v1 Service.

mod allocate;
mod cluster_ip;
mod health_check;
mod table;
mod validate;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::cidr::Cidr;
use object_model::{FieldError, Status, names};

use crate::json::parts;
use crate::kind::cluster::ServiceRange;
use crate::kind::info::{Names, STATUS, namespaced, proxy};
use crate::kind::{
    Allocating, Allocation, AllocationLookup, Kind, KindInfo, Selectable, Words, WriteRules,
};
use crate::printing::{Cell, Column, Printer};

#[derive(Debug)]
pub struct Service {
    ranges: cluster_ip::Ranges,
}

impl Service {
    /// The kind in a cluster with this range of cluster IPs and this range of pods.
    pub fn new(cluster: ServiceRange, pods: Option<Cidr>) -> Self {
        let ranges = cluster_ip::Ranges { cluster, pods };
        Self { ranges }
    }
}

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        create_on_update: true,
        ..WriteRules::ORDINARY
    },

    categories: Words::Fixed(&["all"]),
    subresources: &[proxy("ServiceProxyOptions"), STATUS],
    ..namespaced(Names {
        group: "",
        kind: "Service",
        list_kind: "ServiceList",
        plural: "services",
        singular: "service",
        short: &["svc"],
    })
};

impl Kind for Service {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        parts::fill(spec, "sessionAffinity", "None");
        parts::fill(spec, "type", "ClusterIP");
        if spec["sessionAffinity"] == "None" {
            parts::remove(spec, "sessionAffinityConfig");
        } else if let Some(config) = parts::entry(spec, "sessionAffinityConfig")
            && let Some(client) = parts::entry(config, "clientIP")
        {
            parts::fill(client, "timeoutSeconds", 10_800);
        }
        for port in parts::each(spec, "ports") {
            parts::fill(port, "protocol", "TCP");
            let number = port["port"].clone();
            if matches!(port["targetPort"].as_i64(), Some(0)) {
                parts::remove(port, "targetPort");
            }
            parts::fill(port, "targetPort", number);
        }
        default_policies(spec);
        if object["spec"]["type"] == "LoadBalancer"
            && let Some(balancer) = object.pointer_mut("/status/loadBalancer")
        {
            for ingress in parts::each(balancer, "ingress") {
                if ingress["ip"].is_string() {
                    parts::fill(ingress, "ipMode", "VIP");
                }
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({"loadBalancer": {}}));
        allocate::same_addresses(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        parts::restore(object, old, "status");
        allocate::same_addresses(object, Some(old));
        allocate::drop_with_type(object, old);
        allocate::keep_allocations(object, old);
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        names::dns_1035_label(name)
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate::validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = validate::validate_change(object, old);
        errors.extend(validate::validate(object));
        errors
    }

    fn allocating(&self) -> &dyn Allocating {
        self
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }
}

impl Printer for Service {
    fn columns(&self) -> Vec<Column<'_>> {
        table::COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        table::row(object, now)
    }
}

impl Allocating for Service {
    fn allocate(
        &self,
        object: &mut Value,
        old: Option<&Value>,
        allocated: &dyn AllocationLookup,
    ) -> Result<(), Status> {
        allocate::allocate(self.ranges, object, old, allocated)
    }

    fn has_allocations(&self) -> bool {
        true
    }

    fn allocations(&self, object: &Value) -> Vec<Allocation> {
        allocate::allocations(object)
    }
}

impl Selectable for Service {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let field = match field {
            "spec.clusterIP" => "clusterIP",
            "spec.type" => "type",
            _ => return None,
        };
        Some(
            object["spec"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&["spec.clusterIP", "spec.type"])
    }
}

fn default_policies(spec: &mut Value) {
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if allocate::is_reached_from_outside(spec) {
        parts::fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        parts::fill(spec, "allocateLoadBalancerNodePorts", true);
    }
    if kind != "ExternalName" {
        parts::fill(spec, "internalTrafficPolicy", "Cluster");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_filled_in() {
        let mut object =
            json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "x"}]}});
        let service = Service::new(ServiceRange::default(), None);
        service.default(&mut object);
        let expected = json!({"spec": {
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
                {"port": 81, "targetPort": "x", "protocol": "TCP"}],
            "sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster"}});
        assert_eq!(object, expected);
        service.default(&mut object);
        assert_eq!(object, expected);
    }
}
