//! Every number that bounds a connection.

/// Longest control frame: some headers.
pub(crate) const CONTROL_BYTES_MAX: usize = 64 * 1024;

/// Longest header block after decompression, in bytes.
pub(crate) const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// Data is passed on in parts of at most this size, however long a frame is.
pub(crate) const CHUNK_BYTES_MAX: usize = 32 * 1024;

/// Parts that may wait for the reader of a stream; then the connection waits.
pub(crate) const INCOMING_MAX: usize = 64;

/// Frames that may wait to be sent; then their senders wait.
pub(crate) const OUTGOING_MAX: usize = 32;

/// Streams that a client may have open for sending at once; a new one past that is refused.
pub(crate) const STREAMS_MAX: usize = 1024;

/// Maximum number of new streams that wait to be accepted; then the connection waits.
pub(crate) const WAITING_STREAMS_MAX: usize = 64;
