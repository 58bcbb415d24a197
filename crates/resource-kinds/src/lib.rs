//! The kinds of API objects: names, defaults, validation, table columns. The crate has one trait, one folder per API
//! group, one file per kind, and one list ([`all`]). Pure: no I/O, no clock.

pub mod admission;
pub mod bootstrap;
pub mod configuration;
mod groups;
mod identity;
mod json;
mod kind;
pub mod pod_view;
mod printing;
pub mod quota;
mod validation;
mod well_known;

use std::sync::Arc;

pub use admission::{ObjectReader, ResourceAttributes};
pub use groups::core::{bootstrap_token, node_conditions, pod_references, volume_fit};
pub use groups::{
    admissionregistration, apiregistration, apps, autoscaling, batch, bodies, certificates,
    coordination, core, discovery, events, flowcontrol, networking, node, policy, rbac, resource,
    scheduling, snapshot, stateful_set_policy, storage, storagemigration,
};
pub use identity::MetadataIdentity;
pub use json::api_types;
pub use json::decode::DecodeError;
pub use json::object_meta::{decode_object_meta, repair_object_meta, unknown_object_meta_fields};
pub use kind::cluster::{ClusterConfig, ServiceRange};
pub use kind::info;
pub use kind::{
    Allocating, Allocation, AllocationLookup, AllocationRefusal, Body, Deletion, FieldRead, Kind,
    KindInfo, PodRanges, PodRangesError, Scalable, Scope, Selectable, Siblings, StatusUpdate,
    Subresource, SubresourceUpdate, Verb, Words, WriteRules,
};

pub use printing::{Cell, Column, Printer, table};
pub use validation::mainstay_annotations;
pub use validation::metadata::{validate_embedded_metadata, validate_labels_and_annotations};
pub use well_known::node_accounts::{NODE_NAME_EXTRA, NodeAccount};
pub use well_known::{annotations, labels, limits, namespaces, reasons, sysctls};

/// All kinds that the cluster serves.
pub fn all(config: &ClusterConfig) -> Vec<Arc<dyn Kind>> {
    vec![
        Arc::new(core::ConfigMap),
        Arc::new(core::Endpoints),
        Arc::new(core::Event),
        Arc::new(core::LimitRange),
        Arc::new(core::Namespace),
        Arc::new(core::Node::new(config.pod_ranges)),
        Arc::new(core::PersistentVolume),
        Arc::new(core::PersistentVolumeClaim),
        Arc::new(core::Pod),
        Arc::new(core::PodTemplate),
        Arc::new(core::ReplicationController),
        Arc::new(core::ResourceQuota),
        Arc::new(core::Secret),
        Arc::new(core::Service::new(
            config.service_range,
            config.pod_ranges.map(PodRanges::cluster),
        )),
        Arc::new(core::ServiceAccount),
        Arc::new(admissionregistration::MutatingAdmissionPolicy),
        Arc::new(admissionregistration::PolicyBinding::Mutating),
        Arc::new(admissionregistration::WebhookConfiguration::Mutating),
        Arc::new(admissionregistration::ValidatingAdmissionPolicy),
        Arc::new(admissionregistration::PolicyBinding::Validating),
        Arc::new(admissionregistration::WebhookConfiguration::Validating),
        Arc::new(apiregistration::APIService),
        Arc::new(apps::ControllerRevision),
        Arc::new(apps::DaemonSet),
        Arc::new(apps::Deployment),
        Arc::new(apps::ReplicaSet),
        Arc::new(apps::StatefulSet),
        Arc::new(autoscaling::HorizontalPodAutoscaler),
        Arc::new(autoscaling::HorizontalPodAutoscalerV1),
        Arc::new(batch::CronJob),
        Arc::new(batch::Job),
        Arc::new(certificates::CertificateSigningRequest),
        Arc::new(coordination::Lease),
        Arc::new(discovery::EndpointSlice),
        Arc::new(events::Event),
        Arc::new(flowcontrol::FlowSchema),
        Arc::new(flowcontrol::PriorityLevelConfiguration),
        Arc::new(networking::IPAddress),
        Arc::new(networking::Ingress),
        Arc::new(networking::IngressClass),
        Arc::new(networking::NetworkPolicy),
        Arc::new(networking::ServiceCIDR),
        Arc::new(node::RuntimeClass),
        Arc::new(policy::PodDisruptionBudget),
        Arc::new(rbac::ClusterRole),
        Arc::new(rbac::ClusterRoleBinding),
        Arc::new(rbac::Role),
        Arc::new(rbac::RoleBinding),
        Arc::new(resource::DeviceClass),
        Arc::new(resource::ResourceClaim),
        Arc::new(resource::ResourceClaimTemplate),
        Arc::new(resource::ResourceSlice),
        Arc::new(scheduling::PriorityClass),
        Arc::new(storage::CSIDriver),
        Arc::new(storage::CSINode),
        Arc::new(storage::CSIStorageCapacity),
        Arc::new(storage::StorageClass),
        Arc::new(storage::VolumeAttachment),
        Arc::new(storage::VolumeAttributesClass),
        Arc::new(storagemigration::StorageVersionMigration),
    ]
}
