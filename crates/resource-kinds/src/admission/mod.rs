//! The built-in admission plug-ins: changes and refusals of a request that depend on other objects.
//! Each is pure over the object and a [`ObjectReader`].

mod certificates;
mod default_tolerations;
mod device_admin_access;
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
mod volume_size;

pub use plugin::{Admission, AdmissionRequest, Operation};
pub use reader::{ObjectReader, ResourceAttributes};

/// All built-in admission plug-ins, in the order in which they run.
pub fn plugins() -> Vec<Box<dyn Admission>> {
    vec![
        Box::new(namespace_lifecycle::NamespaceLifecycle),
        Box::new(node_restriction::NodeRestriction),
        Box::new(provisioner_restriction::ProvisionerRestriction),
        Box::new(service_account::ServiceAccount),
        Box::new(default_tolerations::DefaultTolerationSeconds),
        Box::new(priority::Priority),
        Box::new(limit_ranger::LimitRanger),
        Box::new(storage::DefaultStorageClass),
        Box::new(storage::PersistentVolumeClaimResize),
        Box::new(volume_size::VolumeSize),
        Box::new(runtime_class::RuntimeClass),
        Box::new(device_admin_access::DeviceAdminAccess),
        Box::new(pod_security::PodSecurity),
        Box::new(ordinal_services::OrdinalServices),
        Box::new(certificates::CertificateRequestor),
        Box::new(certificates::CertificateApproval),
        Box::new(certificates::CertificateSigning),
        Box::new(certificates::CertificateSubjectRestriction),
    ]
}
