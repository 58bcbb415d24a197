//! The constants of the node agent.

use std::time::Duration;

use jiff::SignedDuration;

/// How often the node's lease is renewed.
pub const LEASE_RENEW: Duration = Duration::from_secs(10);

/// How long a lease holds.
pub const LEASE_SECONDS: i32 = 40;

/// How often an unchanged node status is written all the same.
pub const NODE_STATUS_PERIOD: Duration = Duration::from_secs(300);

/// How long after a failed write of the node's status it is tried again.
pub const NODE_RETRY: Duration = Duration::from_secs(1);

/// How often it is looked at what is left of the node's memory and disks (kubelet's figure).
pub const NODE_CHECK_PERIOD: Duration = Duration::from_secs(10);

/// How often the disk usage of a pod that is limited is looked at (kubelet's figure).
pub const LOCAL_STORAGE_PERIOD: SignedDuration = SignedDuration::from_secs(10);

/// Messages that may wait for a pod's worker before senders have to wait.
pub const WORKER_MESSAGES_MAX: usize = 256;

/// Plans in a row that may each have actions; more would be a loop.
pub const PLANS_IN_A_ROW_MAX: u32 = 100;

/// Most of a probe's or hook's output that is kept.
pub const PROBE_OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// Redirections that a probe follows.
pub const REDIRECTS_MAX: u32 = 10;

/// Most of a termination message that is kept.
pub const TERMINATION_MESSAGE_BYTES_MAX: usize = 4096;

/// Lines and bytes of the log that stand in for a termination message.
pub const TERMINATION_LOG_LINES: usize = 80;

/// Bytes of the log that stand in for a termination message.
pub const TERMINATION_LOG_BYTES: u64 = 2048;

/// First and longest delay between tries to write a status.
pub const STATUS_RETRY_MIN: SignedDuration = SignedDuration::from_millis(200);

/// Longest delay between tries to write a status.
pub const STATUS_RETRY_MAX: SignedDuration = SignedDuration::from_secs(10);

/// Longest wait for one request to the API.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// How long after a failure the files of a pod's volumes are made anew, if nothing changes before.
pub const REFRESH_RETRY: SignedDuration = SignedDuration::from_secs(60);

/// How long a hook without a grace period of its own may take (`postStart` has none upstream).
pub const POST_START_MAX: Duration = Duration::from_secs(600);

/// How long a failed worker is waited for before it is replaced.
pub const WORKER_RESTART_DELAY: Duration = Duration::from_millis(200);

/// Pulls at a time on the node.
pub const PULLS_MAX: usize = 6;

/// Of these, from one registry.
pub const PULLS_OF_ONE_REGISTRY_MAX: usize = 4;

/// How often it is looked at how far a pull has come.
pub const PULL_STALL_CHECK: Duration = Duration::from_secs(30);

/// A pull that brings less until the next look does not count as one any more, in bytes.
pub const PULL_STALL_BYTES_MIN: u64 = 256 << 10;

/// How long an evicted pod is waited for before the next one is chosen (kubelet's
/// figure).
pub const EVICTION_WAIT: Duration = Duration::from_secs(30);

/// How often it is looked at whether it is gone.
pub const EVICTION_POLL: Duration = Duration::from_millis(200);

/// How often unused images are looked for (kubelet's figure).
pub const IMAGE_GC_PERIOD: Duration = Duration::from_secs(300);

/// Layers that no image names are left alone for so long: they may belong to an image that is
/// being imported.
pub const ORPHAN_LAYER_AGE: Duration = Duration::from_secs(3600);

/// Most images that the node's status names, the largest first (kubelet's figure).
pub const STATUS_IMAGES_MAX: usize = 50;

/// Most names of one of them (kubelet's figure).
pub const STATUS_IMAGE_NAMES_MAX: usize = 5;

/// How often it is looked at what the node and its containers use (kubelet's figure).
pub const USAGE_PERIOD: Duration = Duration::from_secs(10);

/// How often the end of a followed log is looked at when nobody tells that it grew.
pub const LOG_FOLLOW_PERIOD: Duration = Duration::from_millis(100);

/// How long a new agent waits for a shim that is still at work on what the former one asked for.
pub const SHIM_SETTLES_MAX: Duration = Duration::from_secs(5);

/// How often it looks meanwhile.
pub const SHIM_LOOK_INTERVAL: Duration = Duration::from_millis(20);
