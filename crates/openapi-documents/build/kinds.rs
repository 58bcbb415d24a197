//! The kinds with known schemas, one per line. Tests compare the list with the served kinds in both directions.

use std::borrow::Cow;

use k8s_openapi::Resource;
use k8s_openapi::api::{
    admissionregistration::v1 as admissionregistration, apps::v1 as apps,
    authentication::v1 as authentication, authorization::v1 as authorization,
    autoscaling::v1 as autoscaling, autoscaling::v2 as autoscaling_v2, batch::v1 as batch,
    certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, flowcontrol::v1 as flowcontrol,
    networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
    resource::v1 as resource, scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use schemars::{JsonSchema, Schema, SchemaGenerator};

pub(crate) struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// The name of the definition, for instance `io.k8s.api.core.v1.Pod`.
    pub definition: Cow<'static, str>,
    pub generate: fn(&mut SchemaGenerator) -> Schema,
}

impl Kind {
    fn of<T: Resource + JsonSchema>() -> Self {
        Self {
            group: T::GROUP,
            version: T::VERSION,
            kind: T::KIND,
            definition: T::schema_name(),
            generate: SchemaGenerator::subschema_for::<T>,
        }
    }
}

/// All known kinds of `k8s-openapi`.
pub(crate) fn all() -> Vec<Kind> {
    vec![
        Kind::of::<admissionregistration::MutatingAdmissionPolicy>(),
        Kind::of::<admissionregistration::MutatingAdmissionPolicyBinding>(),
        Kind::of::<admissionregistration::MutatingWebhookConfiguration>(),
        Kind::of::<admissionregistration::ValidatingAdmissionPolicy>(),
        Kind::of::<admissionregistration::ValidatingAdmissionPolicyBinding>(),
        Kind::of::<admissionregistration::ValidatingWebhookConfiguration>(),
        Kind::of::<apiextensions::CustomResourceDefinition>(),
        Kind::of::<apiregistration::APIService>(),
        Kind::of::<apps::ControllerRevision>(),
        Kind::of::<apps::DaemonSet>(),
        Kind::of::<apps::Deployment>(),
        Kind::of::<apps::ReplicaSet>(),
        Kind::of::<apps::StatefulSet>(),
        Kind::of::<authentication::SelfSubjectReview>(),
        Kind::of::<authentication::TokenRequest>(),
        Kind::of::<authentication::TokenReview>(),
        Kind::of::<authorization::LocalSubjectAccessReview>(),
        Kind::of::<authorization::SelfSubjectAccessReview>(),
        Kind::of::<authorization::SelfSubjectRulesReview>(),
        Kind::of::<authorization::SubjectAccessReview>(),
        Kind::of::<autoscaling::Scale>(),
        Kind::of::<autoscaling::HorizontalPodAutoscaler>(),
        Kind::of::<autoscaling_v2::HorizontalPodAutoscaler>(),
        Kind::of::<batch::CronJob>(),
        Kind::of::<batch::Job>(),
        Kind::of::<certificates::CertificateSigningRequest>(),
        Kind::of::<coordination::Lease>(),
        Kind::of::<core::Binding>(),
        Kind::of::<core::ComponentStatus>(),
        Kind::of::<core::ConfigMap>(),
        Kind::of::<core::Endpoints>(),
        Kind::of::<core::Event>(),
        Kind::of::<core::LimitRange>(),
        Kind::of::<core::Namespace>(),
        Kind::of::<core::Node>(),
        Kind::of::<core::PersistentVolume>(),
        Kind::of::<core::PersistentVolumeClaim>(),
        Kind::of::<core::Pod>(),
        Kind::of::<core::PodTemplate>(),
        Kind::of::<core::ReplicationController>(),
        Kind::of::<core::ResourceQuota>(),
        Kind::of::<core::Secret>(),
        Kind::of::<core::Service>(),
        Kind::of::<core::ServiceAccount>(),
        Kind::of::<discovery::EndpointSlice>(),
        Kind::of::<events::Event>(),
        Kind::of::<flowcontrol::FlowSchema>(),
        Kind::of::<flowcontrol::PriorityLevelConfiguration>(),
        Kind::of::<networking::IPAddress>(),
        Kind::of::<networking::Ingress>(),
        Kind::of::<networking::IngressClass>(),
        Kind::of::<networking::NetworkPolicy>(),
        Kind::of::<networking::ServiceCIDR>(),
        Kind::of::<node::RuntimeClass>(),
        Kind::of::<policy::Eviction>(),
        Kind::of::<policy::PodDisruptionBudget>(),
        Kind::of::<rbac::ClusterRole>(),
        Kind::of::<rbac::ClusterRoleBinding>(),
        Kind::of::<rbac::Role>(),
        Kind::of::<rbac::RoleBinding>(),
        Kind::of::<resource::DeviceClass>(),
        Kind::of::<resource::ResourceClaim>(),
        Kind::of::<resource::ResourceClaimTemplate>(),
        Kind::of::<resource::ResourceSlice>(),
        Kind::of::<scheduling::PriorityClass>(),
        Kind::of::<storage::CSIDriver>(),
        Kind::of::<storage::CSINode>(),
        Kind::of::<storage::CSIStorageCapacity>(),
        Kind::of::<storage::StorageClass>(),
        Kind::of::<storage::VolumeAttachment>(),
        Kind::of::<storage::VolumeAttributesClass>(),
    ]
}
