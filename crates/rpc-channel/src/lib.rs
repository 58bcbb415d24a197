//! A gRPC client and a small gRPC server over hyper's HTTP/2, which the program uses already.
//!
//! A [`Method`] has the path of a call, and the types of its request and its response. The methods and
//! messages of the published protocols are generated (`service-protocols`).

mod channel;
mod error;
pub mod framing;
mod method;
pub mod server;
pub mod unix;

pub use channel::{Channel, ChannelOptions, KeepAlive, Responses, Stream};
pub use error::{Code, RpcError, with_causes};
pub use method::{Method, ResponseDecoder, StreamMethod};
