//! An HTTP request after authentication and authorisation, and its response.

use std::net::IpAddr;
use std::sync::Arc;

use http::Response;
use http::request::Parts;

use crate::http::audit_annotations::AuditAnnotations;
use crate::http::body::BoxBody;
use crate::http::limits::Limits;
use crate::http::query::Query;
use crate::http::reply::Reply;
use crate::http::request_info::RequestInfo;
use crate::http::user::UserInfo;
use crate::http::warnings::Warnings;

pub(crate) struct Call {
    pub(crate) info: Arc<RequestInfo>,
    pub(crate) query: Query,
    pub(crate) user: UserInfo,
    pub(crate) parts: Parts,
    /// Limits on the body, and on the time that a watch has to end.
    pub(crate) limits: Arc<Limits>,
    /// The warnings in the response.
    pub(crate) warnings: Arc<Warnings>,
    /// The annotations of the audit event; `None` if the request has no audit event.
    pub(crate) annotations: Option<Arc<AuditAnnotations>>,
}

/// The address of the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

impl Call {
    /// The address of the client; `None` for a component of this process.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.parts
            .extensions
            .get::<Peer>()
            .map(|Peer(address)| *address)
    }
}

/// The response to a request.
pub(crate) enum ApiResponse {
    Reply(Reply),
    /// The unchanged response of a backend (for example a node).
    Raw(Response<BoxBody>),
}

impl From<Reply> for ApiResponse {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}
