//! The kinds whose schemas are known: one line each. A kind that the server gains is added here.

use std::borrow::Cow;

use k8s_openapi::Resource;
use k8s_openapi::api::{
    admissionregistration::v1 as admissionregistration, apps::v1 as apps,
    authentication::v1 as authentication, authorization::v1 as authorization,
    autoscaling::v1 as autoscaling, autoscaling::v2 as autoscaling_v2, batch::v1 as batch,
    certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, networking::v1 as networking,
    node::v1 as node, policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling,
    storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::resource_metrics::{NodeMetrics, PodMetrics};

/// Where references point while schemas are being generated.
pub(crate) const REFERENCE_PREFIX: &str = "#/components/schemas/";

/// A kind and the type that describes it.
pub(crate) struct Root {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    definition: fn() -> Cow<'static, str>,
    generate: fn(&mut SchemaGenerator) -> Schema,
}

impl Root {
    fn of<T: Resource + JsonSchema>() -> Self {
        Self {
            group: T::GROUP,
            version: T::VERSION,
            kind: T::KIND,
            definition: T::schema_name,
            generate: SchemaGenerator::subschema_for::<T>,
        }
    }

    /// The name of the definition, for instance `io.k8s.api.core.v1.Pod`.
    pub fn definition(&self) -> Cow<'static, str> {
        (self.definition)()
    }
}

/// All known kinds.
pub(crate) fn roots() -> Vec<Root> {
    vec![
        Root::of::<admissionregistration::MutatingAdmissionPolicy>(),
        Root::of::<admissionregistration::MutatingAdmissionPolicyBinding>(),
        Root::of::<admissionregistration::MutatingWebhookConfiguration>(),
        Root::of::<admissionregistration::ValidatingAdmissionPolicy>(),
        Root::of::<admissionregistration::ValidatingAdmissionPolicyBinding>(),
        Root::of::<admissionregistration::ValidatingWebhookConfiguration>(),
        Root::of::<apiextensions::CustomResourceDefinition>(),
        Root::of::<apiregistration::APIService>(),
        Root::of::<apps::ControllerRevision>(),
        Root::of::<apps::DaemonSet>(),
        Root::of::<apps::Deployment>(),
        Root::of::<apps::ReplicaSet>(),
        Root::of::<apps::StatefulSet>(),
        Root::of::<authentication::SelfSubjectReview>(),
        Root::of::<authentication::TokenRequest>(),
        Root::of::<authentication::TokenReview>(),
        Root::of::<authorization::LocalSubjectAccessReview>(),
        Root::of::<authorization::SelfSubjectAccessReview>(),
        Root::of::<authorization::SelfSubjectRulesReview>(),
        Root::of::<authorization::SubjectAccessReview>(),
        Root::of::<autoscaling::Scale>(),
        Root::of::<autoscaling::HorizontalPodAutoscaler>(),
        Root::of::<autoscaling_v2::HorizontalPodAutoscaler>(),
        Root::of::<batch::CronJob>(),
        Root::of::<batch::Job>(),
        Root::of::<certificates::CertificateSigningRequest>(),
        Root::of::<coordination::Lease>(),
        Root::of::<core::Binding>(),
        Root::of::<core::ComponentStatus>(),
        Root::of::<core::ConfigMap>(),
        Root::of::<core::Endpoints>(),
        Root::of::<core::Event>(),
        Root::of::<core::LimitRange>(),
        Root::of::<core::Namespace>(),
        Root::of::<core::Node>(),
        Root::of::<core::PersistentVolume>(),
        Root::of::<core::PersistentVolumeClaim>(),
        Root::of::<core::Pod>(),
        Root::of::<core::PodTemplate>(),
        Root::of::<core::ReplicationController>(),
        Root::of::<core::ResourceQuota>(),
        Root::of::<core::Secret>(),
        Root::of::<core::Service>(),
        Root::of::<core::ServiceAccount>(),
        Root::of::<discovery::EndpointSlice>(),
        Root::of::<events::Event>(),
        Root::of::<NodeMetrics>(),
        Root::of::<PodMetrics>(),
        Root::of::<networking::IPAddress>(),
        Root::of::<networking::Ingress>(),
        Root::of::<networking::IngressClass>(),
        Root::of::<networking::NetworkPolicy>(),
        Root::of::<networking::ServiceCIDR>(),
        Root::of::<node::RuntimeClass>(),
        Root::of::<policy::Eviction>(),
        Root::of::<policy::PodDisruptionBudget>(),
        Root::of::<rbac::ClusterRole>(),
        Root::of::<rbac::ClusterRoleBinding>(),
        Root::of::<rbac::Role>(),
        Root::of::<rbac::RoleBinding>(),
        Root::of::<scheduling::PriorityClass>(),
        Root::of::<storage::CSIDriver>(),
        Root::of::<storage::CSINode>(),
        Root::of::<storage::CSIStorageCapacity>(),
        Root::of::<storage::StorageClass>(),
        Root::of::<storage::VolumeAttachment>(),
        Root::of::<storage::VolumeAttributesClass>(),
    ]
}

/// The definitions of all kinds, and of all types that they are made of. A few megabytes: held
/// only while something is built out of them.
pub(crate) fn definitions() -> SchemaGenerator {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.transforms.clear();
    });
    let mut generator = settings.into_generator();
    for root in roots() {
        (root.generate)(&mut generator);
    }
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::Status>();
    generator
}
