//! events.k8s.io: the other API version of core/v1 Events.

mod event;

pub use event::Event;
pub(crate) use event::to_core;
