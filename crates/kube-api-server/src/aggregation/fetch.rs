//! Requests of this server for the documents of an extension API server.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use host_kernel::blocking_value;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use outbound_http::BodyError;
use thiserror::Error;

use crate::aggregation::identity::{self, IdentityError};
use crate::aggregation::remote_service::ServiceTarget;
use crate::catalog::remote::{self, RemoteDocuments};
use crate::http::configured_servers::{CallError, ServerPools};
use crate::http::limits::EXTENSION_DOCUMENT_BYTES_MAX;
use crate::http::user::UserInfo;
use crate::objects::service_client;
use crate::objects::storage::Objects;

/// The maximum time for a document (upstream's value).
const LIMIT: Duration = Duration::from_secs(5);

/// The maximum number of concurrent requests for a discovery document: endpoints of the Service that do not respond
/// must not make the server unavailable (upstream's value).
const ATTEMPTS_MAX: usize = 5;

/// The time after which a further endpoint is tried, while the earlier requests continue.
const STAGGER: Duration = Duration::from_millis(500);

/// The reason why there is no document.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    #[error("failing or missing response from {url}: {reason}")]
    At { url: String, reason: Box<Self> },
    #[error("bad status: {0}")]
    Refused(StatusCode),
    #[error("no response within {} seconds", LIMIT.as_secs())]
    Timeout,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("request: {0}")]
    Request(#[from] http::Error),
}

/// The documents about the group version of a target. `None` if the server responds, but its discovery document is
/// malformed or too large.
///
/// *Errors.* The last error, if no endpoint responds.
pub(super) async fn documents(
    pools: &ServerPools,
    objects: &Objects,
    target: &ServiceTarget,
) -> Result<Option<RemoteDocuments>, FetchError> {
    let Some(list) = discovery(pools, objects, target).await? else {
        return Ok(None);
    };
    // A server without this index has no OpenAPI documents of version 3.
    let index = get(pools, objects, target, "/openapi/v3").await;
    let (group, version) = (target.group.clone(), target.version.clone());
    let parsed =
        blocking_value(move || remote::documents(&group, &version, &list, index.ok().as_deref()));
    Ok(parsed.await.ok().flatten())
}

/// The discovery document of the first endpoint that responds; `None` if it is too large.
async fn discovery(
    pools: &ServerPools,
    objects: &Objects,
    target: &ServiceTarget,
) -> Result<Option<Bytes>, FetchError> {
    let path = target.path();
    let mut attempts = FuturesUnordered::new();
    let mut begun = 0;
    let mut failure = None;
    loop {
        if begun < ATTEMPTS_MAX {
            begun += 1;
            attempts.push(get(pools, objects, target, &path));
        }
        let stagger = tokio::time::sleep(STAGGER);
        let ended = tokio::select! {
            ended = attempts.next() => ended,
            () = stagger, if begun < ATTEMPTS_MAX => continue,
        };
        match ended {
            Some(Ok(document)) => return Ok(Some(document)),
            Some(Err(FetchError::Body(BodyError::TooLong))) => return Ok(None),
            Some(Err(error)) => failure = Some(error),
            None => {
                let reason = Box::new(failure.unwrap_or(FetchError::Timeout));
                let url = target.url(&path);
                return Err(FetchError::At { url, reason });
            }
        }
    }
}

async fn get(
    pools: &ServerPools,
    objects: &Objects,
    target: &ServiceTarget,
    path: &str,
) -> Result<Bytes, FetchError> {
    let mut headers = HeaderMap::new();
    // Every extension API server lets this user read its documents (upstream's name and group).
    let user = UserInfo::new("system:kube-aggregator", ["system:masters"]);
    identity::name_user(&mut headers, &user)?;
    let mut request = Request::get(path)
        .header(header::ACCEPT, "application/json")
        .body(Empty::new().map_err(|never| match never {}).boxed_unsync())?;
    request.headers_mut().extend(headers);
    let exchange = async {
        let destination = target.destination();
        let response = service_client::send(objects, pools, &destination, request).await?;
        match response.status() {
            status if status.is_success() => Ok(response
                .into_body()
                .whole(EXTENSION_DOCUMENT_BYTES_MAX)
                .await?),
            status => Err(FetchError::Refused(status)),
        }
    };
    let outcome = tokio::time::timeout(LIMIT, exchange).await;
    outcome.unwrap_or(Err(FetchError::Timeout))
}
