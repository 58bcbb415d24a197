//! Aggregation of similar events, and the limit on the events of an object.
//!
//! Three rules apply, in this order. Many different messages of one reason within some minutes are combined into one
//! event. A repetition of an event increases its count. An object above its rate for a reason gets no more events of
//! this reason for a while. Pure: the time is an argument.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use process_telemetry::refusals::{self, Budget};

use crate::limits;

/// The properties that similar events share: everything except the message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SimilarEvents {
    /// UID (or name) of the object, together with its field path.
    pub object: String,
    pub event_type: &'static str,
    pub reason: String,
}

/// The write for an event: a new object, or an update of a similar one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EventVerdict {
    /// A new event.
    Create { message: String },
    /// A repetition of the event with this name.
    Repeat {
        name: String,
        count: i32,
        message: String,
    },
    /// No event: the object exceeded its rate for this reason.
    Silence,
}

/// The topics of the last hour, the time for which an event is stored. The memory holds at most
/// [`limits::EVENTS_REMEMBERED_MAX`] messages.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    topics: HashMap<Arc<SimilarEvents>, Topic>,
    /// The topics in the order of their last use.
    by_use: BTreeMap<u64, Arc<SimilarEvents>>,
    uses: u64,
    messages: usize,
}

/// The events of one topic.
#[derive(Debug)]
struct Topic {
    last_use: u64,
    used_at: Timestamp,
    /// client-go has one budget for all reasons. Here objects have more events, and repeated messages about waiting
    /// must not suppress other events.
    tokens: f64,
    messages: Vec<Message>,
}

#[derive(Debug)]
struct Message {
    text: String,
    at: Timestamp,
    written: Option<Written>,
}

#[derive(Clone, Debug)]
struct Written {
    name: String,
    count: i32,
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
        self.forget_topics_before(now);
        let topic = self.used(topic, now);
        let messages_before = topic.messages.len();
        let text = match topic.is_one_of_many(message, now) {
            true => format!("{COMBINED}{message}"),
            false => message.to_owned(),
        };
        let written = topic.updated(key(&text), now).written.as_mut();
        let verdict = match written {
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
        let may_write = topic.spend();
        let new_messages = topic.messages.len() - messages_before;
        self.messages += new_messages;
        self.forget_topics_beyond_the_bound();
        if may_write {
            verdict
        } else {
            refusals::count(Budget::Events);
            EventVerdict::Silence
        }
    }

    /// Remembers the name under which an event was written.
    pub(crate) fn remember(&mut self, topic: &SimilarEvents, message: &str, name: String) {
        if let Some(message) = self.message(topic, message) {
            message.written = Some(Written { name, count: 1 });
        }
    }

    /// Forgets an event that was deleted.
    pub(crate) fn forget(&mut self, topic: &SimilarEvents, message: &str) {
        if let Some(message) = self.message(topic, message) {
            message.written = None;
        }
    }

    fn message(&mut self, topic: &SimilarEvents, message: &str) -> Option<&mut Message> {
        self.topics.get_mut(topic)?.message(key(message))
    }

    /// The topic, which becomes the most recently used topic.
    fn used(&mut self, topic: &SimilarEvents, now: Timestamp) -> &mut Topic {
        self.uses += 1;
        let last_use = self.topics.get(topic).map(|topic| topic.last_use);
        let name = last_use.and_then(|last_use| self.by_use.remove(&last_use));
        let name = name.unwrap_or_else(|| Arc::new(topic.clone()));
        self.by_use.insert(self.uses, Arc::clone(&name));
        let topic = self.topics.entry(name).or_insert_with(|| Topic::new(now));
        topic.refill(now);
        topic.last_use = self.uses;
        topic
    }

    /// Forgets topics that were not used for an hour, because their events are no longer stored.
    fn forget_topics_before(&mut self, now: Timestamp) {
        while let Some(oldest) = self.by_use.first_entry() {
            let topic = self.topics.get(oldest.get());
            let is_stored = |topic: &Topic| elapsed(topic.used_at, now) < limits::EVENT_STORED;
            if topic.is_some_and(is_stored) {
                return;
            }
            cov_mark::hit!(findings_2_r41);
            self.forget_oldest();
        }
    }

    fn forget_topics_beyond_the_bound(&mut self) {
        while self.messages > limits::EVENTS_REMEMBERED_MAX && self.by_use.len() > 1 {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.by_use.pop_first();
        let topic = oldest.and_then(|(_, oldest)| self.topics.remove(&oldest));
        self.messages -= topic.map_or(0, |topic| topic.messages.len());
    }
}

impl Topic {
    fn new(now: Timestamp) -> Self {
        Self {
            last_use: 0,
            used_at: now,
            tokens: f64::from(limits::EVENT_BURST),
            messages: Vec::new(),
        }
    }

    fn message(&mut self, text: &str) -> Option<&mut Message> {
        self.messages
            .iter_mut()
            .find(|message| message.text == text)
    }

    /// Whether the topic already has the maximum number of other recent messages with separate events.
    fn is_one_of_many(&self, text: &str, now: Timestamp) -> bool {
        let is_recent = |message: &Message| elapsed(message.at, now) < limits::EVENT_SIMILAR_WINDOW;
        let is_similar = || {
            self.messages
                .iter()
                .filter(|message| message.text != COMBINED)
        };
        let mut recent = is_similar().filter(|message| is_recent(message));
        !recent.clone().any(|message| message.text == text)
            && recent.nth(limits::EVENT_SIMILAR_MAX - 1).is_some()
    }

    /// The entry of the message, updated to now. A topic keeps one entry per separate event and one for the combined
    /// event; the least recently used entry is dropped.
    fn updated(&mut self, text: &str, now: Timestamp) -> &mut Message {
        let position = self
            .messages
            .iter()
            .position(|message| message.text == text);
        let position = position.unwrap_or_else(|| {
            if self.messages.len() > limits::EVENT_SIMILAR_MAX {
                let ages = self.messages.iter().enumerate();
                let oldest = ages.min_by_key(|(_, message)| message.at);
                if let Some((oldest, _)) = oldest {
                    self.messages.swap_remove(oldest);
                }
            }
            self.messages.push(Message {
                text: text.to_owned(),
                at: now,
                written: None,
            });
            self.messages.len() - 1
        });
        let message = &mut self.messages[position];
        message.at = now;
        message
    }

    fn refill(&mut self, now: Timestamp) {
        let refill = elapsed(self.used_at, now).as_secs_f64() / limits::EVENT_REFILL.as_secs_f64();
        self.tokens = (self.tokens + refill).min(f64::from(limits::EVENT_BURST));
        self.used_at = now;
    }

    fn spend(&mut self) -> bool {
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// The text by which the memory identifies a message. All combined messages have the same text.
fn key(message: &str) -> &str {
    match message.starts_with(COMBINED) {
        true => COMBINED,
        false => message,
    }
}

fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
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

    /// A topic with its own object for each number.
    fn numbered(number: usize) -> SimilarEvents {
        SimilarEvents {
            object: format!("uid-{number}"),
            ..topic()
        }
    }

    fn write(memory: &mut Memory, topic: &SimilarEvents, message: &str, now: Timestamp) {
        memory.judge(topic, message, now);
        memory.remember(topic, message, "written".to_owned());
    }

    fn has_topic(memory: &Memory, topic: &SimilarEvents) -> bool {
        memory.topics.contains_key(topic)
    }

    #[test]
    fn the_topic_that_was_used_longest_ago_is_forgotten_first() {
        let mut memory = Memory::default();
        for number in 0..limits::EVENTS_REMEMBERED_MAX {
            write(&mut memory, &numbered(number), "m", at(1));
        }
        write(&mut memory, &numbered(0), "m", at(2));
        assert!(has_topic(&memory, &numbered(1)));
        write(&mut memory, &numbered(usize::MAX), "m", at(2));
        assert!(has_topic(&memory, &numbered(0)));
        assert!(!has_topic(&memory, &numbered(1)));
        assert_eq!(memory.topics.len(), memory.by_use.len());
        assert_eq!(memory.messages, limits::EVENTS_REMEMBERED_MAX);
    }

    /// findings-2 R41
    #[test]
    fn topics_are_forgotten_with_their_events() {
        cov_mark::check!(findings_2_r41);
        let mut memory = Memory::default();
        for number in 0..1000 {
            write(&mut memory, &numbered(number), "m", at(1));
        }
        write(&mut memory, &numbered(0), "m", at(3600));
        assert_eq!(memory.topics.len(), 1000);
        write(&mut memory, &numbered(0), "m", at(3601));
        assert_eq!(memory.topics.len(), 1);
        assert_eq!(memory.messages, 1);
    }

    /// findings-2 R41
    #[test]
    fn a_topic_keeps_a_bounded_number_of_messages_and_counts_the_last_ones_on() {
        let mut memory = Memory::default();
        for number in 0..100 {
            // As many as an object may have for one reason.
            let (message, now) = (format!("m{number}"), at(number * 300));
            assert_eq!(
                memory.judge(&topic(), &message, now),
                EventVerdict::Create {
                    message: message.clone()
                }
            );
            memory.remember(&topic(), &message, message.clone());
        }
        assert_eq!(memory.messages, limits::EVENT_SIMILAR_MAX + 1);
        let later = at(99 * 300 + 1200);
        let again = EventVerdict::Repeat {
            name: "m99".to_owned(),
            count: 2,
            message: "m99".to_owned(),
        };
        assert_eq!(memory.judge(&topic(), "m99", later), again);
    }
}
