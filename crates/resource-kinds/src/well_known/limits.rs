//! Limits on the contents of objects.

/// Maximum size of the data of a Secret or ConfigMap: below etcd's limit.
pub const SECRET_BYTES_MAX: usize = 1024 * 1024;
/// Maximum number of endpoints of a slice.
pub const ENDPOINTS_MAX: usize = 1000;
/// Maximum number of addresses of one endpoint.
pub const ENDPOINT_ADDRESSES_MAX: usize = 100;
/// Lowest node port (upstream's default of `--service-node-port-range`).
pub const NODE_PORT_MIN: i64 = 30_000;
/// Highest node port (upstream's default of `--service-node-port-range`).
pub const NODE_PORT_MAX: i64 = 32_767;
/// Default termination grace period of a pod in seconds.
pub const POD_GRACE_SECONDS: i64 = 30;
/// Default time in seconds for which a pod stays on a node that is not ready or unreachable.
pub const EVICTION_SECONDS: i64 = 300;
/// Lifetime of the tokens of pods in seconds: a little more than an hour, as in Kubernetes.
pub const POD_TOKEN_SECONDS: i64 = 3607;
