//! OpenAPI documents (`/openapi/v2` and `/openapi/v3`): built at the first request, and cached in compressed form.
//! Version 2 also has a protobuf form, which is the only form that kubectl reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use host_kernel::blocking_value;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, ETAG, HeaderValue, LOCATION, VARY};
use http::request::Parts;
use json_tree::{Value, json};
use object_model::{Status, StatusReason};
use openapi_documents::{CustomKind, Schema, v3_hash};
use resource_kinds::KindInfo;

use crate::catalog::etag::etag;
use crate::catalog::remote::RemoteVersion;
use crate::catalog::snapshot::Snapshot;
use crate::http::body::{Unpacked, boxed};
use crate::http::negotiate::clauses;
use crate::http::query::Query;
use crate::http::refusals::unknown_path;
use crate::http::reply::{JSON, Reply, compress};
use crate::http::work;

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The former name of the protobuf form. The name is not a valid media type, but clients still request it.
const PROTOBUF_FORMER: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The encoding of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Encoding {
    Json,
    Protobuf,
}

impl Encoding {
    /// The first encoding of an `Accept` header in which the path has a document; `None` if there is no such
    /// encoding.
    fn accepted(path: &str, accept: Option<&str>) -> Option<Self> {
        let accept = accept.filter(|list| !list.trim().is_empty());
        clauses(accept.unwrap_or(JSON)).find_map(|clause| match clause.media {
            JSON | "*/*" | "application/*" => Some(Self::Json),
            PROTOBUF | PROTOBUF_FORMER if path == "/openapi/v2" => Some(Self::Protobuf),
            _ => None,
        })
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// A compressed document and its `ETag`.
struct Document {
    encoding: Encoding,
    gzip: Bytes,
    /// The length in bytes before compression.
    length: u64,
    etag: String,
    /// The hash in the URL of the document, from the index `/openapi/v3`.
    hash: String,
}

/// The documents that were built so far, by path and encoding.
#[derive(Default)]
pub(crate) struct OpenApi {
    documents: Mutex<BTreeMap<(String, Encoding), Arc<Document>>>,
    /// Lock for building a document: a concurrent request for the document waits and uses the result.
    making: tokio::sync::Mutex<()>,
}

/// Responds to a path below `/openapi`.
///
/// *Errors.* 404 for documents that do not exist, 406 if the client accepts no available form.
pub(crate) async fn respond(
    served: &Arc<Snapshot>,
    path: &str,
    parts: &Parts,
) -> Result<Reply, Status> {
    let path = path.trim_end_matches('/');
    let accept = parts
        .headers
        .get(http::header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    let encoding = Encoding::accepted(path, accept).ok_or_else(|| {
        let text = if path == "/openapi/v2" {
            format!("only the following media types are accepted: {JSON}, {PROTOBUF}")
        } else {
            format!("only the following media types are accepted: {JSON}")
        };
        Status::new(StatusReason::NotAcceptable, text)
    })?;
    // Most documents have megabytes before compression.
    work::expect(usize::MAX).await;
    let document = document(served, path, encoding)
        .await?
        .ok_or_else(unknown_path)?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    match query.get("hash") {
        None => send(&document, parts),
        // The content of a URL with a hash never changes.
        Some(hash) if hash == document.hash => {
            let for_good = HeaderValue::from_static("public, immutable, max-age=31536000");
            Ok(send(&document, parts)?.with_header(CACHE_CONTROL, for_good))
        }
        Some(_) => moved(path, &document.hash),
    }
}

/// 301 to the present URL of the document.
fn moved(path: &str, hash: &str) -> Result<Reply, Status> {
    let location = HeaderValue::from_str(&format!("{path}?hash={hash}"))
        .map_err(|e| Status::internal(format!("name a document: {e}")))?;
    let reply = Reply::bytes("", Bytes::new()).with_code(StatusCode::MOVED_PERMANENTLY);
    Ok(reply.with_header(LOCATION, location))
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
        Reply::bytes(document.encoding.content_type(), document.gzip.clone())
            .with_header(CONTENT_ENCODING, HeaderValue::from_static("gzip"))
    } else {
        work::announce(Unpacked::STATE_BYTES)?;
        let body = boxed(Unpacked::new(document.gzip.clone(), document.length));
        Reply::stream(document.encoding.content_type(), body)
    };
    Ok(reply
        .with_header(ETAG, tag)
        .with_header(VARY, HeaderValue::from_static("Accept-Encoding, Accept")))
}

async fn document(
    served: &Arc<Snapshot>,
    path: &str,
    encoding: Encoding,
) -> Result<Option<Arc<Document>>, Status> {
    let key = (path.to_owned(), encoding);
    let cached = || {
        let documents = served
            .openapi
            .documents
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        documents.get(&key).cloned()
    };
    if let Some(document) = cached() {
        return Ok(Some(document));
    }
    let _lock = served.openapi.making.lock().await;
    if let Some(document) = cached() {
        return Ok(Some(document));
    }
    // Building a document takes tens of milliseconds, so it runs on a thread that serves no other request.
    let (worker, document_path) = (served.clone(), path.to_owned());
    let work = move || make(&worker, &document_path, encoding);
    let document = blocking_value(work)
        .await
        .map_err(|e| Status::internal(format!("make a document: {e}")))?;
    if let Some(document) = &document {
        let mut documents = served
            .openapi
            .documents
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        documents.insert(key, document.clone());
    }
    Ok(document)
}

/// The kinds in the documents: all kinds of this server, and the custom kinds among them.
fn kinds(served: &Snapshot) -> (Vec<KindInfo<'_>>, Vec<CustomKind<'_>>) {
    let custom = served.custom.iter().map(|version| CustomKind {
        info: version.kind.info(),
        schema: &version.schema,
        selectable: version.kind.selectable().selectable_fields(),
    });
    (served.kinds(), custom.collect())
}

/// The document of one group version (`v1`, `apps/v1`), in JSON; `None` if the group version is not served. The call
/// takes tens of milliseconds.
pub(crate) fn v3_document(served: &Snapshot, group_version: &str) -> Option<Vec<u8>> {
    let (kinds, custom) = kinds(served);
    Schema::published().openapi_v3_document(group_version, &kinds, &custom)
}

fn make(served: &Snapshot, path: &str, encoding: Encoding) -> Option<Arc<Document>> {
    let schema = Schema::published();
    let (kinds, custom) = kinds(served);
    let bytes = match path.strip_prefix("/openapi/")? {
        "v2" => match encoding {
            Encoding::Json => schema.openapi_v2_document(&kinds, &custom),
            Encoding::Protobuf => schema.openapi_v2_protobuf(&kinds, &custom),
        },
        "v3" => with_remote(schema.openapi_v3_index(&kinds, &custom), &served.remote),
        other => {
            let group_version = other.strip_prefix("v3/")?;
            let group_version = group_version
                .strip_prefix("apis/")
                .or(group_version.strip_prefix("api/"))?;
            schema.openapi_v3_document(group_version, &kinds, &custom)?
        }
    };
    let etag = etag(&bytes);
    let hash = v3_hash(&bytes);
    Some(Arc::new(Document {
        encoding,
        gzip: compress(&bytes),
        length: bytes.len() as u64,
        etag,
        hash,
    }))
}

/// The index with the documents of extension API servers, which are requested from these servers.
fn with_remote(index: Vec<u8>, remote: &[RemoteVersion]) -> Vec<u8> {
    let documents = remote.iter().filter_map(|one| {
        let query = one.documents.as_ref()?.openapi.as_ref()?;
        let path = format!("apis/{}/{}", one.group, one.version);
        let url = format!("/openapi/v3/{path}{query}");
        Some((path, json!({ "serverRelativeURL": url })))
    });
    let mut documents = documents.peekable();
    if documents.peek().is_none() {
        return index;
    }
    let Ok(mut all) = serde_json::from_slice::<Value>(&index) else {
        return index;
    };
    for (path, document) in documents {
        all["paths"][path.as_str()] = document;
    }
    all.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// kubectl.md 0.10
    #[test]
    fn kubectl_gets_protobuf_of_the_older_document() {
        use Encoding::{Json, Protobuf};
        let cases = [
            (None, Some(Json), Some(Json)),
            (Some(""), Some(Json), Some(Json)),
            (Some("application/json, */*"), Some(Json), Some(Json)),
            (Some(PROTOBUF), Some(Protobuf), None),
            (Some(PROTOBUF_FORMER), Some(Protobuf), None),
            (Some("text/html, */*;q=0.1"), Some(Json), Some(Json)),
            (Some("text/html"), None, None),
        ];
        for (accept, older, newer) in cases {
            assert_eq!(
                Encoding::accepted("/openapi/v2", accept),
                older,
                "{accept:?}"
            );
            assert_eq!(
                Encoding::accepted("/openapi/v3/api/v1", accept),
                newer,
                "{accept:?}"
            );
        }
    }
}
