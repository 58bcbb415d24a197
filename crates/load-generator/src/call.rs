//! One request, as bytes: a response is decoded only as far as necessary.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::BodyExt;
use json_tree::Value;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A request that can be sent.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    uri: String,
    body: Option<(&'static str, Vec<u8>)>,
    /// Whether the call includes the following pages.
    all_pages: bool,
    /// Whether the response is requested in protobuf, as Go's clients do, and not in JSON.
    protobuf: bool,
}

/// The result of a request.
pub struct Reply {
    /// From the first sent to the last received byte; for pages the total.
    pub latency: Duration,
    /// Bytes of the response bodies.
    pub bytes: u64,
}

impl Call {
    pub fn get(uri: String) -> Self {
        Self::new(Method::GET, uri, None)
    }

    pub fn pages(uri: String) -> Self {
        Self {
            all_pages: true,
            ..Self::get(uri)
        }
    }

    pub fn post(uri: String, body: &Value) -> Self {
        Self::with(Method::POST, uri, "application/json", body)
    }

    pub fn put(uri: String, body: &Value) -> Self {
        Self::with(Method::PUT, uri, "application/json", body)
    }

    pub fn merge_patch(uri: String, body: &Value) -> Self {
        Self::with(Method::PATCH, uri, "application/merge-patch+json", body)
    }

    pub fn put_yaml(uri: String, body: String) -> Self {
        Self::new(Method::PUT, uri, Some(("application/yaml", body.into())))
    }

    /// JSON is valid YAML.
    pub fn apply(uri: String, body: &Value) -> Self {
        Self::with(Method::PATCH, uri, "application/apply-patch+yaml", body)
    }

    pub fn delete(uri: String) -> Self {
        Self::new(Method::DELETE, uri, None)
    }

    fn with(method: Method, uri: String, content_type: &'static str, body: &Value) -> Self {
        Self::new(method, uri, Some((content_type, body.to_string().into())))
    }

    fn new(method: Method, uri: String, body: Option<(&'static str, Vec<u8>)>) -> Self {
        Self {
            method,
            uri,
            body,
            all_pages: false,
            protobuf: false,
        }
    }

    /// Requests a response in protobuf.
    pub fn in_protobuf(self) -> Self {
        Self {
            protobuf: true,
            ..self
        }
    }

    /// Sends the request, and reads and discards the response.
    pub async fn send(self, client: &Client) -> Result<Reply> {
        let mut total = Reply {
            latency: Duration::ZERO,
            bytes: 0,
        };
        let mut next = String::new();
        loop {
            let request = self.request(&next)?;
            let started = Instant::now();
            let body = exchange(client, request, self.all_pages, &mut total.bytes).await?;
            total.latency += started.elapsed();
            if self.all_pages {
                let page: Page = serde_json::from_slice(&body).context("a page is no list")?;
                next = page.metadata.next;
            }
            if next.is_empty() {
                return Ok(total);
            }
        }
    }

    /// Sends the request and decodes the response.
    pub async fn json(self, client: &Client) -> Result<Value> {
        self.decoded(client).await
    }

    /// Sends the request and decodes some fields of the response.
    pub async fn decoded<T: DeserializeOwned>(self, client: &Client) -> Result<T> {
        let body = exchange(client, self.request("")?, true, &mut 0).await?;
        serde_json::from_slice(&body).context("the reply is no such JSON")
    }

    fn request(&self, next: &str) -> Result<Request<Body>> {
        let mut uri = self.uri.clone();
        if !next.is_empty() {
            uri.push_str("&continue=");
            uri.push_str(next);
        }
        let mut builder = Request::builder().method(&self.method).uri(uri);
        if self.protobuf {
            builder = builder.header(ACCEPT, PROTOBUF);
        }
        let mut body = Vec::new();
        if let Some((content_type, bytes)) = &self.body {
            builder = builder.header(CONTENT_TYPE, *content_type);
            body.clone_from(bytes);
        }
        builder.body(Body::from(body)).context("make a request")
    }
}

#[derive(Deserialize)]
struct Page {
    metadata: PageMetadata,
}

#[derive(Deserialize)]
struct PageMetadata {
    #[serde(rename = "continue", default)]
    next: String,
}

/// The body of the response; empty unless the body is requested or the response is an error.
async fn exchange(
    client: &Client,
    request: Request<Body>,
    keep: bool,
    bytes: &mut u64,
) -> Result<Vec<u8>> {
    let reply = client.send(request).await?;
    let status = reply.status();
    let mut body = reply.into_body();
    let mut contents = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the reply broke off")?.into_data() {
            *bytes += data.len() as u64;
            if keep || !status.is_success() {
                contents.extend_from_slice(&data);
            }
        }
    }
    if !status.is_success() {
        bail!("{status}: {}", message(&contents));
    }
    Ok(contents)
}

/// The message of an error response, whether it is a `Status` or not.
fn message(body: &[u8]) -> String {
    let status: Option<Value> = serde_json::from_slice(body).ok();
    let status_message = status
        .as_ref()
        .and_then(|status| status["message"].as_str());
    status_message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned)
}

/// A JSON text that must be in the response.
pub fn text<'v>(value: &'v Value, pointer: &str) -> Result<&'v str> {
    let string = value.pointer(pointer).and_then(Value::as_str);
    string.with_context(|| format!("a response has no {pointer}"))
}

/// Whether the server responded that the object does not exist.
pub fn is_not_found(error: &anyhow::Error) -> bool {
    error.to_string().starts_with("404")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_quoted() {
        assert_eq!(message(br#"{"kind":"Status","message":"no"}"#), "no");
        assert_eq!(message(b"bad gateway"), "bad gateway");
    }

    #[test]
    fn a_page_says_whether_another_follows() {
        let next = |text: &str| serde_json::from_str::<Page>(text).unwrap().metadata.next;
        let more = r#"{"kind":"PodList","metadata":{"continue":"abc"},"items":[{}]}"#;
        assert_eq!(next(more), "abc");
        assert_eq!(
            next(r#"{"metadata":{"resourceVersion":"1"},"items":[]}"#),
            ""
        );
    }

    #[test]
    fn a_list_in_protobuf_names_its_form() {
        let call = Call::get("/api/v1/pods".to_owned());
        let accept = |call: &Call| call.request("").unwrap().headers().get(ACCEPT).cloned();
        assert_eq!(accept(&call), None);
        assert_eq!(accept(&call.in_protobuf()).unwrap(), PROTOBUF);
    }

    #[test]
    fn a_continue_token_joins_the_query() {
        let call = Call::pages("/api/v1/pods?limit=5".to_owned());
        let request = call.request("abc").unwrap();
        assert_eq!(request.uri(), "/api/v1/pods?limit=5&continue=abc");
    }
}
