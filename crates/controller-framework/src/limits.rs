//! All bounds of this crate, each with its reason.

use std::time::Duration;

/// Delay after the first failure of a key; as client-go's default limiter.
pub const RETRY_DELAY_MIN: Duration = Duration::from_millis(5);
/// Longest delay between retries of a key; as client-go's default limiter.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(1000);

/// Delay after the first failure of a list or watch. It is short, because a server that starts together with its
/// clients may be ready some milliseconds later.
pub const WATCH_RETRY_DELAY_MIN: Duration = Duration::from_millis(20);
/// Objects per page of a list.
pub const LIST_PAGE_OBJECTS: u32 = 500;

/// Units of work ([`spend`](process_telemetry::polls::spend)) of each object that a cache decodes. One poll decodes 16
/// objects.
pub const OBJECT_UNITS: usize = 8;
/// Bytes that a cache decodes for one unit of work. [`OBJECT_UNITS`] cover 4 KiB, which is more than most pods have.
pub const DECODED_BYTES_PER_UNIT: usize = 512;
/// Largest object, in bytes, that a cache decodes on the threads of the runtime; it takes about a millisecond. The
/// Endpoints of a Service with 1,000 pods have 250 KiB.
pub const DECODED_BYTES_MAX: usize = 128 << 10;
/// Objects in one portion of the comparison between a cache and a complete list. An object that is not in the list
/// costs one additional unit of work.
pub const SWEEP_OBJECTS: usize = 100;
/// Units of work of one portion; see [`SWEEP_OBJECTS`].
pub const SWEEP_UNITS: usize = 16;
/// Units of work of a key. In one poll, a worker reconciles 16 keys that need no request.
pub const KEY_UNITS: usize = 8;
/// Objects up to which a decision is computed on the threads of the runtime ([`decide`](crate::decide)). A decision
/// about 200 pods takes 0.2 ms; handing the runtime to another thread costs about a quarter of that.
pub const DECISION_OBJECTS_MAX: usize = 600;
/// Objects that a task reads from a cache for one unit of work. One poll can handle one key with hundreds of objects.
pub const READ_OBJECTS_PER_UNIT: usize = 2;

/// Events that wait to be written. Further events are dropped and counted.
pub const EVENTS_QUEUED_MAX: usize = 1000;
/// Events that one component writes concurrently.
pub const EVENTS_AT_ONCE: usize = 16;
/// Time after a write during which the events of a component are collected.
pub const EVENT_WINDOW: Duration = Duration::from_millis(100);
/// Time for which the API server stores an event.
pub const EVENT_STORED: Duration = Duration::from_secs(3600);
/// Distinct events remembered for aggregation. The memory forgets the least recently used topic first.
pub const EVENTS_REMEMBERED_MAX: usize = 4096;
/// Burst of events of one reason and object; client-go applies this bound to all reasons together.
pub const EVENT_BURST: u32 = 25;
/// Time after which an object with an exhausted burst may have one more event.
pub const EVENT_REFILL: Duration = Duration::from_secs(300);
/// Number of distinct messages of one reason and object above which the messages are combined into one event.
pub const EVENT_SIMILAR_MAX: usize = 10;
/// Time within which messages count as similar.
pub const EVENT_SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// Attempts to write one event.
pub const EVENT_ATTEMPTS_MAX: u32 = 5;
/// Maximum number of warnings that wait while the server cannot store them. The oldest warning is dropped first.
pub const EVENTS_POSTPONED_MAX: usize = 256;
/// Time between attempts to write the waiting warnings.
pub const EVENT_POSTPONED_RETRY: Duration = Duration::from_secs(10);
/// Bytes of an event's message; the API refuses longer ones.
pub const EVENT_MESSAGE_BYTES_MAX: usize = 1024;
