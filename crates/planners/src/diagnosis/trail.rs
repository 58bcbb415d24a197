//! A chain in the making: from one object to the next, none of them twice.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

use super::chain::{Chain, Link, Log, Object};
use super::evidence::{self, Evidence};
use super::remedy::Remedy;

pub(super) struct Trail<'e> {
    pub evidence: &'e Evidence,
    links: Vec<Link>,
    remedy: Remedy,
    visited: BTreeSet<Object>,
}

impl<'e> Trail<'e> {
    pub fn of(evidence: &'e Evidence) -> Self {
        Self {
            evidence,
            links: Vec::new(),
            remedy: Remedy::default(),
            visited: BTreeSet::new(),
        }
    }

    pub fn chain(self) -> Chain {
        Chain {
            links: self.links,
            remedy: self.remedy,
            likewise: Vec::new(),
        }
    }

    /// Whether the object has not been on the trail yet.
    pub fn visit(&mut self, object: &Object) -> bool {
        self.visited.insert(object.clone())
    }

    /// The next link, with what would resolve it. What comes later replaces the remedy.
    pub fn link(
        &mut self,
        object: Object,
        reason: impl Into<String>,
        message: impl Into<String>,
        since: Option<Timestamp>,
    ) -> &mut Self {
        self.links.push(Link {
            object,
            container: None,
            reason: reason.into(),
            message: message.into(),
            since,
            seen: None,
            log: Log::NotWanted,
        });
        self
    }

    /// The last link is about that container.
    pub fn in_container(&mut self, name: Option<String>) -> &mut Self {
        if let Some(last) = self.links.last_mut() {
            last.container = name;
        }
        self
    }

    /// The last link wants the log of its container.
    pub fn wants_log(&mut self, previous: bool) -> &mut Self {
        if let Some(last) = self.links.last_mut() {
            last.log = Log::Wanted { previous };
        }
        self
    }

    /// What would unblock what has been said last.
    pub fn remedy(&mut self, remedy: impl Into<Remedy>) -> &mut Self {
        self.remedy = remedy.into();
        self
    }

    /// What would unblock it, as it stands.
    pub fn proposed(&self) -> Remedy {
        self.remedy.clone()
    }

    /// What the last link says.
    pub fn last_message(&self) -> &str {
        self.links.last().map_or("", |link| &link.message)
    }

    /// Puts the last link into other words.
    pub fn say(&mut self, message: &str) -> &mut Self {
        if let Some(last) = self.links.last_mut() {
            last.message = message.to_owned();
        }
        self
    }

    /// Another way out, besides the remedy.
    pub fn or(&mut self, other: String) {
        self.remedy.text = format!("{}; {other}", self.remedy.text);
    }

    /// What an event says, unless it has been said.
    pub fn event(&mut self, event: &Event, object: Object) -> &mut Self {
        let link = evidence::told(event, object);
        let said = |text: &str| text.ends_with(&link.message);
        if !link.message.is_empty() && !self.links.iter().any(|other| said(&other.message)) {
            self.links.push(link);
        }
        self
    }
}
