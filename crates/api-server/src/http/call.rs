//! An HTTP request after authentication and authorisation, and the answer to it.

use std::net::IpAddr;
use std::sync::Arc;

use http::Response;
use http::request::Parts;

use crate::http::body::BoxBody;
use crate::http::limits::Limits;
use crate::http::query::Query;
use crate::http::reply::Reply;
use crate::http::request_info::RequestInfo;
use crate::http::user::UserInfo;
use crate::http::warnings::Warnings;

/// A request that has passed authentication and authorisation.
pub(crate) struct Call {
    pub(crate) info: Arc<RequestInfo>,
    pub(crate) query: Query,
    pub(crate) user: UserInfo,
    pub(crate) parts: Parts,
    /// Bounds on the body and on the time that a watch takes to end.
    pub(crate) limits: Arc<Limits>,
    /// The warnings for the client.
    pub(crate) warnings: Arc<Warnings>,
}

/// The address of the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

impl Call {
    /// The address that the request comes from; `None` for a part of the own process.
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
    /// A backend's response, forwarded unchanged (a node's).
    Raw(Response<BoxBody>),
}

impl From<Reply> for ApiResponse {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}
