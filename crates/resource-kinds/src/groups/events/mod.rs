//! events.k8s.io: another view of core/v1 events.

mod event;

pub use event::Event;
pub(crate) use event::to_core;
