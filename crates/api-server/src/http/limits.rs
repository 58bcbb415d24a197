//! Limits on requests and connections.

use std::sync::Arc;
use std::time::Duration;

use connection_limits::ShareBounds;
use process_telemetry::SlowPolls;

/// Bounds on connections and requests. The defaults suit one machine.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest request body, in bytes; as etcd's limit on objects with some room, like upstream.
    pub body_bytes_max: usize,
    /// A body must have arrived within this time.
    pub body_timeout: Duration,
    /// The head of a request must have arrived within this time.
    pub header_timeout: Duration,
    /// A TLS handshake must be over within this time.
    pub handshake_timeout: Duration,
    /// A request that is neither a watch nor a stream must be answered within this time.
    pub request_timeout: Duration,
    /// Maximum number of concurrent network requests, without watches and streams: the seats of all priority
    /// levels together.
    pub requests_in_flight_max: usize,
    /// Maximum number of concurrent watches and streams from the network.
    pub long_running_max: usize,
    /// Maximum number of concurrent watches and streams of one user, so that no client starves the others;
    /// `system:masters` is not bounded by it.
    pub long_running_per_user_max: usize,
    /// Maximum cost of the concurrent request bodies of one user, in bytes; a byte of YAML, which
    /// takes longer to parse, counts eight times. Beyond it users other than `system:masters` get
    /// 429.
    pub body_bytes_per_user_max: usize,
    /// Maximum cost of the concurrent request bodies of all users. Bodies of `system:masters` do not count.
    pub body_bytes_in_all_max: usize,
    /// The cost of concurrent request bodies that each user may have whatever the others have.
    pub body_bytes_guaranteed: usize,
    /// Maximum number of open connections. Beyond it connections without valid credentials are
    /// closed.
    pub connections_max: usize,
    /// Maximum number of open connections of one address, without those of nodes.
    pub connections_per_address_max: usize,
    /// Most bytes of answers that wait for their readers, of all senders. Beyond it a connection of the sender with
    /// most of them is closed.
    pub unread_bytes_max: usize,
    /// Most bytes of answers that wait for their readers, of one sender: a user, all accounts of a namespace, or an
    /// address. Beyond it the sender gets 429.
    pub unread_bytes_per_sender_max: usize,
    /// After the end of a watch its client has this time to read the rest; then the connection is
    /// closed.
    pub watch_end_grace: Duration,
    /// After the start of a shutdown open connections have this time to finish.
    pub shutdown_grace: Duration,
    /// The recorder of slow polls, if they are measured.
    pub slow_polls: Option<Arc<SlowPolls>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 3 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            requests_in_flight_max: 400,
            long_running_max: 16_000,
            long_running_per_user_max: 2000,
            body_bytes_per_user_max: 32 * 1024 * 1024,
            body_bytes_in_all_max: 64 * 1024 * 1024,
            body_bytes_guaranteed: 256 * 1024,
            connections_max: 4096,
            connections_per_address_max: 512,
            unread_bytes_max: 96 * 1024 * 1024,
            unread_bytes_per_sender_max: 64 * 1024 * 1024,
            watch_end_grace: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(2),
            slow_polls: None,
        }
    }
}

/// Units of work ([`process_telemetry::polls::spend`]) of a request by a part of this process: one poll of its task
/// begins 8 of them.
pub(crate) const LOCAL_REQUEST_UNITS: usize = 16;

/// The stored size of the largest object that is kept decoded for the requests that read it.
pub(crate) const DECODED_OBJECT_BYTES_MAX: usize = 16 * 1024;

/// The stored size of all objects of one generation that are kept decoded; a decoded object takes
/// about five times its stored size.
pub(crate) const DECODED_BYTES_MAX: usize = 256 * 1024;

/// Maximum size of a stored object in bytes, as etcd's limit on a request. Managed fields make
/// objects larger than clients' requests.
pub(crate) const OBJECT_BYTES_MAX: usize = 1536 * 1024;

/// A body above the limit is read and discarded up to this multiple of the limit and for at most
/// [`DISCARD_TIME`], so that the client reads the refusal.
pub(crate) const DISCARD_FACTOR: usize = 16;
/// The longest time for which the rest of a refused body is read; see [`DISCARD_FACTOR`].
pub(crate) const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Replies from this size on are compressed when the client asks for it (upstream's figure).
pub(crate) const GZIP_BYTES_MIN: usize = 128 * 1024;

/// Maximum number of bytes that are read of a refused request without TLS.
pub(crate) const PLAIN_BYTES_MAX: usize = 64 * 1024;

/// The level of compression: the lowest one that makes a list of 5,000 pods (11 MB) no larger than zlib's
/// default level, which is also Go's, makes it. It takes 29 ms and 0.41 MB; the second level takes 10 ms and 0.57 MB.
pub(crate) const COMPRESSION_LEVEL: u32 = 7;

/// The count of a request's answer before its size is known: that of a small object, with its headers.
pub(crate) const UNREAD_REQUEST_BYTES: usize = 4 * 1024;

/// The memory for each object that waits for a place in an answer, besides its bytes, which the store has.
pub(crate) const UNREAD_ITEM_BYTES: usize = 128;

/// The memory for a frame of an answer, besides its bytes.
pub(crate) const UNREAD_FRAME_BYTES: usize = 512;

/// A connection is not closed for its unread answers before this time.
pub(crate) const UNREAD_GRACE: Duration = Duration::from_secs(1);

/// A body whose sender has too many unread bytes looks for room at this interval.
pub(crate) const UNREAD_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum number of open connections of one node, which do not count for its address.
pub(crate) const CONNECTIONS_PER_NODE_MAX: usize = 128;

/// Maximum number of connections of an address beyond its limit that may prove to be a node's.
pub(crate) const RESERVED_HANDSHAKES_MAX: usize = 64;

/// Most requests of a connection at once (upstream's figure). A client with more opens another connection.
pub(crate) const STREAMS_PER_CONNECTION_MAX: u32 = 100;

/// Bytes of a stream that are given to the connection before its client has room for them.
pub(crate) const UNSENT_STREAM_BYTES: usize = 64 * 1024;

/// Bytes of request bodies that wait for their handlers, of a stream and of a connection.
pub(crate) const BODY_WINDOW_BYTES: u32 = 256 * 1024;
/// See [`BODY_WINDOW_BYTES`].
pub(crate) const BODIES_WINDOW_BYTES: u32 = 512 * 1024;

/// Small parts of a body are sent together up to this size: each part is a record of TLS and a call of the
/// kernel. A multiple of the largest frame of HTTP/2 that clients usually take.
pub(crate) const FRAME_BYTES: usize = 64 * 1024;

/// Maximum number of retries of a write without a resource version after a conflict. Objects that
/// every write changes (quotas) conflict often.
pub(crate) const WRITE_ATTEMPTS_MAX: usize = 200;

/// Maximum number of deleted pods that a disruption budget records until they are gone (upstream's figure).
pub(crate) const DISRUPTED_PODS_MAX: usize = 2000;

/// Maximum number of generated names to try (as upstream).
pub(crate) const NAME_ATTEMPTS_MAX: usize = 8;

/// Longest prefix of a generated name: five characters are added, and 63 is the label limit.
pub(crate) const GENERATE_NAME_PREFIX_MAX: usize = 58;

/// Longest name of a field manager, in bytes (upstream's bound).
pub(crate) const MANAGER_NAME_BYTES_MAX: usize = 128;

/// Deepest nesting of a request body; far beyond any real object, far below the stack's end.
pub(crate) const DEPTH_MAX: usize = 100;

/// Most values in a request body or patch.
pub(crate) const NODES_MAX: usize = 250_000;

/// Most values in a body of YAML, of which each takes about ten microseconds to read. The largest
/// published definitions have some twenty thousand.
pub(crate) const YAML_NODES_MAX: usize = 50_000;

/// The cost of parsing a byte of YAML, relative to JSON.
pub(crate) const YAML_COST: usize = 8;

/// Requests that process more bytes than this run outside the threads of the async runtime: reading, checking
/// and writing that much takes about a millisecond.
pub(crate) const LIGHT_BYTES_MAX: usize = 16 * 1024;

/// A large reply is encoded and compressed in slices of this many bytes; other large requests run between the
/// slices. A slice takes a few milliseconds.
pub(crate) const WORK_SLICE_BYTES: usize = 1024 * 1024;

/// Lifetime of an event (upstream's default).
pub(crate) const EVENT_TTL: Duration = Duration::from_secs(3600);

/// Events written within this time share one lease.
pub(crate) const LEASE_SHARED_FOR: Duration = Duration::from_secs(60);

/// Interval of the bookmarks of a watch without changes.
pub(crate) const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// Events of a watch are sent together up to this size.
pub(crate) const WATCH_BATCH_BYTES: usize = 32 * 1024;

/// Shortest time that a watch without `timeoutSeconds` lasts; up to twice as long, at random,
/// so that clients do not all come back at once.
pub(crate) const WATCH_TIMEOUT_MIN_SECS: u64 = 1800;

/// Longest time that a watch may ask for: a year, which any clock can add.
pub(crate) const WATCH_TIMEOUT_MAX_SECS: u64 = 365 * 24 * 3600;

/// Number of objects that are read at once for a page that contains only some of them.
pub(crate) const LIST_CHUNK_MIN: usize = 500;

/// Most objects that one deletion of a collection removes at the same time.
pub(crate) const DELETE_COLLECTION_WORKERS: usize = 8;

/// Maximum time to connect for a proxied request.
pub(crate) const PROXY_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum time to connect to the address of a node that has a tunnel; after it the tunnel is used.
pub(crate) const SHORT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum time to connect to a node through its tunnel.
pub(crate) const TUNNEL_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The address of a node that was not reached is tried again after this time, if the node has a tunnel.
pub(crate) const DIRECT_AGAIN: Duration = Duration::from_secs(300);

/// Most tunnels of one node to one server, which may have several addresses.
pub(crate) const TUNNELS_PER_NODE_MAX: usize = 4;

/// Most connections to the nodes of other machines. Each has some dozen kilobytes, and a node decides how long they last.
pub(crate) const NODE_CONNECTIONS: ShareBounds = ShareBounds {
    per_sender_max: 1024,
    in_all_max: 3072,
    guaranteed: 16,
};

/// Longest answer of a webhook.
pub(crate) const WEBHOOK_ANSWER_BYTES_MAX: usize = 8 << 20;

/// Timeout of a node's summary; without a response the node is left out.
pub(crate) const NODE_SUMMARY_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of a node's summary; ten times the size for some hundred pods.
pub(crate) const NODE_SUMMARY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Maximum number of nodes to ask concurrently.
pub(crate) const NODE_SUMMARIES_AT_ONCE: usize = 16;

/// Largest answer of a node that is read into an error message.
pub(crate) const NODE_ERROR_BYTES_MAX: usize = 64 * 1024;

/// Interval of the checks of free space in the store.
pub(crate) const STORE_LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Interval of the recounts of quotas (upstream's).
pub(crate) const QUOTA_RECOUNT_INTERVAL: Duration = Duration::from_secs(300);

/// Maximum time that a pod waits for the default ServiceAccount of a new namespace. Kubernetes waits a
/// second, which a busy disk can take for the one write of the controller.
pub(crate) const ACCOUNT_WAIT_MAX: Duration = Duration::from_secs(10);

/// Interval of the checks for that account.
pub(crate) const ACCOUNT_LOOK_INTERVAL: Duration = Duration::from_millis(20);
