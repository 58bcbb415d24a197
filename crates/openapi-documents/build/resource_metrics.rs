//! The types of `metrics.k8s.io`, which are not in the published document: the types of metrics-server under their
//! published names. They occur only in responses, and are never stored.

use serde_json::{Map, Value, json};

/// The name of a type's definition.
fn definition_name(name: &str) -> String {
    format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{name}")
}

/// Adds the definitions.
pub(crate) fn add(definitions: &mut Map<String, Value>) {
    let container = definition_name("ContainerMetrics");
    let node = measured("What a node uses of each resource.", "usage", usage());
    let pod = measured(
        "What the containers of a pod use of each resource.",
        "containers",
        json!({
            "description": "What each container that runs uses, in the same window.",
            "type": "array",
            "items": {"$ref": reference(&container)},
            "x-kubernetes-list-type": "atomic",
        }),
    );
    definitions.insert(definition_name("NodeMetrics"), node);
    definitions.insert(definition_name("PodMetrics"), pod);
    definitions.insert(
        container,
        json!({
            "description": "What a container uses of each resource.",
            "type": "object",
            "required": ["name", "usage"],
            "properties": {
                "name": {"description": "The container's name in its pod.", "type": "string"},
                "usage": usage(),
            },
        }),
    );
}

/// A type with the common fields of the metrics of nodes and pods, and one more field.
fn measured(description: &str, name: &str, field: Value) -> Value {
    let metadata = reference("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    let time = reference("io.k8s.apimachinery.pkg.apis.meta.v1.Time");
    json!({
        "description": description,
        "type": "object",
        "properties": {
            "apiVersion": {"description": "The version of the object's form.", "type": "string"},
            "kind": {"description": "The kind of the object.", "type": "string"},
            "metadata": {
                "$ref": metadata,
                "description": "The name and labels of what is measured.",
            },
            "timestamp": {
                "$ref": time,
                "description": "The end of the time in which it was measured.",
            },
            "window": {
                "description": "The length of that time, for instance 10s.",
                "type": "string",
            },
            name: field,
        },
    })
}

fn usage() -> Value {
    json!({
        "description": "Processor time and working set of memory, by resource name.",
        "type": "object",
        "additionalProperties": {
            "$ref": reference("io.k8s.apimachinery.pkg.api.resource.Quantity"),
        },
    })
}

fn reference(definition: &str) -> String {
    format!("{}{definition}", crate::REFERENCE_PREFIX)
}
