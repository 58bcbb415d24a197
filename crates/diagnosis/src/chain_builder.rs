//! A chain under construction: from one object to the next, each object once.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use pod_lifecycle::diagnosis::Remedy;

use super::explanation::{CauseChain, Finding, Log, Object};
use super::observed::{self, ObservedNamespace};

pub(super) struct ChainBuilder<'e> {
    pub observed: &'e ObservedNamespace,
    links: Vec<Finding>,
    remedy: Remedy,
    visited: BTreeSet<Object>,
}

impl<'e> ChainBuilder<'e> {
    pub fn of(observed: &'e ObservedNamespace) -> Self {
        Self {
            observed,
            links: Vec::new(),
            remedy: Remedy::default(),
            visited: BTreeSet::new(),
        }
    }

    pub fn chain(self) -> CauseChain {
        CauseChain {
            links: self.links,
            remedy: self.remedy,
            likewise: Vec::new(),
        }
    }

    /// Adds the object to the visited objects; false if it was visited already.
    pub fn visit(&mut self, object: &Object) -> bool {
        self.visited.insert(object.clone())
    }

    /// Adds a link with its remedy. A later link replaces the remedy.
    pub fn link(
        &mut self,
        object: Object,
        reason: impl Into<String>,
        message: impl Into<String>,
        since: Option<Timestamp>,
    ) -> &mut Self {
        self.links.push(Finding {
            object,
            container: None,
            reason: reason.into(),
            message: message.into(),
            since,
            series: None,
            log: Log::NotNeeded,
        });
        self
    }

    /// Sets the container of the last link.
    pub fn in_container(&mut self, name: Option<String>) -> &mut Self {
        if let Some(last) = self.links.last_mut() {
            last.container = name;
        }
        self
    }

    /// Requests the log of the last link's container.
    pub fn wants_log(&mut self, previous: bool) -> &mut Self {
        if let Some(last) = self.links.last_mut() {
            last.log = Log::Readable { previous };
        }
        self
    }

    /// Sets the remedy of the whole chain.
    pub fn remedy(&mut self, remedy: impl Into<Remedy>) -> &mut Self {
        self.remedy = remedy.into();
        self
    }

    /// The remedy that was set last.
    pub fn proposed(&self) -> Remedy {
        self.remedy.clone()
    }

    /// The message of the last link.
    pub fn last_message(&self) -> &str {
        self.links.last().map_or("", |link| &link.message)
    }

    /// Replaces the message of the last link.
    pub fn say(&mut self, message: &str) -> &mut Self {
        if let Some(last) = self.links.last_mut() {
            last.message = message.to_owned();
        }
        self
    }

    /// Adds an alternative to the remedy.
    pub fn or(&mut self, other: String) {
        self.remedy.text = format!("{}; {other}", self.remedy.text);
    }

    /// Adds an event as a link, unless its message is on the chain.
    pub fn event(&mut self, event: &Event, object: Object) -> &mut Self {
        let link = observed::event_finding(event, object);
        let reports = |text: &str| text.ends_with(&link.message);
        if !link.message.is_empty() && !self.links.iter().any(|other| reports(&other.message)) {
            self.links.push(link);
        }
        self
    }
}
