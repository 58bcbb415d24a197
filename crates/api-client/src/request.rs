//! Requests without their kind: method, path, query and bytes.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request};
use url::form_urlencoded::Serializer;

use crate::error::{Error, Result};

pub(crate) const JSON: &str = "application/json";
/// The metadata of an object.
pub(crate) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// The metadata of a list's objects.
pub(crate) const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Whole objects for caches, without the fields that only servers use. Servers that do not know the
/// parameter ignore it.
pub(crate) const CACHED: &str = "application/json;omit=managedFields";
/// The metadata of objects for caches.
pub(crate) const CACHED_METADATA: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1;omit=managedFields";
/// The metadata of a list's objects for caches.
pub(crate) const CACHED_METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1;omit=managedFields";

/// The pairs of a query.
pub(crate) type Query = Serializer<'static, String>;

/// A path with the query that `add` writes.
pub(crate) fn uri(path: &str, add: impl FnOnce(&mut Query)) -> String {
    let mut query = Serializer::for_suffix(format!("{path}?"), path.len() + 1);
    add(&mut query);
    query.finish()
}

/// The path of an object in its collection, and of its subresource.
pub(crate) fn object_path(collection: &str, name: &str, subresource: &str) -> Result<String> {
    match (name, subresource) {
        ("", _) => Err(Error::NoName),
        (_, "") => Ok(format!("{collection}/{name}")),
        _ => Ok(format!("{collection}/{name}/{subresource}")),
    }
}

/// A GET request for a path with its query.
pub(crate) fn get(uri: String) -> Result<Request<Bytes>> {
    let request = Request::get(uri).body(Bytes::new());
    request.map_err(Error::Request)
}

/// A GET request with an `Accept` header: for a part of the object, or another form.
pub(crate) fn get_as(uri: String, accept: Option<&str>) -> Result<Request<Bytes>> {
    let Some(accept) = accept else {
        return get(uri);
    };
    let request = Request::get(uri).header(ACCEPT, accept);
    let request = request.header(CONTENT_TYPE, JSON).body(Bytes::new());
    request.map_err(Error::Request)
}

/// A request that sends JSON: POST, PUT or DELETE.
pub(crate) fn write(method: Method, uri: String, body: Vec<u8>) -> Result<Request<Bytes>> {
    let request = Request::builder().method(method).uri(uri);
    let request = request.header(CONTENT_TYPE, JSON).body(body.into());
    request.map_err(Error::Request)
}

/// A PATCH request with the patch's media type.
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
