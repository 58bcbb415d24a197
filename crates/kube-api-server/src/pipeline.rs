//! The pipeline of a request: limits, authentication, flow control, authorisation, routing.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{ACCEPT_ENCODING, USER_AGENT};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use object_model::{Status, StatusReason};
use tokio::sync::OwnedSemaphorePermit;

use crate::access::audit::AuditRecord;
use crate::access::authorize::authorize;
use crate::access::identity::{Caller, Credentials, authenticate, unauthorized};
use crate::access::impersonation::{self, impersonate};
use crate::flow_control::{ActiveSchema, FlowControl, Seat, WatchPermit};
use crate::handlers::allow_header;
use crate::handlers::metrics::Label;
use crate::http::body::{BoxBody, GuardedBody, Segments, boxed};
use crate::http::call::{ApiResponse, Call, Peer};
use crate::http::connection::Connection;
use crate::http::counted_body::CountedBody;
use crate::http::limits::{UNREAD_FRAME_BYTES, UNREAD_REQUEST_BYTES};
use crate::http::query::Query;
use crate::http::reply::Reply;
use crate::http::request_info::RequestInfo;
use crate::http::unread::UnreadBytes;
use crate::http::user::UserInfo;
use crate::http::warnings::Warnings;
use crate::http::web_socket::WebSocketUpgrade;
use crate::http::work::{self, ScheduledRequest, Tasks};
use crate::routing;
use crate::server::ApiServer;

/// Handles one request. Errors become a `Status`.
pub(crate) fn run(
    server: Arc<ApiServer>,
    request: Request<BoxBody>,
    caller: Caller,
) -> BoxFuture<'static, Response<BoxBody>> {
    let bare = request.method() == Method::HEAD;
    let cost = work::cost_of(request.headers());
    let watched = server.limits.slow_polls.clone();
    let watched = watched.map(|polls| (polls, format!("{} {}", request.method(), request.uri())));
    let (slots, body_watched) = (server.large_request_slots.clone(), watched.clone());
    let responding = async move {
        let response = respond(server, request, caller).await;
        let response = response.map(|body| work::watched_body(body_watched, body));
        // The response to HEAD must have no body: HTTP/2 treats a body as a protocol error and drops the whole
        // response.
        if bare {
            response.map(|_| boxed(Segments::new(Vec::new())))
        } else {
            response
        }
    };
    ScheduledRequest::new(responding.boxed(), cost, &slots, watched).boxed()
}

async fn respond(
    server: Arc<ApiServer>,
    request: Request<BoxBody>,
    caller: Caller,
) -> Response<BoxBody> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let info = Arc::new(RequestInfo::new(&parts.method, parts.uri.path(), &query));
    let encoding = ReplyEncoding::of(&query, &parts);
    let method = parts.method.clone();
    let label = Label::of(&server.objects.catalog.snapshot(), &info);
    let _in_flight = server.metrics.begun(&label);
    let long = info.is_long_running(&query);
    let upgrade = match info.verb == "watch" {
        true => WebSocketUpgrade::from_request(&parts),
        false => Ok(None),
    };

    let mut resources = match admit(&server, &caller, &info, long) {
        Ok(permit) => RequestResources {
            permit,
            ..RequestResources::default()
        },
        Err(status) => {
            server
                .metrics
                .finished(&label, status.code, started.elapsed());
            return Reply::status(&status).into_response();
        }
    };
    let warnings = Arc::new(Warnings::default());
    let request = ParsedRequest {
        info: info.clone(),
        query,
        parts,
        body,
        warnings: warnings.clone(),
    };
    let limit = (!long).then_some(server.limits.request_timeout);
    let mut panicked = None;
    let outcome = {
        // The future is pinned here: a future that is moved into another future needs space in the state of both.
        let work = pin!(handle(&server, request, caller, &mut resources));
        contained(work, limit, &mut panicked).await
    };
    if let Some(panic) = panicked {
        let (method, path) = (method.as_str(), info.path.as_str());
        let (user, panic) = (resources.user.as_str(), panic.as_str());
        tracing::error!(method, path, user, panic, "a request panicked");
    }
    let (outcome, upgrade) = match (outcome, upgrade) {
        (Ok(_), Err(refusal)) => (Err(refusal), None),
        (outcome, upgrade) => (outcome, upgrade.ok().flatten()),
    };
    // Only sending is left. Bytes that wait for the client are counted separately, and must not occupy a seat.
    resources.seat = None;
    let unread = work::announced();
    let mut response = match outcome {
        Ok(ApiResponse::Raw(response)) => {
            resources.note(response.status().as_u16(), None);
            with_count(response, unread, CountedBody::open_ended)
        }
        Ok(ApiResponse::Reply(reply)) => {
            resources.note(reply.code.as_u16(), Some(&reply));
            work::expect(reply.len()).await;
            let reply = encoding.indent(reply);
            let reply = match encoding.gzip {
                true => reply.compressed().await,
                false => reply,
            };
            counted_response(reply, unread)
        }
        Err(status) => {
            let served = server.objects.catalog.snapshot();
            let mut reply = Reply::status(&status);
            let allowed = allow_header::header(&served, &method, &info, &status);
            reply.headers.extend(allowed);
            resources.note(reply.code.as_u16(), Some(&reply));
            counted_response(encoding.indent(reply), unread)
        }
    };
    let id = resources.record.as_ref().and_then(AuditRecord::header);
    response.headers_mut().extend(id);
    response.headers_mut().extend(warnings.headers());
    let flow = resources.flow.iter().flat_map(|flow| flow.headers());
    response.headers_mut().extend(flow);
    let code = response.status().as_u16();
    server.metrics.finished(&label, code, started.elapsed());
    // A watch keeps its permits until its body ends.
    if !resources.is_empty() {
        response = response.map(|body| boxed(GuardedBody::new(body, resources)));
    }
    match upgrade {
        Some(upgrade) if response.status() == StatusCode::OK => {
            upgrade.accept(response, &Tasks(server.limits.slow_polls.clone()))
        }
        _ => response,
    }
}

/// A request that is not authenticated yet.
struct ParsedRequest {
    info: Arc<RequestInfo>,
    query: Query,
    parts: Parts,
    body: BoxBody,
    warnings: Arc<Warnings>,
}

/// The encoding of the reply that a client requests.
#[derive(Clone, Copy)]
struct ReplyEncoding {
    gzip: bool,
    pretty: bool,
}

impl ReplyEncoding {
    fn of(query: &Query, parts: &Parts) -> Self {
        Self {
            gzip: wants_gzip(parts),
            pretty: wants_pretty(query, parts),
        }
    }

    fn indent(self, reply: Reply) -> Reply {
        match self.pretty {
            true => reply.indented(),
            false => reply,
        }
    }
}

/// The response of a reply. The count of a reply in memory is its length; a stream counts its buffered bytes.
fn counted_response(reply: Reply, mut unread: Option<UnreadBytes>) -> Response<BoxBody> {
    let is_whole = reply.segments_of().is_some();
    if let Some(unread) = unread.as_mut().filter(|_| is_whole) {
        unread.settle(reply.len() + UNREAD_FRAME_BYTES);
    }
    let count = match is_whole {
        true => CountedBody::whole,
        false => CountedBody::open_ended,
    };
    with_count(reply.into_response(), unread, count)
}

/// A response whose bytes are counted until the client has read them.
fn with_count(
    response: Response<BoxBody>,
    unread: Option<UnreadBytes>,
    count: fn(BoxBody, UnreadBytes) -> CountedBody,
) -> Response<BoxBody> {
    match unread {
        Some(unread) => response.map(|body| boxed(count(body, unread))),
        None => response,
    }
}

/// The resources of a request, owned until its response ends.
#[derive(Default)]
struct RequestResources {
    /// The authenticated user; empty before authentication.
    user: String,
    /// Permit of an arriving request, or of a watch or stream.
    permit: Option<OwnedSemaphorePermit>,
    /// Permit of the user for a watch or stream.
    share: Option<WatchPermit>,
    flow: Option<Arc<ActiveSchema>>,
    seat: Option<Seat>,
    record: Option<AuditRecord>,
}

impl RequestResources {
    fn is_empty(&self) -> bool {
        self.permit.is_none() && self.share.is_none() && self.record.is_none()
    }

    fn note(&mut self, code: u16, reply: Option<&Reply>) {
        let Some(record) = &mut self.record else {
            return;
        };
        let (kind, body) = match reply {
            Some(reply) => (reply.content_type.as_str(), reply.segments_of()),
            None => ("", None),
        };
        record.record_response(code, kind, body);
    }
}

/// Runs the work with a timeout. A panic becomes a 500 of this request; its text is returned for the log.
async fn contained(
    work: Pin<&mut (dyn Future<Output = Result<ApiResponse, Status>> + Send)>,
    limit: Option<std::time::Duration>,
    panicked: &mut Option<String>,
) -> Result<ApiResponse, Status> {
    let work = AssertUnwindSafe(work).catch_unwind();
    let done = match limit {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(done) => done,
            Err(_) => {
                let text = "Timeout: request did not complete within the allotted timeout";
                return Err(Status::new(StatusReason::Timeout, text));
            }
        },
    };
    done.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        *panicked = Some(text.unwrap_or_default().to_owned());
        Err(Status::internal(
            "the request failed in a way it should not",
        ))
    })
}

async fn handle(
    server: &Arc<ApiServer>,
    request: ParsedRequest,
    caller: Caller,
    resources: &mut RequestResources,
) -> Result<ApiResponse, Status> {
    let ParsedRequest {
        info,
        query,
        mut parts,
        body,
        warnings,
    } = request;
    let local = matches!(caller, Caller::Local(_));
    let credentials = Credentials::of(caller, &parts.headers)?;
    let identity = authenticate(&server.access.tokens, credentials).await;
    count_response(server, identity.as_ref().ok(), &parts)?;
    if let Some(audit) = server.access.audit.get() {
        let nobody = UserInfo::default();
        let (who, long) = (
            identity.as_ref().unwrap_or(&nobody),
            info.is_long_running(&query),
        );
        resources.record = audit.begin(who, &info, &parts, long);
    }
    let body = match &resources.record {
        Some(record) => record.record_body(body),
        None => body,
    };
    let mut user = identity?;
    resources.user.clone_from(&user.name);
    if let Some(connection) = parts.extensions.get::<Connection>()
        && !user.is_anonymous()
    {
        connection.set_authenticated();
    }
    if user.is_anonymous() {
        // Anonymous users may only read the health and the version.
        if !routing::is_public(&info.path) {
            return Err(unauthorized());
        }
    } else if !routing::is_health(&info.path) {
        let mut payer = None;
        if !local {
            if info.is_long_running(&query) {
                resources.share = Some(server.flows.admit_long_running(&user)?);
            }
            payer = server.flows.bodies_of(&user);
        }
        work::sent_by(payer);
        let acts = impersonation::is_requested(&parts.headers);
        user = impersonate(&server.access.authorizer, user, &parts.headers)?;
        if let Some(record) = resources.record.as_mut().filter(|_| acts) {
            record.acts_as(&user);
        }
        impersonation::without_headers(&mut parts.headers);
        if !local {
            wait_for_seats(server, &user, &info, &query, resources).await?;
        }
        if !routing::is_public(&info.path) {
            authorize(&server.access.authorizer, &user, &info)?;
        }
    }
    let call = Call {
        info,
        query,
        user,
        parts,
        limits: server.limits.clone(),
        warnings,
        annotations: resources.record.as_ref().map(AuditRecord::annotations),
    };
    routing::route(server, call, body).await
}

/// Starts the count of response bytes for a request from the network. A request without credentials is counted by
/// address.
///
/// *Errors.* 429 if the sender has too many unread bytes; a connection without credentials is closed.
fn count_response(
    server: &ApiServer,
    user: Option<&UserInfo>,
    parts: &Parts,
) -> Result<(), Status> {
    let Some(connection) = parts.extensions.get::<Connection>() else {
        return Ok(());
    };
    let account = match user.filter(|user| !user.is_anonymous()) {
        Some(user) => {
            let is_exempt = FlowControl::is_exempt(user);
            server
                .unread
                .account(user.sender(), &connection.reader, is_exempt)
        }
        None => {
            let address = parts
                .extensions
                .get::<Peer>()
                .map(|peer| peer.0.to_canonical().to_string());
            let sender = address.unwrap_or_default();
            server.unread.account(&sender, &connection.reader, false)
        }
    };
    let count = account.reserve(UNREAD_REQUEST_BYTES);
    if count.is_err() && user.is_none_or(UserInfo::is_anonymous) {
        connection.close.cancel();
    }
    work::count_response_in(count?);
    Ok(())
}

/// Acquires a permit for a request.
///
/// *Errors.* 429 if no permit is free. Components of this process are not limited here, because clients outside must
/// not starve them; each component limits itself.
fn admit(
    server: &ApiServer,
    caller: &Caller,
    info: &RequestInfo,
    long: bool,
) -> Result<Option<OwnedSemaphorePermit>, Status> {
    if matches!(caller, Caller::Local(_)) || routing::is_public(&info.path) {
        return Ok(None);
    }
    server.flows.admit(long).map(Some)
}

/// Waits for the request's seats at its priority level. A limited request first releases its permit of arriving
/// requests, so that waiting requests do not block arriving requests; an exempt request keeps the permit.
///
/// *Errors.* 429 if no seats are free in time.
async fn wait_for_seats(
    server: &ApiServer,
    user: &UserInfo,
    info: &RequestInfo,
    query: &Query,
    resources: &mut RequestResources,
) -> Result<(), Status> {
    let long = info.is_long_running(query);
    // Streams need no seat, as upstream.
    if long && info.verb != "watch" {
        return Ok(());
    }
    let Some(flow) = server.flows.of(user, info) else {
        return Ok(());
    };
    resources.flow = Some(flow.clone());
    if !long && !flow.is_exempt() {
        resources.permit = None;
    }
    resources.seat = Some(server.flows.seat(flow, user, info, query).await?);
    Ok(())
}

/// Whether JSON is indented: if `?pretty` is set, or the client is curl, wget or a browser.
fn wants_pretty(query: &Query, parts: &Parts) -> bool {
    if let Some(value) = query.get("pretty") {
        return matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = parts.headers.get(USER_AGENT);
    let agent = agent.and_then(|value| value.to_str().ok()).unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|start| agent.starts_with(start))
}

fn wants_gzip(parts: &Parts) -> bool {
    let header = parts
        .headers
        .get(ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok());
    header.is_some_and(|list| {
        list.split(',').any(|entry| {
            let mut words = entry.split(';').map(str::trim);
            words.next() == Some("gzip") && !words.any(|word| word == "q=0")
        })
    })
}
