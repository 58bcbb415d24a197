//! `binding`: assigns a pod to a node.

use std::sync::Arc;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, FieldPath, Status};
use resource_kinds::FieldRead;
use resource_kinds::admission::copy_topology_labels;

use super::created;
use crate::admission::dynamic_admission;
use crate::catalog::registry::Resource;
use crate::handlers::verbs::update::update;
use crate::handlers::writer::Writer;
use crate::http::body::{self, BoxBody};
use crate::http::call::Call;
use crate::http::decode;
use crate::http::reply::Reply;
use crate::objects::metadata;
use crate::objects::write_request::ObjectPart;
use crate::objects::write_request::{WriteOptions, WriteRequest};

/// The fields of the spec that [`assigned`] reads and sets.
const READS: &[FieldRead] = &[FieldRead {
    name: "spec",
    below: &[field("nodeName"), field("schedulingGates")],
}];

const fn field(name: &'static str) -> FieldRead {
    FieldRead { name, below: &[] }
}

/// Responds to a POST of a Binding.
pub(super) async fn respond(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let bytes = body::read(body, &call.limits).await?;
    let mut binding = decode::part(&call.parts.headers, &bytes, "Binding")?.value;
    check(&binding, &call.info.name)?;
    let request = WriteRequest::of(call, resource, options);
    dynamic_admission::admit_part(writer.admission, &request, &mut binding).await?;
    let binding = decode::typed("Binding", binding)?;
    check(&binding, &call.info.name)?;
    let name = call.info.name.as_str();
    let node = node(writer, &binding).await?;
    let mut change = |old: &Value| assigned(resource, name, old, &binding, node.as_deref());
    update(writer, &request, ObjectPart::Trusted(READS), &mut change).await?;
    created(call)
}

/// The node of a binding; `None` if the node does not exist.
async fn node(writer: Writer<'_>, binding: &Value) -> Result<Option<Arc<Value>>, Status> {
    let Some(nodes) = writer.objects.catalog.any_version("", "nodes") else {
        return Ok(None);
    };
    let name = binding["target"]["name"].as_str().unwrap_or_default();
    let stored = writer.objects.read(&nodes, "", name).await?;
    let node = stored.map(|stored| writer.objects.shared(&nodes, &stored));
    node.transpose()
}

fn check(binding: &Value, name: &str) -> Result<(), Status> {
    let target = FieldPath::root("target");
    let mut errors = Vec::new();
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported(
            &target.child("kind"),
            kind,
            &["Node", "<empty>"],
        ));
    }
    if binding["target"]["name"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
    {
        errors.push(FieldError::required(&target.child("name"), ""));
    }
    let target_name = metadata::text(binding, "name");
    if !target_name.is_empty() && target_name != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({target_name}) does not match the name on the URL ({name})"
        )));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("", "Binding", name, &errors))
    }
}

/// The pod with its node, and with the condition `PodScheduled`.
fn assigned(
    resource: &Resource,
    name: &str,
    old: &Value,
    binding: &Value,
    node: Option<&Value>,
) -> Result<Value, Status> {
    let info = resource.info();
    let refused =
        |why: String| Status::conflict(info.group, &format!("{}/binding", info.plural), name, &why);
    for field in ["uid", "resourceVersion"] {
        let (requested, existing) = (metadata::text(binding, field), metadata::text(old, field));
        if !requested.is_empty() && requested != existing {
            return Err(refused(format!(
                "Precondition failed: {field} in precondition: {requested}, {field} in object meta: \
                 {existing}"
            )));
        }
    }
    if metadata::is_deleting(old) {
        return Err(refused(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        )));
    }
    let present = old["spec"]["nodeName"].as_str().unwrap_or_default();
    if !present.is_empty() {
        return Err(refused(format!(
            "pod {name} is already assigned to node {present:?}"
        )));
    }
    if old["spec"]["schedulingGates"]
        .as_array()
        .is_some_and(|gates| !gates.is_empty())
    {
        return Err(refused(format!(
            "pod {name} has non-empty .spec.schedulingGates"
        )));
    }
    let mut object = old.clone();
    object["spec"]["nodeName"] = binding["target"]["name"].clone();
    if let Some(annotations) = binding["metadata"]["annotations"].as_object() {
        for (key, value) in annotations {
            object["metadata"]["annotations"][key] = value.clone();
        }
    }
    if let Some(node) = node {
        copy_topology_labels(&mut object, node);
    }
    if let Some(status) = object["status"].as_object_mut() {
        // The pod has a node now, so the nomination is obsolete.
        status.remove("nominatedNodeName");
    }
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    if let Value::Array(conditions) = &mut object["status"]["conditions"] {
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(json!({
            "type": "PodScheduled",
            "status": "True",
            "lastTransitionTime": metadata::time(Timestamp::now()),
        }));
    }
    Ok(object)
}
