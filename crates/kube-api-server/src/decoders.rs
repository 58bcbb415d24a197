//! The decoders of requests, exported for the fuzzer only.

use std::sync::Arc;

use admission_rules::{Webhook, WebhookVerdict};
use bytes::Bytes;
use certificates::TokenSigner;
use custom_resources::conversion::{Conversion, ReviewVersion};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use json_tree::{Value, json};
use mvcc_store::Revision;
use mvcc_store::embedded::EmbeddedStore;
use tower::ServiceExt;

use crate::admission::dynamic_admission::responses;
use crate::catalog::remote;
use crate::handlers::subresources::proxy;
use crate::handlers::verbs::list::Page;
use crate::http::configured_servers::authorities;
use crate::http::decode;
use crate::http::negotiate::Representation;
use crate::http::protobuf;
use crate::http::query::Query;
use crate::http::request_info::RequestInfo;
use crate::http::user::UserInfo;
use crate::objects::version_conversion::call;
use crate::{ApiServer, Config, LocalService};

/// Decodes a request body in JSON; `None` if it is malformed.
pub fn json(bytes: &[u8]) -> Option<Value> {
    Some(decode::json(bytes).ok()?.value)
}

/// Decodes a request body in YAML; `None` if it is malformed.
pub fn yaml(bytes: &[u8]) -> Option<Value> {
    Some(decode::yaml(bytes).ok()?.value)
}

/// Decodes a request body in Kubernetes' protobuf form; `None` if it is malformed.
pub fn protobuf(bytes: &[u8]) -> Option<Value> {
    Some(protobuf::read(bytes).ok()?.value)
}

/// An object in protobuf; `None` if its kind has no such form.
pub fn to_protobuf(object: &Value) -> Option<Vec<u8>> {
    protobuf::object(object)
}

/// A list that contains an object twice, in protobuf; `None` if the kind has no such form.
pub fn twice_to_protobuf(object: &Value) -> Option<Vec<u8>> {
    let (version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let text = object.to_string();
    let kind = format!("{kind}List");
    let mut list = protobuf::List::new(version, &kind).ok()?;
    for _ in 0..2 {
        list.push(text.as_bytes()).ok()?;
    }
    Some(list.finish(&json!({})).ok()?.concat())
}

/// Parses a request without its body: path and query, request info, page of a list, output format.
pub fn request(target: &str, accept: &str) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = Query::parse(query);
    RequestInfo::new(&Method::GET, path, &query);
    let _refused = Page::parse(&query, Revision(1));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let _refused = (
            Representation::of(&headers, || true),
            Representation::of_stream(&headers, || false),
        );
    }
}

/// Parses the response of a webhook, and returns the changed object; `None` if the request is refused or the response
/// is invalid.
pub fn webhook_response(webhook: &Webhook, bytes: &[u8], object: Value) -> Option<Value> {
    let review = responses::body(bytes).ok()?;
    let response = admission_rules::response(webhook, "u", &review).ok()?;
    match response.verdict {
        WebhookVerdict::Allowed { patch: None } => Some(object),
        WebhookVerdict::Allowed { patch } => {
            let patch = responses::patch(&patch?).ok()?;
            responses::apply(object, &patch).ok()
        }
        WebhookVerdict::Denied(_) => None,
    }
}

/// A complete server over an empty store in memory, for input that several layers decode.
pub struct Server(LocalService);

impl Server {
    /// `None` if the start fails.
    pub async fn start() -> Option<Self> {
        let server = ApiServer::new(Config {
            tokens: Some(Arc::new(TokenSigner::ephemeral().ok()?)),
            ..Config::in_process(EmbeddedStore::in_memory())
        })
        .await
        .ok()?;
        let user = UserInfo::new("fuzzing", ["system:masters"]);
        Some(Self(server.local(user)))
    }

    /// Sends a request; returns the status code after the response body is read to its end.
    pub async fn ask(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> u16 {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(Bytes::copy_from_slice(body)));
        let Ok(request) = request else {
            return 400;
        };
        let Ok(response) = self.0.clone().oneshot(request).await else {
            return 500;
        };
        let code = response.status().as_u16();
        match response.into_body().collect().await {
            Ok(_) => code,
            Err(_) => 500,
        }
    }
}

/// The objects in the response of a conversion webhook to a request with one object; `None` if the response is invalid.
pub fn conversion_response(original: &Value, bytes: &[u8]) -> Option<Vec<Value>> {
    let accept = |version| {
        let conversion = Conversion {
            version,
            uid: "u".parse().ok()?,
            desired_api_version: "example.org/v2",
            objects: std::slice::from_ref(original),
        };
        call::accepted(&conversion, bytes).ok()
    };
    accept(ReviewVersion::V1Beta1);
    accept(ReviewVersion::V1)
}

/// Reads the discovery document of an extension API server, and the same bytes as its index of OpenAPI documents;
/// returns the number of resources.
pub fn extension_discovery(bytes: &[u8]) -> usize {
    let documents = remote::documents("a.example", "v1", bytes, Some(bytes));
    documents.map_or(0, |documents| documents.resources.len())
}

/// Whether the `caBundle` of a webhook configuration contains usable trust anchors.
pub fn webhook_trust(bundle: &str) -> bool {
    authorities(bundle).is_ok()
}

/// The target and port of a proxy request.
pub fn proxied(text: &str) -> Option<(String, String)> {
    proxy::name_and_port(text)
}
