//! The decoders of what strangers send, for tests that send them anything. Nothing else uses this.

use http::Method;
use http::header::{ACCEPT, HeaderMap, HeaderValue};
use mvcc_store::Revision;
use serde_json::Value;

use crate::negotiate::Form;
use crate::query::Query;
use crate::request_info::RequestInfo;
use crate::verbs::list::Page;
use crate::{decode, protobuf};

/// A body in JSON.
pub fn json(bytes: &[u8]) -> Option<Value> {
    Some(decode::json(bytes).ok()?.value)
}

/// A body in YAML.
pub fn yaml(bytes: &[u8]) -> Option<Value> {
    Some(decode::yaml(bytes).ok()?.value)
}

/// A body in protobuf.
pub fn protobuf(bytes: &[u8]) -> Option<Value> {
    Some(protobuf::read(bytes).ok()?.value)
}

/// An object in protobuf, if its kind has that form.
pub fn to_protobuf(object: &Value) -> Option<Vec<u8>> {
    protobuf::object(object)
}

/// All that is read of a request but its body: path and query, what it is about, which page of a list,
/// in which form.
pub fn request(target: &str, accept: &str) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = Query::parse(query);
    RequestInfo::new(&Method::GET, path, &query);
    let _refused = Page::parse(&query, Revision(1));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let _refused = (Form::of(&headers, true), Form::of_stream(&headers, false));
    }
}
