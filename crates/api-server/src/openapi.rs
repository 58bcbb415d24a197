//! `/openapi/v2` and `/openapi/v3`: documents made when first asked for, kept compressed.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, ETAG, HeaderValue, VARY};
use http::request::Parts;
use object_model::{Status, StatusReason};
use openapi_schema::Schema;
use sha2::{Digest, Sha256};

use crate::reply::{JSON, Reply, compress};
use crate::reviews;
use crate::server::ApiServer;

/// A document, compressed, with its tag.
struct Document {
    gzip: Bytes,
    etag: String,
}

/// The documents made so far, by path.
#[derive(Default)]
pub(crate) struct OpenApi {
    made: Mutex<BTreeMap<String, Arc<Document>>>,
}

/// Answers a path below `/openapi`.
///
/// *Errors.* 404 for documents that do not exist, 406 for a client that only takes protobuf.
pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    path: &str,
    parts: &Parts,
) -> Result<Reply, Status> {
    let accept = parts
        .headers
        .get(http::header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    if !accept.is_none_or(|list| {
        ["json", "*/*", "application/*"]
            .iter()
            .any(|w| list.contains(w))
    }) {
        let text = "only the following media types are accepted: application/json";
        return Err(Status::new(StatusReason::NotAcceptable, text));
    }
    let document = document(server, path.trim_end_matches('/'))
        .await?
        .ok_or_else(|| {
            let text = "the server could not find the requested resource";
            Status::new(StatusReason::NotFound, text)
        })?;
    send(&document, parts)
}

fn send(document: &Document, parts: &Parts) -> Result<Reply, Status> {
    let header = |name| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let tag = HeaderValue::from_str(&document.etag)
        .map_err(|e| Status::internal(format!("make an ETag: {e}")))?;
    if header(http::header::IF_NONE_MATCH).is_some_and(|tags| tags.contains(&document.etag)) {
        let empty = Reply::bytes("", Bytes::new()).with_code(StatusCode::NOT_MODIFIED);
        return Ok(empty.with_header(ETAG, tag));
    }
    let reply = if header(http::header::ACCEPT_ENCODING).is_some_and(|e| e.contains("gzip")) {
        Reply::bytes(JSON, document.gzip.clone())
            .with_header(CONTENT_ENCODING, HeaderValue::from_static("gzip"))
    } else {
        let mut plain = Vec::new();
        GzDecoder::new(document.gzip.as_ref())
            .read_to_end(&mut plain)
            .map_err(|e| Status::internal(format!("unpack a document: {e}")))?;
        Reply::bytes(JSON, plain)
    };
    Ok(reply
        .with_header(ETAG, tag)
        .with_header(VARY, HeaderValue::from_static("Accept-Encoding, Accept")))
}

async fn document(server: &Arc<ApiServer>, path: &str) -> Result<Option<Arc<Document>>, Status> {
    let made = |server: &ApiServer| {
        let made = server
            .openapi
            .made
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        made.get(path).cloned()
    };
    if let Some(document) = made(server) {
        return Ok(Some(document));
    }
    // Some tens of milliseconds of work: not on a thread that serves others.
    let (worker, wanted) = (server.clone(), path.to_owned());
    let task = tokio::task::spawn_blocking(move || make(&worker, &wanted));
    let document = task
        .await
        .map_err(|e| Status::internal(format!("make a document: {e}")))?;
    if let Some(document) = &document {
        let mut made = server
            .openapi
            .made
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        made.insert(path.to_owned(), document.clone());
    }
    Ok(document)
}

fn make(server: &ApiServer, path: &str) -> Option<Arc<Document>> {
    let schema = Schema::published();
    let kinds = [server.registry.infos(), reviews::INFOS].concat();
    let json = match path.strip_prefix("/openapi/")? {
        "v2" => schema.openapi_v2_document(&kinds),
        "v3" => schema.openapi_v3_index(&kinds),
        other => {
            let group_version = other.strip_prefix("v3/")?;
            let group_version = group_version
                .strip_prefix("apis/")
                .or(group_version.strip_prefix("api/"))?;
            schema.openapi_v3_document(group_version, &kinds)?
        }
    };
    let etag = format!("\"{:X}\"", Sha256::digest(&json));
    Some(Arc::new(Document {
        gzip: compress(&[json.into()]),
        etag,
    }))
}
