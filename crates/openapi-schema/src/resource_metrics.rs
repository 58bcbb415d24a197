//! The types of `metrics.k8s.io`, which `k8s-openapi` does not have: metrics-server's, under the
//! names that it publishes. They are answers only, never stored.

use std::borrow::Cow;

use k8s_openapi::Resource;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

macro_rules! name {
    ($kind:literal) => {
        concat!("io.k8s.metrics.pkg.apis.metrics.v1beta1.", $kind)
    };
}

/// The usage of a node.
pub(crate) enum NodeMetrics {}

/// The usage of a pod's containers.
pub(crate) enum PodMetrics {}

/// The usage of one container.
enum ContainerMetrics {}

impl Resource for NodeMetrics {
    const API_VERSION: &'static str = "metrics.k8s.io/v1beta1";
    const GROUP: &'static str = "metrics.k8s.io";
    const KIND: &'static str = "NodeMetrics";
    const VERSION: &'static str = "v1beta1";
    const URL_PATH_SEGMENT: &'static str = "nodes";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl Resource for PodMetrics {
    const API_VERSION: &'static str = "metrics.k8s.io/v1beta1";
    const GROUP: &'static str = "metrics.k8s.io";
    const KIND: &'static str = "PodMetrics";
    const VERSION: &'static str = "v1beta1";
    const URL_PATH_SEGMENT: &'static str = "pods";
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl JsonSchema for NodeMetrics {
    fn schema_name() -> Cow<'static, str> {
        name!("NodeMetrics").into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = measured(generator, "What a node uses of each resource.");
        add(&mut schema, "usage", usage(generator));
        schema
    }
}

impl JsonSchema for PodMetrics {
    fn schema_name() -> Cow<'static, str> {
        name!("PodMetrics").into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let text = "What the containers of a pod use of each resource.";
        let mut schema = measured(generator, text);
        let containers = json_schema!({
            "description": "What each container that runs uses, in the same window.",
            "type": "array",
            "items": generator.subschema_for::<ContainerMetrics>(),
            "x-kubernetes-list-type": "atomic",
        });
        add(&mut schema, "containers", containers);
        schema
    }
}

impl JsonSchema for ContainerMetrics {
    fn schema_name() -> Cow<'static, str> {
        name!("ContainerMetrics").into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "What a container uses of each resource.",
            "type": "object",
            "required": ["name", "usage"],
            "properties": {
                "name": {"description": "The container's name in its pod.", "type": "string"},
                "usage": usage(generator),
            },
        })
    }
}

/// The common fields of nodes' and pods' metrics.
fn measured(generator: &mut SchemaGenerator, description: &str) -> Schema {
    let described = |mut schema: Schema, text: &str| {
        schema.insert("description".to_owned(), text.into());
        schema
    };
    let metadata = generator.subschema_for::<ObjectMeta>();
    let time = generator.subschema_for::<Time>();
    json_schema!({
        "description": description,
        "type": "object",
        "properties": {
            "apiVersion": {"description": "The version of the object's form.", "type": "string"},
            "kind": {"description": "The kind of the object.", "type": "string"},
            "metadata": described(metadata, "The name and labels of what is measured."),
            "timestamp": described(time, "The end of the time in which it was measured."),
            "window": {
                "description": "The length of that time, for instance 10s.",
                "type": "string",
            },
        },
    })
}

fn usage(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Processor time and working set of memory, by resource name.",
        "type": "object",
        "additionalProperties": generator.subschema_for::<Quantity>(),
    })
}

fn add(schema: &mut Schema, field: &str, value: Schema) {
    let properties = schema.get_mut("properties");
    if let Some(properties) = properties.and_then(|properties| properties.as_object_mut()) {
        properties.insert(field.to_owned(), value.to_value());
    }
}
