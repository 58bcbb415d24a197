use std::time::Duration;

use jiff::SignedDuration;

/// Interval at which an unchanged node status is written.
pub const NODE_STATUS_PERIOD: Duration = Duration::from_secs(300);

/// Time between a failed write of the node's status and the next attempt.
pub const NODE_RETRY: Duration = Duration::from_secs(1);

/// Maximum time that a starting agent waits for its registration. After this time, the agent adopts its
/// pods without a registration.
pub const REGISTRATION_PATIENCE: Duration = Duration::from_secs(5);

/// Maximum time that a starting agent waits for the lists of its pods after the registration.
pub const LISTS_PATIENCE: Duration = Duration::from_secs(10);

/// Interval of the checks of the node's memory and disks (kubelet's default).
pub const NODE_CHECK_PERIOD: Duration = Duration::from_secs(10);

/// Interval of the disk usage checks of a limited pod (kubelet's default).
pub const LOCAL_STORAGE_PERIOD: SignedDuration = SignedDuration::from_secs(10);

/// Minimum delay between two measurements of the files of all pods.
pub const DISK_USAGE_PERIOD: Duration = Duration::from_secs(10);

/// Maximum delay between two measurements of the files of all pods.
pub const DISK_USAGE_PERIOD_MAX: Duration = Duration::from_secs(600);

/// The delay after a measurement of all pods' files is the duration of the measurement times this factor.
pub const DISK_USAGE_SHARE: u32 = 50;

/// Maximum number of messages in the queue of a pod's worker; further senders wait.
pub const WORKER_MESSAGES_MAX: usize = 256;

/// Maximum number of consecutive plans with actions; more plans would mean an endless loop.
pub const PLANS_IN_A_ROW_MAX: u32 = 100;

/// Delay of the next plan after [`PLANS_IN_A_ROW_MAX`] plans with actions.
pub const PLANS_PAUSE: SignedDuration = SignedDuration::from_secs(10);

/// Maximum size of a probe's or hook's stored output.
pub const PROBE_OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// Maximum number of redirects that a probe follows, as in Go's HTTP client.
pub const REDIRECTS_MAX: u32 = 10;

/// Maximum size of a termination message.
pub const TERMINATION_MESSAGE_BYTES_MAX: usize = 4096;

/// Maximum number of log lines that replace a missing termination message.
pub const TERMINATION_LOG_LINES: usize = 80;

/// Maximum number of log bytes that replace a missing termination message.
pub const TERMINATION_LOG_BYTES: u64 = 2048;

/// First delay between attempts to write a status.
pub const STATUS_RETRY_MIN: SignedDuration = SignedDuration::from_millis(200);

/// Longest delay between attempts to write a status.
pub const STATUS_RETRY_MAX: SignedDuration = SignedDuration::from_secs(10);

/// First delay between attempts to store the record of a pod.
pub const RECORD_RETRY_MIN: SignedDuration = SignedDuration::from_millis(500);

/// Longest delay between attempts to store the record of a pod.
pub const RECORD_RETRY_MAX: SignedDuration = SignedDuration::from_secs(30);

/// Time limit of a request to the API server.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Time between a failed refresh of a pod's volumes and the next attempt.
pub const REFRESH_RETRY: SignedDuration = SignedDuration::from_secs(60);

/// Timeout of a hook without a grace period, which is `postStart`. kubelet has no such timeout.
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

/// Maximum wait until an evicted pod has ended; then the next pod is chosen (kubelet's default).
pub const EVICTION_WAIT: Duration = Duration::from_secs(30);

/// Interval of the checks whether an evicted pod has ended.
pub const EVICTION_POLL: Duration = Duration::from_millis(200);

/// Interval of image garbage collection (kubelet's default).
pub const IMAGE_GC_PERIOD: Duration = Duration::from_secs(300);

/// Minimum age at which layers without an image are removed. Newer layers may belong to an image that is
/// being imported.
pub const ORPHAN_LAYER_AGE: Duration = Duration::from_secs(3600);

/// Maximum number of images in the node's status, the largest first (kubelet's value).
pub const STATUS_IMAGES_MAX: usize = 50;

/// Maximum number of names of an image in the node's status (kubelet's default).
pub const STATUS_IMAGE_NAMES_MAX: usize = 5;

/// Interval of the usage samples (kubelet's default).
pub const USAGE_PERIOD: Duration = Duration::from_secs(10);

/// Interval at which a followed log is read if the kernel sends no notifications.
pub const LOG_FOLLOW_PERIOD: Duration = Duration::from_millis(100);

/// Maximum wait of a new agent for a shim that still executes a request of the former agent.
pub const SHIM_SETTLES_MAX: Duration = Duration::from_secs(5);

/// Interval of the checks whether the shim has finished the request.
pub const SHIM_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum number of ConfigMaps and Secrets in the volumes of one pod.
pub const OBJECTS_PER_POD_MAX: usize = 500;

/// Maximum number of ConfigMaps and Secrets that the node watches, because an API server limits the watches
/// of a node. Further objects are read at an interval.
pub const WATCHED_OBJECTS_MAX: usize = 1500;

/// Maximum bytes of ConfigMap and Secret files in one volume: the files are in memory until they are
/// written.
pub const VOLUME_FILES_BYTES_MAX: usize = 64 << 20;

/// Volumes with more bytes of ConfigMap and Secret files are written one after another.
pub const SMALL_VOLUME_BYTES_MAX: usize = 1 << 20;

/// Maximum bytes of ConfigMaps and Secrets in an environment: Linux accepts 6 MiB of arguments and
/// environment (execve(2)).
pub const ENVIRONMENT_BYTES_MAX: usize = 6 << 20;

/// Maximum bytes of ConfigMaps and Secrets that are stored for the environments of a pod's containers. They
/// are used while the API server does not respond.
pub const STORED_ENVIRONMENTS_BYTES_MAX: usize = 1 << 20;

/// The interval at which objects beyond [`WATCHED_OBJECTS_MAX`] are read.
pub const OBJECT_READ_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum time for which an agent that stops retries to unmount the directory of the drivers.
pub const UNMOUNT_PATIENCE: Duration = Duration::from_secs(5);

/// Time between two attempts to unmount the directory of the drivers.
pub const UNMOUNT_RETRY: Duration = Duration::from_millis(50);
