//! APIService objects of the served groups and versions (`kubectl get apiservices`), created and deleted together
//! with the group versions. An APIService of a user, which names an extension API server, stays.

use std::collections::BTreeSet;

use json_tree::Value;
use object_model::{Status, StatusReason};
use resource_kinds::apiregistration::local_service;
use resource_kinds::labels::API_SERVICE_AUTOMANAGED;

use crate::aggregation::state::{GROUP, PLURAL};
use crate::bootstrap::{ensure, this_server, write_request};
use crate::handlers::verbs::delete::{DeleteOptions, delete};
use crate::handlers::verbs::update::update;
use crate::handlers::writer::Writer;
use crate::objects::metadata;
use crate::objects::storage::reading;
use crate::objects::write_request::ObjectPart;
use crate::server::StartError;

/// Creates missing APIServices and removes obsolete ones that the server created.
///
/// *Errors.* The errors of the writes; existing objects stay.
pub(crate) async fn follow(writer: Writer<'_>) -> Result<(), Status> {
    // The lock serialises concurrent calls, which would create the same object.
    let _lock = writer.objects.catalog.definitions.lock().await;
    let served = writer.objects.catalog.snapshot();
    let Some(resource) = served.registry.any_version(GROUP, PLURAL) else {
        return Ok(());
    };
    let user = this_server();
    let versions: BTreeSet<(&str, &str)> = served
        .registry
        .resources()
        .map(|resource| (resource.info().group, resource.info().version))
        .collect();
    let desired: Vec<Value> = versions
        .into_iter()
        .map(|(group, version)| local_service(group, version))
        .collect();
    let existing = reading(writer.objects, |reads| Ok(reads.all(GROUP, PLURAL, "")))?;
    let is_there = |list: &[Value], object: &Value| {
        let name = metadata::text(object, "name");
        list.iter()
            .any(|other| metadata::text(other, "name") == name)
    };
    for object in desired.iter().filter(|object| !is_there(&existing, object)) {
        match ensure(writer, &user, object).await {
            Err(StartError::DefaultObject { source, .. }) => return Err(source),
            Err(error) => return Err(Status::internal(error.to_string())),
            Ok(()) => {}
        }
    }
    let ours = |object: &&Value| object["metadata"]["labels"][API_SERVICE_AUTOMANAGED] == "true";
    for object in existing.iter().filter(ours) {
        let request = write_request(&resource, &user, "", metadata::text(object, "name"));
        if is_there(&desired, object) {
            if object["spec"]["service"].is_object() {
                let mut local = |there: &Value| Ok(without_service(there));
                update(writer, &request, ObjectPart::Whole, &mut local).await?;
            }
            continue;
        }
        match delete(writer, &request, &DeleteOptions::default()).await {
            Err(status) if status.reason != StatusReason::NotFound => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// An APIService that the server maintains, as the server creates it: a user who wants another server for the group
/// version removes the label.
fn without_service(there: &Value) -> Value {
    let mut object = there.clone();
    if let Some(spec) = object["spec"].as_object_mut() {
        for field in ["service", "caBundle", "insecureSkipTLSVerify"] {
            spec.remove(field);
        }
    }
    object
}
