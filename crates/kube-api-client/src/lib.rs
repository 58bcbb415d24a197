//! A client of the Kubernetes API: typed requests ([`Api`]), list and watch ([`Watcher`]), the transport of both
//! ([`Client`], [`Transport`]), and writes with the observed state as a precondition ([`guarded_writes`]).
//!
//! Requests and responses are bytes up to the last step, in which one decoder for each type reads an object from a
//! slice. No other part of a request depends on the type.

mod api;
mod client;
mod discovery;
mod error;
pub mod guarded_writes;
mod lines;
mod list;
mod params;
mod request;
mod resource;
mod transport;
mod watch;
mod written;

pub use api::{Api, LogParams};
pub use client::Client;
pub use discovery::{ServedGroup, ServedResource};
pub use error::{Error, Result, Status, StatusCause, StatusDetails};
pub use lines::ResponseLines;
pub use list::ObjectList;
pub use params::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
pub use resource::{
    ApiResource, DynamicObject, DynamicResourceScope, Object, PartialObjectMeta, Resource,
    ResourceExt, TypeMeta,
};
pub use transport::{Body, BoxError, ResponseBody, Transport};
pub use watch::{Config as WatchConfig, Error as WatchError, Event, Watcher};
pub use written::Written;
