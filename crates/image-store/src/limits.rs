//! Numbers that bound what an image can do to a node.

/// Manifests, indexes and configurations larger than this are refused; registries have the
/// same limit.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Names and extended attributes of one archive entry.
pub(crate) const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// Layers of one image; overlayfs takes no more than 500.
pub(crate) const LAYERS_MAX: usize = 400;

/// Layers fetched and unpacked at a time, over all pulls.
pub(crate) const CONCURRENT_LAYERS: usize = 3;

/// Attempts at one request or download that fails for a passing reason.
pub(crate) const ATTEMPTS: u32 = 3;

/// Wait before the second attempt; four times as long before each further one.
pub(crate) const FIRST_RETRY_MS: u64 = 250;

/// Longest wait for a connection.
pub(crate) const CONNECT_SECONDS: u64 = 10;

/// Longest silence of a registry in the middle of an answer.
pub(crate) const READ_SECONDS: u64 = 60;

/// How much one layer may unpack to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Bytes of all files together.
    pub bytes_max: u64,
    /// Files, directories, links and the rest.
    pub entries_max: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        UnpackLimits {
            bytes_max: 64 << 30,
            entries_max: 4_000_000,
        }
    }
}
