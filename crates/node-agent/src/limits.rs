//! The constants of the node agent.

use std::time::Duration;

use jiff::SignedDuration;

/// An unchanged node status is written after this time.
pub const NODE_STATUS_PERIOD: Duration = Duration::from_secs(300);

/// Time between a failed write of the node's status and the next attempt.
pub const NODE_RETRY: Duration = Duration::from_secs(1);

/// Maximum time that a starting agent waits for its registration. Afterwards it takes over its pods without
/// it.
pub const REGISTRATION_PATIENCE: Duration = Duration::from_secs(5);

/// Maximum time that a starting agent waits for the lists of its pods after the registration.
pub const LISTS_PATIENCE: Duration = Duration::from_secs(10);

/// Interval of the checks of the node's memory and disks (kubelet's default).
pub const NODE_CHECK_PERIOD: Duration = Duration::from_secs(10);

/// Interval of the disk usage checks of a limited pod (kubelet's default).
pub const LOCAL_STORAGE_PERIOD: SignedDuration = SignedDuration::from_secs(10);

/// Minimum pause between two checks of the files of all pods.
pub const DISK_USAGE_PERIOD: Duration = Duration::from_secs(10);

/// Maximum pause between two checks of the files of all pods.
pub const DISK_USAGE_PERIOD_MAX: Duration = Duration::from_secs(600);

/// The pause after a measurement of all pods' files is this many times as long as the measurement.
pub const DISK_USAGE_SHARE: u32 = 50;

/// Messages in the queue of a pod's worker; further senders wait.
pub const WORKER_MESSAGES_MAX: usize = 256;

/// Maximum number of consecutive plans with actions; more would be a loop.
pub const PLANS_IN_A_ROW_MAX: u32 = 100;

/// Maximum size of a probe's or hook's stored output.
pub const PROBE_OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// Redirections that a probe follows.
pub const REDIRECTS_MAX: u32 = 10;

/// Maximum size of a termination message.
pub const TERMINATION_MESSAGE_BYTES_MAX: usize = 4096;

/// Lines and bytes of the log that stand in for a termination message.
pub const TERMINATION_LOG_LINES: usize = 80;

/// Bytes of the log that stand in for a termination message.
pub const TERMINATION_LOG_BYTES: u64 = 2048;

/// First and longest delay between tries to write a status.
pub const STATUS_RETRY_MIN: SignedDuration = SignedDuration::from_millis(200);

/// Longest delay between tries to write a status.
pub const STATUS_RETRY_MAX: SignedDuration = SignedDuration::from_secs(10);

/// First delay between tries to store the record of a pod.
pub const RECORD_RETRY_MIN: SignedDuration = SignedDuration::from_millis(500);

/// Longest delay between tries to store the record of a pod.
pub const RECORD_RETRY_MAX: SignedDuration = SignedDuration::from_secs(30);

/// Maximum time of one request to the API.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Time between a failed refresh of a pod's volumes and the next attempt.
pub const REFRESH_RETRY: SignedDuration = SignedDuration::from_secs(60);

/// Timeout of a hook without a grace period (`postStart` has none upstream).
pub const POST_START_MAX: Duration = Duration::from_secs(600);

/// Delay before a failed worker is replaced.
pub const WORKER_RESTART_DELAY: Duration = Duration::from_millis(200);

/// Maximum number of concurrent pulls on the node.
pub const PULLS_MAX: usize = 6;

/// Maximum number of concurrent pulls from one registry.
pub const PULLS_OF_ONE_REGISTRY_MAX: usize = 4;

/// Interval of the checks of a pull's progress.
pub const PULL_STALL_CHECK: Duration = Duration::from_secs(30);

/// A pull that receives fewer bytes than this between two checks is stalled: it releases its permit.
pub const PULL_STALL_BYTES_MIN: u64 = 256 << 10;

/// Maximum wait for the end of an evicted pod before the next one is chosen (kubelet's default).
pub const EVICTION_WAIT: Duration = Duration::from_secs(30);

/// Interval of the checks for the end of an evicted pod.
pub const EVICTION_POLL: Duration = Duration::from_millis(200);

/// Interval of image garbage collection (kubelet's default).
pub const IMAGE_GC_PERIOD: Duration = Duration::from_secs(300);

/// Minimum age at which layers without an image are removed: younger ones may belong to an image that is
/// being imported.
pub const ORPHAN_LAYER_AGE: Duration = Duration::from_secs(3600);

/// Maximum number of images in the node's status, the largest first (kubelet's figure).
pub const STATUS_IMAGES_MAX: usize = 50;

/// Maximum number of names of an image in the node's status (kubelet's default).
pub const STATUS_IMAGE_NAMES_MAX: usize = 5;

/// Interval of the usage samples (kubelet's default).
pub const USAGE_PERIOD: Duration = Duration::from_secs(10);

/// Interval of the checks of a followed log without notifications.
pub const LOG_FOLLOW_PERIOD: Duration = Duration::from_millis(100);

/// Maximum wait of a new agent for a shim that still executes a request of the former agent.
pub const SHIM_SETTLES_MAX: Duration = Duration::from_secs(5);

/// Interval of the checks in the meantime.
pub const SHIM_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Most ConfigMaps and Secrets of the volumes of one pod.
pub const OBJECTS_PER_POD_MAX: usize = 500;

/// Most ConfigMaps and Secrets that the node watches: an API server bounds the watches of a node. Further ones are read
/// at an interval.
pub const WATCHED_OBJECTS_MAX: usize = 1500;

/// Most bytes of the files of ConfigMaps and Secrets in one volume, which are in memory until they are written.
pub const VOLUME_FILES_BYTES_MAX: usize = 64 << 20;

/// Volumes with more bytes of such files are made one after the other.
pub const SMALL_VOLUME_BYTES_MAX: usize = 1 << 20;

/// Most bytes of ConfigMaps and Secrets in an environment: Linux takes 6 MiB of arguments and environment (execve(2)).
pub const ENVIRONMENT_BYTES_MAX: usize = 6 << 20;

/// Most bytes of ConfigMaps and Secrets that are kept for the environments of a pod's containers while the API does not
/// answer.
pub const KNOWN_ENVIRONMENTS_BYTES_MAX: usize = 1 << 20;

/// The interval at which objects beyond [`WATCHED_OBJECTS_MAX`] are read, as the agents of other clusters read all.
pub const OBJECT_READ_INTERVAL: Duration = Duration::from_secs(60);
