//! `scale`: the number of replicas of any kind that has this sub-resource (kubectl.md 3.1).

use http::StatusCode;
use json_tree::{Map, Value, json};
use object_model::Status;
use openapi_documents::Schema;
use resource_kinds::{KindInfo, Scope, Verb, Words, WriteRules};

use super::stored;
use crate::catalog::registry::Resource;
use crate::handlers::output;
use crate::handlers::verbs::apply::Configuration;
use crate::handlers::verbs::patch::{self, Patch};
use crate::handlers::verbs::update::update;
use crate::handlers::writer::Writer;
use crate::http::body::{self, BoxBody};
use crate::http::call::Call;
use crate::http::decode;
use crate::http::refusals::{not_allowed, unknown_path};
use crate::http::reply::Reply;
use crate::objects::field_managers;
use crate::objects::manager_versions::ManagerVersions;
use crate::objects::metadata;
use crate::objects::storage;
use crate::objects::write_request::ObjectPart;
use crate::objects::write_request::{WriteOptions, WriteRequest};

/// `autoscaling/v1` Scale, as the kind of patches.
const SCALE: KindInfo<'static> = KindInfo {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    list_kind: "",
    plural: "scales",
    singular: "scale",
    short_names: Words::Fixed(&[]),
    categories: Words::Fixed(&[]),
    scope: Scope::Namespaced,
    verbs: &[],
    subresources: &[],
    storage: "",
    writes: WriteRules::ORDINARY,
};

/// Responds to a request for the scale of an object.
pub(super) async fn respond(
    writer: Writer<'_>,
    resource: &Resource,
    verb: Verb,
    call: &Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    match verb {
        Verb::Get => {
            let stored = stored(writer, resource, call).await?;
            let stored = writer.objects.one_in_version(resource, stored).await?;
            let object = storage::decode(resource, &stored)?;
            if let Some(path) = missing_replicas(resource, &object) {
                let text = format!("the spec replicas field {path:?} does not exist");
                return Err(Status::internal(text));
            }
            let scale = scale_of(resource, &object)?;
            output::value(call, &scale, StatusCode::OK)
        }
        Verb::Update => {
            let bytes = body::read(body, &call.limits).await?;
            let sent = decode::part(&call.parts.headers, &bytes, "Scale")?.value;
            metadata::must_name(&sent, &call.info.name)?;
            let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
            write(writer, resource, call, options, &mut |_| Ok(sent.clone())).await
        }
        Verb::Patch => {
            let bytes = body::read(body, &call.limits).await?;
            if patch::is_apply(call) {
                return apply(writer, resource, call, &bytes).await;
            }
            let mut patch = Patch::parse(call, &bytes)?;
            let options = WriteOptions::parse_patch(&call.query, false)?;
            let mut apply = |scale: &Value| patch.apply(Schema::published(), &SCALE, scale);
            write(writer, resource, call, options, &mut apply).await
        }
        _ => Err(not_allowed()),
    }
}

async fn write(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    options: WriteOptions,
    change: &mut (dyn FnMut(&Value) -> Result<Value, Status> + Send),
) -> Result<Reply, Status> {
    let request = WriteRequest {
        metadata_only: false,
        ..WriteRequest::of(call, resource, options)
    };
    let mut apply = |old: &Value| {
        let scale = change(&scale_of(resource, old)?)?;
        if call.info.verb == "patch"
            && scale["spec"]["replicas"].is_null()
            && let Some(path) = missing_replicas(resource, old)
        {
            let text = format!("the spec replicas field {path:?} cannot be empty");
            return Err(Status::bad_request(text));
        }
        let mut object = old.clone();
        set_scale(resource, &mut object, &scale, &call.info.name)?;
        for field in ["resourceVersion", "uid"] {
            let value = metadata::text(&scale, field);
            if !value.is_empty() {
                metadata::of(&mut object).insert(field.to_owned(), value.into());
            }
        }
        Ok(object)
    };
    let written = update(writer, &request, ObjectPart::Whole, &mut apply).await?;
    let scale = scale_of(resource, &storage::decode(resource, &written.stored)?)?;
    output::value(call, &scale, StatusCode::OK)
}

/// Server-side apply of a Scale: applies the replica count to the object.
async fn apply(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    bytes: &[u8],
) -> Result<Reply, Status> {
    let options = WriteOptions::parse_patch(&call.query, true)?;
    let config = Configuration::parse(bytes, "autoscaling/v1", SCALE.kind, options.validation)?;
    call.warnings.add(config.warnings);
    let request = WriteRequest {
        applied: true,
        metadata_only: false,
        ..WriteRequest::of(call, resource, options)
    };
    let force = call.query.flag("force");
    let scale = &config.value;
    let configuration = configuration_of(resource, scale);
    let versions = ManagerVersions::default();
    let mut merge = |old: &Value| {
        // This call only reports the errors of the Scale itself.
        set_scale(resource, &mut old.clone(), scale, &call.info.name)?;
        let merged = field_managers::merge(
            &writer.objects.catalog,
            &request,
            ObjectPart::Whole,
            &configuration,
            Some(old),
            force,
            &versions,
        );
        match versions.is_incomplete() {
            true => Err(Status::internal("the object is not converted yet")),
            false => merged,
        }
    };
    let written = loop {
        let written = update(writer, &request, ObjectPart::Whole, &mut merge).await;
        if !versions.complete(writer.objects, resource).await? {
            break written?;
        }
    };
    let scale = scale_of(resource, &storage::decode(resource, &written.stored)?)?;
    output::value(call, &scale, StatusCode::OK)
}

/// The fields of a Scale as an apply configuration of the scaled object: the identity and the replica count.
fn configuration_of(resource: &Resource, scale: &Value) -> Value {
    let pick = |part: &str, fields: &[&str]| -> Map<String, Value> {
        let entries = fields.iter().filter_map(|field| {
            let value = scale[part].get(*field)?;
            Some(((*field).to_owned(), value.clone()))
        });
        entries.collect()
    };
    let info = resource.info();
    json!({
        "apiVersion": info.api_version(),
        "kind": info.kind,
        "metadata": pick("metadata", &["name", "namespace", "uid", "resourceVersion"]),
        "spec": pick("spec", &["replicas"]),
    })
}

fn set_scale(
    resource: &Resource,
    object: &mut Value,
    scale: &Value,
    name: &str,
) -> Result<(), Status> {
    let scalable = resource.kind.scalable().ok_or_else(unknown_path)?;
    let errors = scalable.set_scale(object, scale);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(SCALE.group, SCALE.kind, name, &errors))
    }
}

/// The path of the desired number of replicas, if the object does not have that field.
fn missing_replicas<'r>(resource: &'r Resource, object: &Value) -> Option<&'r str> {
    resource.kind.scalable()?.missing_replicas(object)
}

/// The Scale of an object. A desired count of 0 is the zero value of `spec.replicas` and is omitted.
fn scale_of(resource: &Resource, object: &Value) -> Result<Value, Status> {
    let scalable = resource.kind.scalable().ok_or_else(unknown_path)?;
    let mut scale = scalable.scale(object);
    if scale["spec"]["replicas"] == 0
        && let Some(spec) = scale["spec"].as_object_mut()
    {
        spec.shift_remove("replicas");
    }
    Ok(scale)
}
