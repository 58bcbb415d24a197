//! The kinds whose schemas are known, one line each. Tests compare the list with the served kinds in both
//! directions.

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
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::facts;
use crate::resource_metrics::{NodeMetrics, PodMetrics};

/// The prefix of references while schemas are generated.
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
        Root::of::<flowcontrol::FlowSchema>(),
        Root::of::<flowcontrol::PriorityLevelConfiguration>(),
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
        Root::of::<resource::DeviceClass>(),
        Root::of::<resource::ResourceClaim>(),
        Root::of::<resource::ResourceClaimTemplate>(),
        Root::of::<resource::ResourceSlice>(),
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
    correct(generator.definitions_mut());
    generator
}

/// The type of any JSON value, which the Rust types call an object.
const ANY_JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";

/// The prefix of types that the published document does not have.
const OWN_TYPES: &str = "io.k8s.metrics.";

/// Makes the definitions require the fields that the published document requires, whatever the Rust types
/// say.
fn correct(definitions: &mut Map<String, Value>) {
    let required = facts::required();
    for (name, definition) in definitions.iter_mut() {
        let Value::Object(definition) = definition else {
            continue;
        };
        if name.starts_with(OWN_TYPES) {
            continue;
        }
        match required.get(name.as_str()) {
            Some(fields) => definition.insert("required".to_owned(), fields.as_slice().into()),
            None => definition.remove("required"),
        };
    }
    if let Some(Value::Object(any)) = definitions.get_mut(ANY_JSON) {
        any.remove("type");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Kinds that the server answers itself, without stored objects, and definitions of other kinds.
    const ELSEWHERE: [(&str, &str); 4] = [
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ("v1", "ComponentStatus"),
        ("metrics.k8s.io/v1beta1", "NodeMetrics"),
        ("metrics.k8s.io/v1beta1", "PodMetrics"),
    ];

    /// A kind that is no longer served must leave this list too. That every served kind has a schema
    /// is a test of the crate.
    #[test]
    fn every_schema_is_of_a_kind_that_is_served() {
        let kinds = resource_kinds::all(&resource_kinds::ClusterConfig::default());
        let stored = kinds.iter().map(|kind| {
            let info = kind.info();
            (info.api_version(), info.kind.to_owned())
        });
        let others = resource_kinds::bodies::kinds().chain(ELSEWHERE);
        let others = others.map(|(version, kind)| (version.to_owned(), kind.to_owned()));
        let known: BTreeSet<(String, String)> = stored.chain(others).collect();
        let listed = roots().into_iter().map(|root| {
            let version = [root.group, root.version].join("/");
            let version = version.trim_start_matches('/');
            (version.to_owned(), root.kind.to_owned())
        });
        assert_eq!(listed.collect::<BTreeSet<_>>(), known);
    }

    /// findings C16: clients with strict types rely on the required fields. A field is required only if its
    /// type has it.
    #[test]
    fn required_fields_are_those_of_the_published_document() {
        let published = facts::required();
        assert!(published.len() > 280);
        let generator = definitions();
        let mut compared = 0;
        for (name, definition) in generator.definitions() {
            let fields = definition.get("required").and_then(Value::as_array);
            let fields = fields.into_iter().flatten().filter_map(Value::as_str);
            let fields: Vec<&str> = fields.collect();
            for field in &fields {
                assert!(
                    definition["properties"].get(field).is_some(),
                    "{name} {field}"
                );
            }
            if !name.starts_with(OWN_TYPES) {
                let wanted = published.get(name.as_str()).cloned().unwrap_or_default();
                assert_eq!(fields, wanted, "{name}");
                compared += usize::from(!fields.is_empty());
            }
        }
        assert!(compared > 200, "{compared}");
        assert_eq!(generator.definitions()[ANY_JSON].get("type"), None);
        let event = &generator.definitions()["io.k8s.api.core.v1.Event"];
        assert_eq!(
            event["required"],
            serde_json::json!(["involvedObject", "metadata"])
        );
    }
}
