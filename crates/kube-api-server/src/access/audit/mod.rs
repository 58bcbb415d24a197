//! Audit log: one line of JSON per event, with the user, the request and its outcome.
//!
//! The response to a request is sent after its events are written. The policy sets the level of detail. An event of
//! the level `Metadata` has no part of a body, and no header except `User-Agent`.

mod log;
mod policy;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};
use jiff::Timestamp;
use json_tree::{Value, json};

use crate::http::audit_annotations::AuditAnnotations;
use crate::http::body::{BoxBody, BoxError, boxed};
use crate::http::call::Peer;
use crate::http::decode;
use crate::http::request_info::RequestInfo;
use crate::http::user::UserInfo;
use crate::http::work;
use log::Log;
use policy::{AuditLevel, AuditStage, AuditVerdict, Policy};

pub use log::LogOptions;
pub use policy::PolicyError;

/// The error of setting up the audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The log file cannot be opened or written.
    #[error("open the audit log {path}")]
    Log {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// The audit policy and the log file.
#[derive(Debug)]
pub struct Audit {
    policy: Policy,
    log: Mutex<Log>,
}

impl Audit {
    /// Reads a policy (YAML) and opens the log.
    ///
    /// *Errors.* A policy with unknown fields or invalid values; a file that cannot be opened.
    pub fn open(policy: &str, options: LogOptions) -> Result<Self, AuditError> {
        let policy = Policy::parse(policy)?;
        let path = options.path.clone();
        let log = Log::open(options).map_err(|source| AuditError::Log { path, source })?;
        Ok(Self {
            policy,
            log: Mutex::new(log),
        })
    }

    /// Starts the audit record of a request; `None` if the policy records no event for the request.
    pub(crate) fn begin(
        self: &Arc<Self>,
        user: &UserInfo,
        info: &RequestInfo,
        parts: &Parts,
        long: bool,
    ) -> Option<AuditRecord> {
        let verdict = self.policy.verdict(user, info);
        if verdict.level == AuditLevel::None {
            return None;
        }
        let record = AuditRecord {
            audit: self.clone(),
            event: first(user, info, parts, verdict.level),
            records_body: !long && (verdict.level >= AuditLevel::Request || info.verb == "create"),
            verdict,
            long,
            headers: parts.headers.get(CONTENT_TYPE).cloned(),
            body: Arc::default(),
            annotations: Arc::default(),
            done: false,
        };
        record.note(AuditStage::RequestReceived);
        Some(record)
    }

    fn write(&self, event: &Value) {
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = work::block_in_place(|| log.append(&line)) {
            tracing::error!(%error, "the audit log is not written");
        }
    }
}

fn time() -> String {
    Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string()
}

/// The first event of a request, from its headers and attributes.
fn first(user: &UserInfo, info: &RequestInfo, parts: &Parts, level: AuditLevel) -> Value {
    let mut event = json!({
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": level.name(),
        "auditID": uuid::Uuid::new_v4().to_string(),
        "stage": "",
        "requestURI": parts.uri.path_and_query().map_or("", |uri| uri.as_str()),
        "verb": info.verb,
        "user": user.to_json(),
    });
    if let Some(Peer(address)) = parts.extensions.get::<Peer>() {
        event["sourceIPs"] = json!([address.to_string()]);
    }
    if let Some(agent) = parts
        .headers
        .get(USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
    {
        event["userAgent"] = json!(agent);
    }
    if info.is_resource {
        let all = [
            ("resource", &info.resource),
            ("namespace", &info.namespace),
            ("name", &info.name),
            ("apiGroup", &info.group),
            ("apiVersion", &info.version),
            ("subresource", &info.subresource),
        ];
        let attributes = all.into_iter().filter(|(_, text)| !text.is_empty());
        event["objectRef"] = attributes
            .map(|(key, text)| (key.to_owned(), json!(text)))
            .collect();
    }
    event["requestReceivedTimestamp"] = json!(time());
    event
}

/// The audit record of one request. On drop it writes the event of the stage `ResponseComplete`.
pub(crate) struct AuditRecord {
    audit: Arc<Audit>,
    verdict: AuditVerdict,
    event: Value,
    /// Whether the request body is recorded.
    records_body: bool,
    long: bool,
    headers: Option<HeaderValue>,
    body: Arc<Mutex<Vec<u8>>>,
    /// The annotations that admission adds.
    annotations: Arc<AuditAnnotations>,
    done: bool,
}

impl AuditRecord {
    /// Returns the request body; the bytes are copied to the record as they are read, if the policy records bodies.
    pub(crate) fn record_body(&self, body: BoxBody) -> BoxBody {
        if !self.records_body {
            return body;
        }
        boxed(RecordedBody {
            body,
            copy: self.body.clone(),
        })
    }

    /// The annotations of the events, for admission.
    pub(crate) fn annotations(&self) -> Arc<AuditAnnotations> {
        self.annotations.clone()
    }

    /// Records `impersonatedUser` in the event.
    pub(crate) fn acts_as(&mut self, user: &UserInfo) {
        self.event["impersonatedUser"] = user.to_json();
    }

    /// Records the response: status code, content type and body. `None` for a body that is a stream.
    pub(crate) fn record_response(
        &mut self,
        code: u16,
        content_type: &str,
        body: Option<&[Bytes]>,
    ) {
        let whole = || body.map(<[Bytes]>::concat).unwrap_or_default();
        let mut status = json!({"metadata": {}, "code": code});
        if code >= 400 {
            let response: Value = serde_json::from_slice(&whole()).unwrap_or_default();
            for field in ["status", "message", "reason", "details"] {
                if !response[field].is_null() {
                    status[field] = response[field].clone();
                }
            }
        }
        self.event["responseStatus"] = status;
        let decision = if code == 403 { "forbid" } else { "allow" };
        if code != 401 {
            self.event["annotations"] = json!({"authorization.k8s.io/decision": decision});
        }
        if self.records_body {
            self.note_request();
        }
        if self.verdict.level == AuditLevel::RequestResponse && !self.long {
            let header = HeaderValue::from_str(content_type).ok();
            if let Some(object) = self.readable(header.as_ref(), &whole()) {
                self.event["responseObject"] = object;
            }
        }
        if self.long {
            self.note(AuditStage::ResponseStarted);
        } else {
            self.finish();
        }
    }

    /// Records the request object. For a create without a name in the path, at least the name of the object is
    /// recorded.
    fn note_request(&mut self) {
        let body = std::mem::take(&mut *self.body.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(object) = self.readable(self.headers.as_ref(), &body) else {
            return;
        };
        let reference = &mut self.event["objectRef"];
        let name = &object["metadata"]["name"];
        if reference.is_object() && reference["name"].is_null() && name.is_string() {
            reference["name"] = name.clone();
        }
        if self.verdict.level >= AuditLevel::Request {
            self.event["requestObject"] = object;
        }
    }

    fn readable(&self, content_type: Option<&HeaderValue>, bytes: &[u8]) -> Option<Value> {
        let text = content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        // A patch can be any JSON or YAML text.
        let plain = text.contains("json") || text.contains("yaml");
        let mut value: Value = if plain {
            decode::yaml_or_json(bytes)?
        } else {
            let mut headers = HeaderMap::new();
            headers.extend(content_type.map(|value| (CONTENT_TYPE, value.clone())));
            decode::body(&headers, bytes, "").ok()?.value
        };
        if self.verdict.without_managers {
            let items = value["items"].as_array().map_or(0, Vec::len);
            drop_managers(&mut value);
            for at in 0..items {
                drop_managers(&mut value["items"][at]);
            }
        }
        Some(value)
    }

    fn note(&self, stage: AuditStage) {
        if self.verdict.omit.contains(&stage) {
            return;
        }
        let mut event = self.event.clone();
        let has_request = self.verdict.level >= AuditLevel::Request;
        for (key, value) in self.annotations.of_event(has_request) {
            event["annotations"][&key] = json!(value);
        }
        event["stage"] = json!(stage.name());
        event["stageTimestamp"] = json!(time());
        self.audit.write(&event);
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.done, true) {
            self.note(AuditStage::ResponseComplete);
        }
    }

    /// The response header `Audit-ID`, by which the client can find the events.
    pub(crate) fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let id = self.event["auditID"].as_str().unwrap_or_default();
        let value = HeaderValue::from_str(id).ok()?;
        Some((HeaderName::from_static("audit-id"), value))
    }
}

fn drop_managers(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
}

impl Drop for AuditRecord {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A body that is copied to the record while it is read.
struct RecordedBody {
    body: BoxBody,
    copy: Arc<Mutex<Vec<u8>>>,
}

impl Body for RecordedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
            copy.extend_from_slice(data);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
