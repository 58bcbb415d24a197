//! The tunnel of a node: connections from an API server to the node's kubelet API, over a connection that
//! the node has opened.
//!
//! The node sends a request for [`PATH`] to a server, with an upgrade to [`PROTOCOL`]. After the upgrade
//! the roles change: the connection carries HTTP/2, with the server as the client ([`open`]) and the node
//! as the server ([`serve`]). Each request is a CONNECT (RFC 9113, section 8.5) to [`TARGET`], and becomes
//! one connection to the node's port of the kubelet API. The tunnel has no other destination.
//!
//! The tunnel itself grants no rights: the connections in it use TLS with the certificates of both ends, as
//! over the network.

mod node;
mod server;

use std::time::Duration;

pub use node::serve;
pub use server::{ConnectError, NodeStream, Tunnel, open};

/// The path of the tunnel at an API server.
pub const PATH: &str = "/mainstay.dev/tunnel";
/// The protocol of the upgrade.
pub const PROTOCOL: &str = "mainstay-tunnel";
/// The only destination in a tunnel: the node's kubelet API.
pub const TARGET: &str = "kubelet:10250";

/// If nothing was received for this time, each end sends a ping to the other end.
const SILENCE: Duration = Duration::from_secs(5);
/// The tunnel has ended if the response to a ping does not arrive within this time.
const RESPONSE_LIMIT: Duration = Duration::from_secs(10);
/// Maximum number of connections in a tunnel. Further connections wait.
const STREAMS_MAX: u32 = 256;
/// Maximum bytes of a connection that wait for its reader.
const STREAM_BYTES: u32 = 256 * 1024;
/// Maximum bytes of a tunnel that wait for their readers.
const TUNNEL_BYTES: u32 = 4 * 1024 * 1024;
/// Maximum bytes of a connection that wait for the network.
const UNSENT_BYTES: usize = 64 * 1024;
