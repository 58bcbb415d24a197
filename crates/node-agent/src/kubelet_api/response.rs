//! Request targets, response bodies and errors that all paths of the API share.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use object_model::{Status, Uid};
use process_telemetry::prometheus::{CONTENT_TYPE, Page};
use resource_kinds::MetadataIdentity;

use crate::pods::pod_manager::{PodManager, PodView};

/// Any error, for bodies and services.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or a response.
pub type BoxBody = UnsyncBoxBody<Bytes, BoxError>;

/// The container that a request is about.
pub(super) struct RequestTarget<'a> {
    pub(super) ns: &'a str,
    pub(super) pod: &'a str,
    pub(super) container: &'a str,
}

impl RequestTarget<'_> {
    pub(super) fn find(&self, pods: &PodManager) -> Result<Arc<PodView>, Box<Status>> {
        let pod = pods.find(self.ns, self.pod);
        pod.ok_or_else(|| {
            let message = format!("pod \"{}\" is not on this node", self.pod);
            error_status(StatusCode::NOT_FOUND, &message)
        })
    }
}

/// The UID of a pod of this node.
pub(super) fn uid_of(view: &PodView) -> Result<Uid, Box<Status>> {
    let uid = view.pod.metadata.object_uid();
    uid.map_err(|error| error_status(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
}

pub(super) fn error_status(code: StatusCode, message: &str) -> Box<Status> {
    Box::new(match code {
        StatusCode::NOT_FOUND => status(object_model::StatusReason::NotFound, message),
        StatusCode::INTERNAL_SERVER_ERROR => {
            status(object_model::StatusReason::InternalError, message)
        }
        _ => status(object_model::StatusReason::BadRequest, message),
    })
}

pub(super) fn status(reason: object_model::StatusReason, message: &str) -> Status {
    Status::new(reason, message)
}

pub(super) fn error_response(status: &Status) -> Response<BoxBody> {
    let bytes = status.to_json().to_string().into_bytes();
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

pub(super) fn text(text: String) -> Response<BoxBody> {
    Response::new(full(text.into_bytes()))
}

/// A response in Prometheus' text format.
pub(super) fn metrics(page: Page) -> Response<BoxBody> {
    let mut response = text(page.text());
    let kind = header::HeaderValue::from_static(CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

pub(super) fn full(bytes: impl Into<Bytes>) -> BoxBody {
    http_body_util::Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}
