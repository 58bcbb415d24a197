//! The similarity of events for merging repeats, and the number of events that an object may have.
//!
//! Three rules, in this order: many different messages of one reason within some minutes are
//! combined into one event; the same event again increases a count; an object beyond its rate for a
//! reason gets no more events of it for a while. Pure: time is an argument.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;
use process_telemetry::refusals::{self, Budget};

use crate::limits;

/// The properties that similar events share: all but the message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SimilarEvents {
    /// UID (or name) of the object, with its field path.
    pub object: String,
    pub event_type: &'static str,
    pub reason: String,
}

/// The write for an event: a new object, or an update of a similar one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EventVerdict {
    /// A new event.
    Create { message: String },
    /// A repetition of an event that was written under this name.
    Repeat {
        name: String,
        count: i32,
        message: String,
    },
    /// No event: the object exceeded its rate for this reason.
    Silence,
}

#[derive(Debug, Default)]
pub(crate) struct Memory {
    written: Recent<(SimilarEvents, String), Written>,
    topics: Recent<SimilarEvents, Messages>,
    /// client-go has one budget for all reasons. Here objects have more events, and repeated
    /// waiting messages must not suppress others.
    budgets: Recent<SimilarEvents, Tokens>,
}

#[derive(Clone, Debug)]
struct Written {
    name: String,
    count: i32,
}

#[derive(Clone, Debug, Default)]
struct Messages {
    seen: BTreeMap<String, Timestamp>,
}

#[derive(Clone, Debug)]
struct Tokens {
    tokens: f64,
    at: Timestamp,
}

const COMBINED: &str = "(combined from similar events): ";

impl Memory {
    /// Decides how to write this event.
    pub(crate) fn judge(
        &mut self,
        topic: &SimilarEvents,
        message: &str,
        now: Timestamp,
    ) -> EventVerdict {
        let (key, text) = if self.is_one_of_many(topic, message, now) {
            (COMBINED.to_owned(), format!("{COMBINED}{message}"))
        } else {
            (message.to_owned(), message.to_owned())
        };
        let verdict = match self.written.get_mut(&(topic.clone(), key)) {
            Some(written) => {
                written.count = written.count.saturating_add(1);
                EventVerdict::Repeat {
                    name: written.name.clone(),
                    count: written.count,
                    message: text,
                }
            }
            None => EventVerdict::Create { message: text },
        };
        if self.spend(topic, now) {
            verdict
        } else {
            refusals::count(Budget::Events);
            EventVerdict::Silence
        }
    }

    /// Remembers under which name an event was written.
    pub(crate) fn remember(&mut self, topic: &SimilarEvents, message: &str, name: String) {
        let key = if message.starts_with(COMBINED) {
            COMBINED
        } else {
            message
        };
        self.written
            .insert((topic.clone(), key.to_owned()), Written { name, count: 1 });
    }

    /// Forgets an event that is not there any more.
    pub(crate) fn forget(&mut self, topic: &SimilarEvents, message: &str) {
        let key = if message.starts_with(COMBINED) {
            COMBINED
        } else {
            message
        };
        self.written.remove(&(topic.clone(), key.to_owned()));
    }

    fn is_one_of_many(&mut self, topic: &SimilarEvents, message: &str, now: Timestamp) -> bool {
        let messages = self.topics.get_or_default(topic);
        messages
            .seen
            .retain(|_, at| elapsed(*at, now) < limits::EVENT_SIMILAR_WINDOW);
        if let Some(at) = messages.seen.get_mut(message) {
            *at = now;
            return false;
        }
        if messages.seen.len() >= limits::EVENT_SIMILAR_MAX {
            return true;
        }
        messages.seen.insert(message.to_owned(), now);
        false
    }

    fn spend(&mut self, topic: &SimilarEvents, now: Timestamp) -> bool {
        let full = f64::from(limits::EVENT_BURST);
        if self.budgets.get_mut(topic).is_none() {
            self.budgets.insert(
                topic.clone(),
                Tokens {
                    tokens: full,
                    at: now,
                },
            );
        }
        let Some(budget) = self.budgets.get_mut(topic) else {
            return true;
        };
        let refill = elapsed(budget.at, now).as_secs_f64() / limits::EVENT_REFILL.as_secs_f64();
        budget.tokens = (budget.tokens + refill).min(full);
        budget.at = now;
        if budget.tokens < 1.0 {
            return false;
        }
        budget.tokens -= 1.0;
        true
    }
}

fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A map that drops the least recently used entry.
#[derive(Debug)]
struct Recent<Id, T> {
    entries: HashMap<Id, (u64, T)>,
    used: BTreeMap<u64, Id>,
    clock: u64,
}

impl<Id, T> Default for Recent<Id, T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            used: BTreeMap::new(),
            clock: 0,
        }
    }
}

impl<Id: Clone + Eq + Hash, T> Recent<Id, T> {
    fn get_mut(&mut self, id: &Id) -> Option<&mut T> {
        self.clock += 1;
        let (stamp, value) = self.entries.get_mut(id)?;
        if let Some(id) = self.used.remove(stamp) {
            self.used.insert(self.clock, id);
        }
        *stamp = self.clock;
        Some(value)
    }

    fn insert(&mut self, id: Id, value: T) {
        self.remove(&id);
        self.clock += 1;
        self.used.insert(self.clock, id.clone());
        self.entries.insert(id, (self.clock, value));
        while self.entries.len() > limits::EVENTS_REMEMBERED_MAX {
            let Some((_, oldest)) = self.used.pop_first() else {
                break;
            };
            self.entries.remove(&oldest);
        }
    }

    fn remove(&mut self, id: &Id) {
        if let Some((stamp, _)) = self.entries.remove(id) {
            self.used.remove(&stamp);
        }
    }
}

impl<Id: Clone + Eq + Hash, T: Default + Clone> Recent<Id, T> {
    fn get_or_default(&mut self, id: &Id) -> &mut T {
        if !self.entries.contains_key(id) {
            self.insert(id.clone(), T::default());
        }
        self.clock += 1;
        let clock = self.clock;
        let entry = self
            .entries
            .entry(id.clone())
            .or_insert_with(|| (clock, T::default()));
        &mut entry.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> SimilarEvents {
        SimilarEvents {
            object: "uid".to_owned(),
            event_type: "Normal",
            reason: "Pulled".to_owned(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_same_event_again_raises_its_count() {
        let mut memory = Memory::default();
        let created = EventVerdict::Create {
            message: "m".to_owned(),
        };
        assert_eq!(memory.judge(&topic(), "m", at(1)), created);
        memory.remember(&topic(), "m", "web.1".to_owned());
        let again = EventVerdict::Repeat {
            name: "web.1".to_owned(),
            count: 2,
            message: "m".to_owned(),
        };
        assert_eq!(memory.judge(&topic(), "m", at(2)), again);
    }

    #[test]
    fn many_messages_of_one_reason_become_one_event() {
        let mut memory = Memory::default();
        for number in 0..10 {
            let message = format!("m{number}");
            assert_eq!(
                memory.judge(&topic(), &message, at(1)),
                EventVerdict::Create { message }
            );
        }
        let message = "(combined from similar events): m10".to_owned();
        let combined = EventVerdict::Create {
            message: message.clone(),
        };
        assert_eq!(memory.judge(&topic(), "m10", at(2)), combined);
        memory.remember(&topic(), &message, "web.2".to_owned());
        let message = "(combined from similar events): m11".to_owned();
        let again = EventVerdict::Repeat {
            name: "web.2".to_owned(),
            count: 2,
            message,
        };
        assert_eq!(memory.judge(&topic(), "m11", at(3)), again);
    }

    #[test]
    fn an_object_with_too_many_events_of_a_reason_has_no_more_of_it_for_a_while() {
        let mut memory = Memory::default();
        let before = refusals::counted(Budget::Events);
        let verdicts: Vec<EventVerdict> = (0..26)
            .map(|_| memory.judge(&topic(), "m", at(1)))
            .collect();
        assert_ne!(verdicts[24], EventVerdict::Silence);
        assert_eq!(verdicts[25], EventVerdict::Silence);
        assert!(refusals::counted(Budget::Events) > before);
        let mut other = topic();
        other.reason = "Killing".to_owned();
        assert_ne!(memory.judge(&other, "m", at(1)), EventVerdict::Silence);
        assert_ne!(memory.judge(&topic(), "m", at(302)), EventVerdict::Silence);
    }

    #[test]
    fn what_was_used_longest_ago_is_forgotten_first() {
        let mut recent = Recent::<usize, usize>::default();
        for id in 0..limits::EVENTS_REMEMBERED_MAX {
            recent.insert(id, id);
        }
        recent.get_mut(&0);
        recent.insert(usize::MAX, 0);
        assert!(recent.get_mut(&0).is_some());
        assert!(recent.get_mut(&1).is_none());
        assert_eq!(recent.entries.len(), recent.used.len());
    }
}
