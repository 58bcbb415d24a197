//! All bounds of this crate, each with its reason.

use std::time::Duration;

/// First delay after a failure of a key; as client-go's default limiter.
pub const RETRY_DELAY_MIN: Duration = Duration::from_millis(5);
/// Longest delay between retries of a key; as client-go's default limiter.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(1000);

/// First delay after a failed list or watch: short, because at its start the server may be a few
/// milliseconds behind its clients.
pub const WATCH_RETRY_DELAY_MIN: Duration = Duration::from_millis(20);
/// Objects per page of a list.
pub const LIST_PAGE_OBJECTS: u32 = 500;

/// Units of work ([`spend`](process_telemetry::polls::spend)) of an object that a cache decodes: one poll decodes 16.
pub const OBJECT_UNITS: usize = 8;
/// Bytes that a cache decodes for one unit of work: 4 KiB take [`OBJECT_UNITS`], more than most pods have.
pub const DECODED_BYTES_PER_UNIT: usize = 512;
/// Bytes of an object that a cache decodes on the threads of the runtime: about a millisecond. The Endpoints of a Service
/// with 1,000 pods have 250 KiB.
pub const DECODED_BYTES_MAX: usize = 128 << 10;
/// Objects that a cache compares with a complete list in one portion, and the units of work of the portion. An object that
/// is not in the list takes one unit more.
pub const SWEEP_OBJECTS: usize = 100;
/// See [`SWEEP_OBJECTS`].
pub const SWEEP_UNITS: usize = 16;
/// Units of work of a key: a worker handles 16 keys that need no request in one poll.
pub const KEY_UNITS: usize = 8;
/// Objects of a decision on the threads of the runtime ([`decide`](crate::decide)); one about 200 pods takes
/// 0.2 ms. To give the thread to another one costs about a quarter of that.
pub const DECISION_OBJECTS_MAX: usize = 600;
/// Objects that a task takes from a cache for one unit of work: a poll handles one key with hundreds of them.
pub const READ_OBJECTS_PER_UNIT: usize = 2;

/// Events waiting to be written; further ones are dropped and counted.
pub const EVENTS_QUEUED_MAX: usize = 1000;
/// Events that one component writes at once.
pub const EVENTS_AT_ONCE: usize = 16;
/// The time after a write in which the events of a component are collected.
pub const EVENT_WINDOW: Duration = Duration::from_millis(100);
/// The time for which the API server keeps an event.
pub const EVENT_STORED: Duration = Duration::from_secs(3600);
/// Distinct events remembered for aggregation; those of the least recently seen topic are forgotten.
pub const EVENTS_REMEMBERED_MAX: usize = 4096;
/// Burst of events of one reason and object; client-go has this bound for all reasons together.
pub const EVENT_BURST: u32 = 25;
/// Time after which an object with an exhausted burst gets one more event.
pub const EVENT_REFILL: Duration = Duration::from_secs(300);
/// Number of distinct messages of one reason and object, above which they are combined into one
/// event.
pub const EVENT_SIMILAR_MAX: usize = 10;
/// Time within which messages count as similar.
pub const EVENT_SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// Attempts to write one event.
pub const EVENT_ATTEMPTS_MAX: u32 = 5;
/// Maximum number of warnings that wait while the server cannot store them; the oldest is dropped
/// first.
pub const EVENTS_POSTPONED_MAX: usize = 256;
/// Time between attempts to write them.
pub const EVENT_POSTPONED_RETRY: Duration = Duration::from_secs(10);
/// Bytes of an event's message; the API refuses longer ones.
pub const EVENT_MESSAGE_BYTES_MAX: usize = 1024;
