//! The limits of a connection.

/// Maximum length of a control frame, in bytes; longer than the headers of any Kubernetes client.
pub(crate) const CONTROL_BYTES_MAX: usize = 64 * 1024;

/// Maximum length of a header block after decompression, in bytes.
pub(crate) const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// Maximum size of the parts in which received data is passed on; a frame may be longer.
pub(crate) const CHUNK_BYTES_MAX: usize = 32 * 1024;

/// Maximum number of parts that wait for the reader of a stream; a full queue blocks the connection.
pub(crate) const INCOMING_MAX: usize = 64;

/// Maximum number of frames that wait to be sent; a full queue blocks their senders.
pub(crate) const OUTGOING_MAX: usize = 32;

/// Maximum number of streams in which a client may still send; further streams are refused.
pub(crate) const STREAMS_MAX: usize = 1024;

/// Maximum number of new streams that wait to be accepted; a full queue blocks the connection.
pub(crate) const WAITING_STREAMS_MAX: usize = 64;
