//! `scale`: the number of replicas of any kind that has one (kubectl.md 3.1).

use http::StatusCode;
use object_model::Status;
use resource_kinds::{KindInfo, Scope, Verb};
use serde_json::Value;

use crate::body::{self, BoxBody};
use crate::pipeline::Call;
use crate::registry::Resource;
use crate::reply::Reply;
use crate::routing::{not_allowed, unknown_path};
use crate::server::ApiServer;
use crate::verbs::namespace;
use crate::verbs::patch::Patch;
use crate::verbs::update::{Part, update};
use crate::writes::{Attempt, WriteOptions};
use crate::{decode, metadata, output, storage};

/// `autoscaling/v1` Scale, for patches of it.
const SCALE: KindInfo = KindInfo {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    list_kind: "",
    plural: "scales",
    singular: "scale",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: &[],
    subresources: &[],
    storage: "",
};

/// Answers a request for the scale of an object.
pub(super) async fn answer(
    server: &ApiServer,
    resource: &Resource,
    verb: Verb,
    call: &Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    match verb {
        Verb::Get => {
            let stored = server
                .must_read(resource, namespace(resource, call), &call.info.name)
                .await?;
            let scale = scale_of(resource, &storage::decode(resource, &stored)?)?;
            output::value(call, &scale, StatusCode::OK)
        }
        Verb::Update => {
            let bytes = body::read(body, &server.limits).await?;
            let sent = decode::body(&call.parts.headers, &bytes, "Scale")?.value;
            if sent["kind"].as_str().is_some_and(|kind| kind != "Scale") {
                return Err(Status::bad_request("the object provided is not a Scale"));
            }
            write(server, resource, call, "UpdateOptions", &mut |_| {
                Ok(sent.clone())
            })
            .await
        }
        Verb::Patch => {
            let bytes = body::read(body, &server.limits).await?;
            let patch = Patch::parse(call, &bytes)?;
            let mut apply = |scale: &Value| patch.apply(&SCALE, scale);
            write(server, resource, call, "PatchOptions", &mut apply).await
        }
        _ => Err(not_allowed()),
    }
}

async fn write(
    server: &ApiServer,
    resource: &Resource,
    call: &Call,
    options: &str,
    change: &mut (dyn FnMut(&Value) -> Result<Value, Status> + Send),
) -> Result<Reply, Status> {
    let options = WriteOptions::parse(&call.query, options)?;
    let attempt = Attempt::of(call, resource, options);
    let mut apply = |old: &Value| {
        let scale = change(&scale_of(resource, old)?)?;
        let mut object = old.clone();
        let errors = resource.kind.set_scale(&mut object, &scale);
        if !errors.is_empty() {
            return Err(Status::invalid(
                SCALE.group,
                SCALE.kind,
                &call.info.name,
                &errors,
            ));
        }
        for field in ["resourceVersion", "uid"] {
            let given = metadata::text(&scale, field);
            if !given.is_empty() {
                metadata::of(&mut object).insert(field.to_owned(), given.into());
            }
        }
        Ok(object)
    };
    let written = update(server, &attempt, Part::Whole, &mut apply).await?;
    let scale = scale_of(resource, &storage::decode(resource, &written.stored)?)?;
    output::value(call, &scale, StatusCode::OK)
}

fn scale_of(resource: &Resource, object: &Value) -> Result<Value, Status> {
    resource.kind.scale(object).ok_or_else(unknown_path)
}
