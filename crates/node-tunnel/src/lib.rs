//! The tunnel of a node: connections from an API server to the node's own API, over a connection that the
//! node has opened.
//!
//! The node asks a server for [`PATH`] with an upgrade to [`PROTOCOL`]. After the upgrade the roles change:
//! the connection carries HTTP/2, with the server as the client ([`open`]) and the node as the server
//! ([`serve`]). Each request is a CONNECT (RFC 9113, section 8.5) to [`TARGET`], and becomes one connection
//! to the node's port of the kubelet API. A tunnel leads nowhere else.
//!
//! The tunnel itself gives no rights: the connections in it are TLS with the certificates of both ends, as
//! over the network.

mod node;
mod server;

use std::time::Duration;

pub use node::serve;
pub use server::{ConnectError, NodeStream, Tunnel, open};

/// The path at an API server.
pub const PATH: &str = "/mainstay.dev/tunnel";
/// The protocol of the upgrade.
pub const PROTOCOL: &str = "mainstay-tunnel";
/// The only destination in a tunnel: the node's own API.
pub const TARGET: &str = "kubelet:10250";

/// Each end asks the other one whether it is there when nothing has come for this time.
const SILENCE: Duration = Duration::from_secs(5);
/// The tunnel has ended if the answer does not come within this time.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Most connections in a tunnel. Further ones wait.
const STREAMS_MAX: u32 = 256;
/// Most bytes of a connection that wait for its reader.
const STREAM_BYTES: u32 = 256 * 1024;
/// Most bytes of a tunnel that wait for their readers.
const TUNNEL_BYTES: u32 = 4 * 1024 * 1024;
/// Most bytes of a connection that wait for the network.
const UNSENT_BYTES: usize = 64 * 1024;
