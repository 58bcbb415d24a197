//! Requests independent of the kind: method, path, query and bytes.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request};
use url::form_urlencoded::Serializer;
use url::{Position, Url};

use crate::error::{Error, Result};

pub(crate) const JSON: &str = "application/json";
/// Media type for the metadata of an object.
pub(crate) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Media type for the metadata of the objects in a list.
pub(crate) const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Media type for objects without the fields that only servers use; for caches. Servers that do not know the parameter
/// ignore it.
pub(crate) const CACHED: &str = "application/json;omit=managedFields";
/// Media type for the metadata of an object; for caches.
pub(crate) const CACHED_METADATA: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1;omit=managedFields";
/// Media type for the metadata of the objects in a list; for caches.
pub(crate) const CACHED_METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1;omit=managedFields";

/// The parameters of a query.
pub(crate) type Query = Serializer<'static, String>;

/// A path with the query parameters that `add` adds.
pub(crate) fn uri(path: &str, add: impl FnOnce(&mut Query)) -> String {
    let mut query = Serializer::for_suffix(format!("{path}?"), path.len() + 1);
    add(&mut query);
    query.finish()
}

/// The path of these segments with a query; both are percent-encoded.
pub(crate) fn encoded_uri(segments: &[&str], query: &[(&str, &str)]) -> String {
    // The host is no part of the result.
    let Ok(mut url) = Url::parse("http://localhost") else {
        return String::new();
    };
    if let Ok(mut path) = url.path_segments_mut() {
        path.extend(segments);
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url[Position::BeforePath..].to_owned()
}

/// The path of an object in its collection, or of a subresource of the object.
pub(crate) fn object_path(collection: &str, name: &str, subresource: &str) -> Result<String> {
    match (name, subresource) {
        ("", _) => Err(Error::NoName),
        (_, "") => Ok(format!("{collection}/{name}")),
        _ => Ok(format!("{collection}/{name}/{subresource}")),
    }
}

/// A GET request for a path with a query.
pub(crate) fn get(uri: String) -> Result<Request<Bytes>> {
    let request = Request::get(uri).body(Bytes::new());
    request.map_err(Error::Request)
}

/// A GET request with an `Accept` header, for a part or another form of the object.
pub(crate) fn get_as(uri: String, accept: Option<&str>) -> Result<Request<Bytes>> {
    let Some(accept) = accept else {
        return get(uri);
    };
    let request = Request::get(uri).header(ACCEPT, accept);
    let request = request.header(CONTENT_TYPE, JSON).body(Bytes::new());
    request.map_err(Error::Request)
}

/// A DELETE request. The client reads no more than the metadata of deleted objects, which the server has in any
/// version.
pub(crate) fn delete(uri: String, accept: &str, options: Vec<u8>) -> Result<Request<Bytes>> {
    let request = Request::delete(uri).header(ACCEPT, accept);
    let request = request.header(CONTENT_TYPE, JSON).body(options.into());
    request.map_err(Error::Request)
}

/// A request with a JSON body: POST or PUT.
pub(crate) fn write(method: Method, uri: String, body: Vec<u8>) -> Result<Request<Bytes>> {
    let request = Request::builder().method(method).uri(uri);
    let request = request.header(CONTENT_TYPE, JSON).body(body.into());
    request.map_err(Error::Request)
}

/// A PATCH request with the media type of the patch.
pub(crate) fn patch(
    uri: String,
    content_type: &str,
    accept: Option<&str>,
    body: Vec<u8>,
) -> Result<Request<Bytes>> {
    let request = Request::patch(uri).header(ACCEPT, accept.unwrap_or(JSON));
    let request = request.header(CONTENT_TYPE, content_type).body(body.into());
    request.map_err(Error::Request)
}
