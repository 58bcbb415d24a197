//! Limits on requests and connections.

use std::sync::Arc;
use std::time::Duration;

use connection_limits::ShareBounds;
use process_telemetry::SlowPolls;

/// The defaults suit one machine.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum size of a request body, in bytes. As upstream: etcd's limit on objects and some more.
    pub body_bytes_max: usize,
    /// The maximum time until a body has arrived.
    pub body_timeout: Duration,
    /// The maximum time until the head of a request has arrived.
    pub header_timeout: Duration,
    /// The maximum duration of a TLS handshake.
    pub handshake_timeout: Duration,
    /// The maximum time until the response to a request that is neither a watch nor a stream.
    pub request_timeout: Duration,
    /// Maximum number of concurrent network requests, without watches and streams: the seats of all priority levels
    /// together.
    pub requests_in_flight_max: usize,
    /// Maximum number of concurrent watches and streams from the network.
    pub long_running_max: usize,
    /// Maximum number of concurrent watches and streams of one user, so that no client starves the other clients. The
    /// limit does not apply to `system:masters`.
    pub long_running_per_user_max: usize,
    /// Maximum cost of the concurrent request bodies of one user, in bytes. A byte of YAML counts eight times,
    /// because YAML takes longer to parse. Above the limit users other than `system:masters` get
    /// 429.
    pub body_bytes_per_user_max: usize,
    /// Maximum cost of the concurrent request bodies of all users. Bodies of `system:masters` do not count.
    pub body_bytes_in_all_max: usize,
    /// The cost of concurrent request bodies that each user may have, whatever the bodies of other users cost.
    pub body_bytes_guaranteed: usize,
    /// Maximum number of open connections. Above the limit, connections without valid credentials are closed.
    pub connections_max: usize,
    /// Maximum number of open connections of one IP address. Connections of nodes do not count.
    pub connections_per_address_max: usize,
    /// Maximum number of response bytes that clients have not read yet, of all senders. Above the limit, a connection
    /// of the sender with the most unread bytes is closed.
    pub unread_bytes_max: usize,
    /// Maximum number of response bytes of one sender that are not read yet. A sender is a user, all accounts of a
    /// namespace, or an address. Above the limit, the sender gets 429.
    pub unread_bytes_per_sender_max: usize,
    /// The time that a client has to read the last data after the end of a watch; then the connection is closed.
    pub watch_end_grace: Duration,
    /// The time that open connections have to finish after the start of a shutdown.
    pub shutdown_grace: Duration,
    /// The recorder of slow polls; `None` if polls are not measured.
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

/// Units of work ([`process_telemetry::polls::spend`]) of a request by a component of this process: one poll of a
/// task starts 8 such requests.
pub(crate) const LOCAL_REQUEST_UNITS: usize = 16;

/// Maximum stored size of an object that is cached in decoded form.
pub(crate) const DECODED_OBJECT_BYTES_MAX: usize = 16 * 1024;

/// Maximum stored size of all objects of one generation that are cached in decoded form. A decoded object needs about
/// five times its stored size.
pub(crate) const DECODED_BYTES_MAX: usize = 256 * 1024;

/// Maximum size of a stored object in bytes, as etcd's limit on a request. Managed fields make objects larger than
/// clients' requests.
pub(crate) const OBJECT_BYTES_MAX: usize = 1536 * 1024;

/// A body above the limit is read and discarded up to this multiple of the limit and for at most [`DISCARD_TIME`], so
/// that the client reads the refusal.
pub(crate) const DISCARD_FACTOR: usize = 16;
/// The maximum time for which the rest of a refused body is read; see [`DISCARD_FACTOR`].
pub(crate) const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Responses from this size on are compressed if the client requests compression (upstream's value).
pub(crate) const GZIP_BYTES_MIN: usize = 128 * 1024;

/// Maximum number of bytes that are read from a refused request without TLS.
pub(crate) const PLAIN_BYTES_MAX: usize = 64 * 1024;

/// The compression level. It is the lowest level at which a list of 5,000 pods (11 MB) is no larger than at zlib's
/// and Go's default level. The list takes 29 ms and has 0.41 MB; at the second level it takes 10 ms and has 0.57 MB.
pub(crate) const COMPRESSION_LEVEL: u32 = 7;

/// The counted bytes of a response before its size is known: the size of a small object with its headers.
pub(crate) const UNREAD_REQUEST_BYTES: usize = 4 * 1024;

/// The memory for each object that waits to be sent in a response. The object's bytes are not included, because the
/// store shares them.
pub(crate) const UNREAD_ITEM_BYTES: usize = 128;

/// The memory for a frame of a response, without the frame's bytes.
pub(crate) const UNREAD_FRAME_BYTES: usize = 512;

/// A connection whose client reads nothing for this time may be closed for unread responses.
pub(crate) const UNREAD_GRACE: Duration = Duration::from_secs(2);

/// A connection whose client reads faster is not closed for unread responses before [`UNREAD_TIME_MAX`].
pub(crate) const UNREAD_BYTES_PER_SECOND_MIN: usize = 256 * 1024;

/// A connection that has had unread responses for this time may be closed although its client reads.
pub(crate) const UNREAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Interval at which a body whose sender has too many unread bytes checks for remaining quota.
pub(crate) const UNREAD_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum number of open connections of one node. The connections of a node do not count for its IP address.
pub(crate) const CONNECTIONS_PER_NODE_MAX: usize = 128;

/// Maximum number of connections of an IP address above its limit that may still present a node's certificate.
pub(crate) const RESERVED_HANDSHAKES_MAX: usize = 64;

/// Maximum number of concurrent requests of a connection (upstream's value). A client with more requests opens
/// another connection.
pub(crate) const STREAMS_PER_CONNECTION_MAX: u32 = 100;

/// Bytes of a stream that the connection buffers before its client accepts them.
pub(crate) const UNSENT_STREAM_BYTES: usize = 64 * 1024;

/// Flow-control window of a stream: bytes of a request body that wait for their handler.
pub(crate) const BODY_WINDOW_BYTES: u32 = 256 * 1024;
/// Flow-control window of a connection: bytes of all its request bodies that wait for their handlers.
pub(crate) const BODIES_WINDOW_BYTES: u32 = 512 * 1024;

/// Small parts of a body are sent together up to this size, because each part is a TLS record and a system call. A
/// multiple of the largest HTTP/2 frame that clients usually accept.
pub(crate) const FRAME_BYTES: usize = 64 * 1024;

/// Maximum number of retries of a write without a resource version after a conflict. Objects that
/// every write changes (quotas) conflict often.
pub(crate) const WRITE_ATTEMPTS_MAX: usize = 200;

/// Maximum number of deleted pods that a disruption budget records until they no longer exist (upstream's value).
pub(crate) const DISRUPTED_PODS_MAX: usize = 2000;

/// Maximum number of generated names to try (as upstream).
pub(crate) const NAME_ATTEMPTS_MAX: usize = 8;

/// Maximum length of the prefix of a generated name: five characters are added, and a label value has at most 63.
pub(crate) const GENERATE_NAME_PREFIX_MAX: usize = 58;

/// Maximum length of a field manager's name, in bytes (upstream's limit).
pub(crate) const MANAGER_NAME_BYTES_MAX: usize = 128;

/// Maximum nesting depth of a request body: far more than any real object, and far less than the stack allows.
pub(crate) const DEPTH_MAX: usize = 100;

/// Maximum number of values in a request body or patch.
pub(crate) const NODES_MAX: usize = 250_000;

/// Maximum number of values in a YAML body. Reading a value takes about ten microseconds. The largest published
/// CustomResourceDefinitions have some twenty thousand values.
pub(crate) const YAML_NODES_MAX: usize = 50_000;

/// The cost of parsing a byte of YAML, relative to JSON.
pub(crate) const YAML_COST: usize = 8;

/// A request that processes more bytes runs outside of the threads of the async runtime: reading, checking and
/// writing that much takes about a millisecond.
pub(crate) const LIGHT_BYTES_MAX: usize = 16 * 1024;

/// A large response is encoded and compressed in slices of this many bytes; other large requests run between the
/// slices. A slice takes a few milliseconds.
pub(crate) const WORK_SLICE_BYTES: usize = 1024 * 1024;

/// Lifetime of an Event (upstream's default).
pub(crate) const EVENT_TTL: Duration = Duration::from_secs(3600);

/// Events that are written within this time share one lease.
pub(crate) const LEASE_SHARED_FOR: Duration = Duration::from_secs(60);

/// Interval of the bookmarks of a watch without changes.
pub(crate) const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// The events of a watch are sent together up to this size.
pub(crate) const WATCH_BATCH_BYTES: usize = 32 * 1024;

/// Maximum size of a message of a client that watches over a WebSocket. The content is ignored.
pub(crate) const WEB_SOCKET_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Size of the read buffer of a WebSocket, into which a client sends little more than pings.
pub(crate) const WEB_SOCKET_READ_BYTES: usize = 1024;

/// After the end of a watch over a WebSocket, the client has this time to close the connection.
pub(crate) const WEB_SOCKET_CLOSING_MAX: Duration = Duration::from_secs(5);

/// Minimum duration of a watch without `timeoutSeconds`. The actual duration is random, up to twice as long, so that
/// clients do not all reconnect at one time.
pub(crate) const WATCH_TIMEOUT_MIN_SECS: u64 = 1800;

/// Maximum `timeoutSeconds` of a watch: a year, so that the deadline never overflows.
pub(crate) const WATCH_TIMEOUT_MAX_SECS: u64 = 365 * 24 * 3600;

/// Number of objects that are read at once for a page that filters them.
pub(crate) const LIST_CHUNK_MIN: usize = 500;

/// Maximum number of concurrent deletions in the deletion of a collection.
pub(crate) const DELETE_COLLECTION_WORKERS: usize = 8;

/// Maximum number of requests to extension API servers that have no response yet, or whose response is not a stream.
/// Such a request occupies a seat, so flow control delays the further requests of its sender, and not the requests of
/// other senders.
pub(crate) const EXTENSION_REQUESTS: ShareBounds = ShareBounds {
    per_sender_max: 32,
    in_all_max: 256,
    guaranteed: 2,
};

/// Maximum number of such requests to one APIService, so that a slow extension API server does not use the seats of
/// requests to others.
pub(crate) const EXTENSION_REQUESTS_PER_SERVICE_MAX: usize = 64;

/// Maximum number of upgraded connections to extension API servers.
pub(crate) const EXTENSION_STREAMS: ShareBounds = ShareBounds {
    per_sender_max: 128,
    in_all_max: 1024,
    guaranteed: 2,
};

/// Maximum size of a response of an extension API server to a component of this process: more than a page of large
/// objects.
pub(crate) const EXTENSION_LOCAL_RESPONSE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Maximum size of a document of an extension API server that is read for discovery.
pub(crate) const EXTENSION_DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// Connect timeout of a proxied request.
pub(crate) const PROXY_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connect timeout for the address of a node that has a tunnel; then the tunnel is used.
pub(crate) const SHORT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connect timeout for a connection through the tunnel of a node.
pub(crate) const TUNNEL_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// For a node that has a tunnel: the time after a failed direct connection until the next direct attempt.
pub(crate) const DIRECT_RETRY_DELAY: Duration = Duration::from_secs(300);

/// Maximum number of tunnels of one node to one server. A server may have several addresses.
pub(crate) const TUNNELS_PER_NODE_MAX: usize = 4;

/// Maximum number of connections to the nodes of other machines. Each connection needs some dozen kilobytes, and the
/// node decides how long it lasts.
pub(crate) const NODE_CONNECTIONS: ShareBounds = ShareBounds {
    per_sender_max: 1024,
    in_all_max: 3072,
    guaranteed: 16,
};

/// Maximum size of a webhook response.
pub(crate) const WEBHOOK_RESPONSE_BYTES_MAX: usize = 8 << 20;

/// Timeout of a call of a conversion webhook.
pub(crate) const CONVERSION_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of objects in a call of a conversion webhook.
pub(crate) const CONVERSION_OBJECTS_MAX: usize = 256;

/// Maximum size of the objects in a call of a conversion webhook, before the conversion. A call has at least one
/// object.
pub(crate) const CONVERSION_BYTES_MAX: usize = 4 << 20;

/// Maximum size of the response to a conversion: objects may grow, by default values of new fields for example.
pub(crate) const CONVERSION_RESPONSE_BYTES_MAX: usize = 16 << 20;

/// Maximum number of concurrent calls of the conversion webhook of a kind.
pub(crate) const CONVERSION_CALLS_MAX: usize = 4;

/// Maximum size of the cached objects that were converted.
pub(crate) const CONVERTED_BYTES_MAX: usize = 32 << 20;

/// The memory for a cached object without its bytes and its key.
pub(crate) const CONVERTED_OBJECT_BYTES: usize = 256;

/// The attempts to convert the events of a watch, and the delay between two attempts.
pub(crate) const WATCH_CONVERSION_ATTEMPTS: usize = 3;
pub(crate) const WATCH_CONVERSION_DELAY: Duration = Duration::from_millis(2500);

/// Timeout of the request for a node's summary. Without a response the node is skipped.
pub(crate) const NODE_SUMMARY_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of a node's summary: ten times the size for some hundred pods.
pub(crate) const NODE_SUMMARY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Maximum number of nodes that are requested concurrently.
pub(crate) const NODE_SUMMARIES_AT_ONCE: usize = 16;

/// Maximum size of a node's response that is read for an error message.
pub(crate) const NODE_ERROR_BYTES_MAX: usize = 64 * 1024;

/// Interval of the checks for free space in the store.
pub(crate) const STORE_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Interval of the recounts of quotas (upstream's).
pub(crate) const QUOTA_RECOUNT_INTERVAL: Duration = Duration::from_secs(300);

/// Maximum time that a pod waits for the default ServiceAccount of a new namespace. Kubernetes waits one second; on a
/// busy disk the write of the controller alone can take that long.
pub(crate) const ACCOUNT_WAIT_MAX: Duration = Duration::from_secs(10);

/// Interval of the checks for the default ServiceAccount.
pub(crate) const ACCOUNT_CHECK_INTERVAL: Duration = Duration::from_millis(20);
