//! The built-in admission plug-ins: changes and refusals of a request that depend on other objects. Each plug-in is a
//! pure function of the object and an [`ObjectReader`].

mod certificates;
mod default_tolerations;
mod device_admin_access;
mod ingress_class;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod ordinal_services;
mod plugin;
mod pod_security;
mod priority;
mod provisioner_restriction;
mod reader;
mod runtime_class;
mod service_account;
mod storage;
#[cfg(test)]
mod testing;
mod topology_labels;
mod volume_size;

pub use plugin::{Admission, AdmissionRequest, Operation};
pub use reader::{ObjectReader, ResourceAttributes};
pub use topology_labels::copy_topology_labels;

/// All built-in admission plug-ins, in the order in which they run.
pub fn plugins() -> Vec<Box<dyn Admission>> {
    vec![
        Box::new(namespace_lifecycle::NamespaceLifecycle),
        Box::new(node_restriction::NodeRestriction),
        Box::new(provisioner_restriction::ProvisionerRestriction),
        Box::new(service_account::ServiceAccount),
        Box::new(topology_labels::PodTopologyLabels),
        Box::new(default_tolerations::DefaultTolerationSeconds),
        Box::new(priority::Priority),
        Box::new(limit_ranger::LimitRanger),
        Box::new(storage::DefaultStorageClass),
        Box::new(storage::PersistentVolumeClaimResize),
        Box::new(volume_size::VolumeSize),
        Box::new(runtime_class::RuntimeClass),
        Box::new(device_admin_access::DeviceAdminAccess),
        Box::new(pod_security::PodSecurity),
        Box::new(ingress_class::DefaultIngressClass),
        Box::new(ordinal_services::OrdinalServices),
        Box::new(certificates::CertificateRequestor),
        Box::new(certificates::CertificateApproval),
        Box::new(certificates::CertificateSigning),
        Box::new(certificates::CertificateSubjectRestriction),
    ]
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::testing::{Objects, request};
    use super::*;
    use crate::groups::core::Pod;
    use crate::kind::Kind;

    fn cluster() -> Objects {
        let limits = json!([{"type": "Container", "default": {"cpu": "2", "memory": "1Gi"},
            "defaultRequest": {"cpu": "1"}}]);
        Objects::default()
            .with("namespaces", json!({"metadata": {"name": "d"}}))
            .with(
                "serviceaccounts",
                json!({"metadata": {"name": "default", "namespace": "d"},
                "imagePullSecrets": [{"name": "s"}]}),
            )
            .with(
                "limitranges",
                json!({"metadata": {"name": "l", "namespace": "d"},
                "spec": {"limits": limits}}),
            )
            .with(
                "priorityclasses",
                json!({"metadata": {"name": "p"}, "value": 5,
                "globalDefault": true}),
            )
            .with(
                "runtimeclasses",
                json!({"metadata": {"name": "r"}, "handler": "r",
                "overhead": {"podFixed": {"cpu": "250m"}},
                "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}]}}),
            )
    }

    /// `statefulset.md` 12.15
    #[test]
    fn an_admitted_pod_has_all_defaults() {
        let limits = json!({"limits": {"memory": "2Gi"}});
        let container = json!({"name": "a", "image": "i", "resources": limits,
            "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 80}}});
        for more in [
            json!({}),
            json!({"hostNetwork": true}),
            json!({"runtimeClassName": "r", "initContainers": [{"name": "b", "image": "i"}]}),
            json!({"resources": {"limits": {"memory": "4Gi"}}}),
            json!({"volumes": [{"name": "v"}], "tolerations": [{"operator": "Exists"}]}),
        ] {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}});
            for (field, value) in more.as_object().unwrap() {
                pod["spec"][field] = value.clone();
            }
            Pod.default(&mut pod);
            for plugin in plugins() {
                let create = request(Operation::Create, "pods");
                plugin.admit(&create, &mut pod, &cluster()).unwrap();
            }
            Pod.default_admitted(&mut pod);
            let mut again = pod.clone();
            Pod.default(&mut again);
            assert_eq!(pod.to_string(), again.to_string());
            assert_ne!(pod["spec"]["volumes"], Value::Null);
            assert_eq!(
                pod["spec"]["containers"][0]["resources"]["requests"]["cpu"],
                "1"
            );
        }
    }
}
