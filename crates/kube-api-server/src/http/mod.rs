//! Requests and responses as bytes and headers: independent of the cluster.

pub(crate) mod audit_annotations;
pub(crate) mod body;
pub(crate) mod call;
pub(crate) mod configured_servers;
pub(crate) mod connection;
pub(crate) mod counted_body;
pub(crate) mod decode;
pub(crate) mod frame_batch;
pub(crate) mod limits;
pub(crate) mod negotiate;
pub(crate) mod protobuf;
pub(crate) mod query;
pub(crate) mod refusals;
pub(crate) mod reply;
pub(crate) mod request_info;
pub(crate) mod unread;
pub(crate) mod user;
pub(crate) mod version;
pub(crate) mod warnings;
pub(crate) mod web_socket;
pub(crate) mod work;
