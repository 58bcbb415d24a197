//! Dynamic admission: mutating and validating webhooks and policies. `admission-rules` decides their matching and
//! their verdicts.
//!
//! Webhooks and policies do not apply to writes of webhook and policy configurations, so that an administrator can
//! always correct an error in a configuration. They also do not apply to the server's own writes at its start, because
//! no webhook can be reached then, and the server must start with any configuration. Policies do not apply to reviews
//! of identity and access.

mod call;
mod registrations;
pub(crate) mod responses;
mod rights;
mod round;

use json_tree::Value;
use object_model::Status;
use resource_kinds::admission::Operation;
use resource_kinds::info::SCALE;

pub(crate) use self::registrations::Admission;

use self::registrations::{MutationStep, Registrations};
use self::round::AdmissionReviewer;
use crate::admission::plugins::admit;
use crate::catalog::registry::Resource;
use crate::http::call::Call;
use crate::http::work;
use crate::objects::write_request::{Validation, WriteOptions, WriteRequest};

/// Whether a webhook or policy applies to the request.
///
/// *Errors.* 500 if the registrations could not be read.
pub(crate) fn concerns(admission: &Admission, request: &WriteRequest<'_>) -> Result<bool, Status> {
    admission.registrations().concern(request)
}

/// Runs the built-in plug-ins, then the mutating policies and webhooks.
///
/// *Errors.* The refusal of any admission; 500 if a webhook with `failurePolicy: Fail` does not
/// respond.
pub(crate) async fn admit_and_change(
    admission: &Admission,
    request: &WriteRequest<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    admit(&admission.plugins, request, operation, object, old)?;
    let registrations = admission.registrations();
    if !registrations.concern(request)? {
        return Ok(());
    }
    // Policy expressions may need much processor time.
    work::expect(usize::MAX).await;
    if is_scale(request) {
        return change_scale(admission, request, &registrations, object, old).await;
    }
    let mut round = AdmissionReviewer::new(admission, request, word(operation), old)?;
    let Some(last) = round.change(registrations.steps(), object).await? else {
        return Ok(());
    };
    // Mutating admission is called again after later changes if its `reinvocationPolicy` requests that.
    request.resource.kind.default(object);
    let changed = object.clone();
    // The webhooks took time; other objects may have changed meanwhile, so the plug-ins read them again.
    let anew = &WriteRequest {
        cached: None,
        ..*request
    };
    admit(&admission.plugins, anew, operation, object, old)?;
    let until = if *object == changed { last } else { usize::MAX };
    let again = registrations.steps().take(until);
    let again = again.filter(MutationStep::is_reinvoked);
    if round.change(again, object).await?.is_some() {
        request.resource.kind.default(object);
    }
    Ok(())
}

/// Runs the validating policies and webhooks.
///
/// *Errors.* As [`admit_and_change`].
pub(crate) async fn validate(
    admission: &Admission,
    request: &WriteRequest<'_>,
    operation: Operation,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let registrations = admission.registrations();
    if !registrations.concern(request)? {
        return Ok(());
    }
    // Policy expressions may need much processor time.
    work::expect(usize::MAX).await;
    let kind = &request.resource.kind;
    let scalable = kind.scalable().filter(|_| is_scale(request));
    let scales = scalable.map(|kind| (kind.scale(object), old.map(|old| kind.scale(old))));
    let (object, old) = match &scales {
        Some((object, old)) => (object, old.as_ref()),
        _ => (object, old),
    };
    let round = AdmissionReviewer::new(admission, request, word(operation), old)?;
    round.judge(&registrations, object).await
}

/// Calls the mutating webhooks for a deletion, which has no object that they could change. Mutating policies do not
/// apply to deletions.
///
/// *Errors.* As [`admit_and_change`].
pub(crate) async fn admit_deletion(
    admission: &Admission,
    request: &WriteRequest<'_>,
    old: &Value,
) -> Result<(), Status> {
    let registrations = admission.registrations();
    if registrations.mutating.is_empty() || !registrations.concern(request)? {
        return Ok(());
    }
    let mut round = AdmissionReviewer::new(admission, request, "DELETE", Some(old))?;
    let changed = round
        .change(registrations.hooks(), &mut Value::Null)
        .await?;
    debug_assert!(changed.is_none());
    Ok(())
}

/// Admits an object that is not stored under its own kind: a Binding, an Eviction, a TokenRequest, a review. Mutations
/// are applied.
///
/// *Errors.* As [`admit_and_change`].
pub(crate) async fn admit_part(
    admission: &Admission,
    request: &WriteRequest<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    admit_all(admission, request, "CREATE", object).await
}

/// Runs all admission for a connection to an object (`exec`, `attach`, `portforward`, `proxy`) with its
/// options.
///
/// *Errors.* 400 for a dry run; otherwise as [`admit_and_change`].
pub(crate) async fn connect(
    admission: &Admission,
    resource: &Resource,
    call: &Call,
    options: &mut Value,
) -> Result<(), Status> {
    if call.query.has("dryRun") {
        return Err(Status::bad_request("dryRun is not supported"));
    }
    let nothing = WriteOptions {
        dry_run: false,
        validation: Validation::Ignore,
    };
    let request = WriteRequest::of(call, resource, nothing);
    admit_all(admission, &request, "CONNECT", options).await
}

async fn admit_all(
    admission: &Admission,
    request: &WriteRequest<'_>,
    operation: &'static str,
    object: &mut Value,
) -> Result<(), Status> {
    let registrations = admission.registrations();
    if !registrations.concern(request)? {
        return Ok(());
    }
    // Policy expressions may need much processor time.
    work::expect(usize::MAX).await;
    let mut round = AdmissionReviewer::new(admission, request, operation, None)?;
    round.name_kind(object);
    change_all(&mut round, &registrations, object).await?;
    round.judge(&registrations, object).await
}

/// Runs mutating admission on the Scale of an object, because webhooks get the Scale and not the object.
async fn change_scale(
    admission: &Admission,
    request: &WriteRequest<'_>,
    registrations: &Registrations,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let kind = &request.resource.kind;
    let Some(scalable) = kind.scalable() else {
        return Ok(());
    };
    let mut scale = scalable.scale(object);
    let before = old.map(|old| scalable.scale(old));
    let mut round = AdmissionReviewer::new(admission, request, "UPDATE", before.as_ref())?;
    if change_all(&mut round, registrations, &mut scale).await? {
        let errors = scalable.set_scale(object, &scale);
        if !errors.is_empty() {
            let (group, _, kind) = kind.info().body(&SCALE);
            return Err(Status::invalid(group, kind, request.name, &errors));
        }
    }
    Ok(())
}

/// Runs all mutating admission, and calls again the webhooks and policies with `reinvocationPolicy: IfNeeded`;
/// returns whether the object changed.
async fn change_all(
    round: &mut AdmissionReviewer<'_>,
    registrations: &Registrations,
    object: &mut Value,
) -> Result<bool, Status> {
    let Some(last) = round.change(registrations.steps(), object).await? else {
        return Ok(false);
    };
    let again = registrations.steps().take(last);
    round
        .change(again.filter(MutationStep::is_reinvoked), object)
        .await?;
    Ok(true)
}

fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
    }
}

fn is_scale(request: &WriteRequest<'_>) -> bool {
    request.subresource == SCALE.name
}
