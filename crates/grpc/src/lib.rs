//! A gRPC client over hyper's HTTP/2, which the program uses already.
//!
//! The messages are bytes here: each user encodes its own with `object_model::protobuf`. The store over
//! etcd, the drivers of volumes and the health checks of containers are the users.

mod channel;
mod error;
pub mod framing;

pub use channel::{Channel, ChannelOptions, KeepAlive, Stream};
pub use error::{Code, RpcError, with_causes};
