//! `serviceaccounts/token`: issues ServiceAccount tokens (TokenRequest).

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, FieldPath, Status, StatusReason};
use resource_kinds::admission::Operation;

use crate::access::tokens::{CLAIM, ISSUER};
use crate::admission::dynamic_admission;
use crate::admission::plugins::admit;
use crate::catalog::registry::Resource;
use crate::handlers::output;
use crate::handlers::writer::Writer;
use crate::http::body::{self, BoxBody};
use crate::http::call::Call;
use crate::http::decode;
use crate::http::reply::Reply;
use crate::objects::metadata;
use crate::objects::storage;
use crate::objects::write_request::{Validation, WriteOptions, WriteRequest};

/// Minimum lifetime of a token, in seconds.
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_DEFAULT: i64 = 3600;
/// Responds to a POST of a TokenRequest.
pub(super) async fn respond(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let bytes = body::read(body, &call.limits).await?;
    let decoded = decode::part(&call.parts.headers, &bytes, "TokenRequest")?;
    if options.validation == Validation::Strict && !decoded.duplicates.is_empty() {
        let text = format!(
            "strict decoding error: duplicate field {:?}",
            decoded.duplicates[0]
        );
        return Err(Status::bad_request(text));
    }
    let mut request = decoded.value;
    let signer = writer.access.tokens.signer().ok_or_else(|| {
        Status::new(
            StatusReason::ServiceUnavailable,
            "this server has no key for tokens",
        )
    })?;
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let stored = writer.objects.must_read(resource, namespace, name).await?;
    let account = storage::decode(resource, &stored)?;
    if request["spec"]["expirationSeconds"].is_null() {
        request["spec"]["expirationSeconds"] = json!(SECONDS_DEFAULT);
    }
    let write_request = WriteRequest::of(call, resource, options);
    admit(
        &writer.admission.plugins,
        &write_request,
        Operation::Create,
        &mut request,
        None,
    )?;
    dynamic_admission::admit_part(writer.admission, &write_request, &mut request).await?;
    let mut request = decode::typed("TokenRequest", request)?;
    let seconds = request["spec"]["expirationSeconds"]
        .as_i64()
        .unwrap_or(SECONDS_DEFAULT);
    check_seconds(seconds, name)?;
    let mut audiences: Vec<String> = request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences = writer.access.tokens.audiences().to_vec();
    }
    let mut bound = json!({
        "namespace": namespace,
        "serviceaccount": {"name": name, "uid": account["metadata"]["uid"]},
    });
    bind(writer, call, &request["spec"]["boundObjectRef"], &mut bound).await?;
    let now = Timestamp::now().as_second();
    let claims = json!({
        "iss": ISSUER,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "aud": audiences,
        "iat": now,
        "nbf": now,
        "exp": now + seconds,
        "jti": uuid::Uuid::new_v4().to_string(),
        CLAIM: bound,
    });
    let end = Timestamp::from_second(now + seconds).unwrap_or(Timestamp::MAX);
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["metadata"] = json!({
        "name": name, "namespace": namespace,
        "creationTimestamp": metadata::time(Timestamp::now()),
    });
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = json!(seconds);
    request["status"] = json!({
        "token": signer.sign(&claims), "expirationTimestamp": metadata::time(end),
    });
    output::outcome(call, &request)
}

fn check_seconds(seconds: i64, name: &str) -> Result<(), Status> {
    let text = if seconds < SECONDS_MIN {
        "may not specify a duration less than 10 minutes"
    } else if seconds > SECONDS_MAX {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let field = FieldPath::root("spec").child("expirationSeconds");
    let error = FieldError::invalid(&field, seconds, text);
    Err(Status::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        name,
        &[error],
    ))
}

/// Adds the bound object to the claims.
async fn bind(
    writer: Writer<'_>,
    call: &Call,
    reference: &Value,
    claims: &mut Value,
) -> Result<(), Status> {
    let Some(kind) = reference["kind"].as_str() else {
        return Ok(());
    };
    let (claim, plural, namespace) = match kind {
        "Pod" => ("pod", "pods", call.info.namespace.as_str()),
        "Secret" => ("secret", "secrets", call.info.namespace.as_str()),
        "Node" => ("node", "nodes", ""),
        other => {
            let text = format!("cannot bind token to object of type {other:?}");
            return Err(Status::bad_request(text));
        }
    };
    let name = reference["name"].as_str().unwrap_or_default();
    let missing = || Status::not_found("", plural, name);
    let resource = writer
        .objects
        .catalog
        .any_version("", plural)
        .ok_or_else(missing)?;
    let stored = writer.objects.must_read(&resource, namespace, name).await?;
    let object = storage::decode(&resource, &stored)?;
    let uid = &object["metadata"]["uid"];
    let requested_uid = reference["uid"].as_str().unwrap_or_default();
    if !requested_uid.is_empty() && *uid != requested_uid {
        let why = format!(
            "the UID in the bound object reference ({requested_uid}) does not match the UID in record. \
             The object might have been deleted and then recreated"
        );
        return Err(Status::conflict("", plural, name, &why));
    }
    if kind == "Pod" && object["spec"]["serviceAccountName"] != call.info.name {
        let text = format!(
            "cannot bind token for serviceaccount {:?} to pod running with different \
             serviceaccount name.",
            call.info.name
        );
        return Err(Status::bad_request(text));
    }
    claims[claim] = json!({"name": name, "uid": uid});
    let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
    if kind == "Pod" && !node.is_empty() {
        claims["node"] = json!({"name": node});
        if let Some(nodes) = writer.objects.catalog.any_version("", "nodes")
            && let Some(stored) = writer.objects.read(&nodes, "", node).await?
        {
            claims["node"]["uid"] = storage::decode(&nodes, &stored)?["metadata"]["uid"].clone();
        }
    }
    Ok(())
}
