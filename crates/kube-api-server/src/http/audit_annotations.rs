//! The annotations that admission adds to the audit event of a request.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use object_model::names;

/// Maximum number of bytes of all keys and values of one event. Further annotations are left out, with a warning in
/// the program's log.
const BYTES_MAX: usize = 256 * 1024;

/// The events that have an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnnotationLevel {
    /// Events of every level.
    Metadata,
    /// Events with the request object, because the annotation has parts of it.
    Request,
}

#[derive(Debug, Default)]
struct Content {
    annotations: BTreeMap<String, (String, AnnotationLevel)>,
    /// The bytes of all keys and values.
    bytes: usize,
}

/// The annotations of one request, from any step of its admission.
#[derive(Debug, Default)]
pub(crate) struct AuditAnnotations(Mutex<Content>);

impl AuditAnnotations {
    /// Adds an annotation. As upstream, the first value of a key stays, and a key must be a name with a DNS subdomain
    /// as its prefix.
    pub(crate) fn add(&self, key: &str, value: &str, level: AnnotationLevel) {
        if !is_valid(key) {
            tracing::warn!(key, "the key of an audit annotation is invalid");
            return;
        }
        let mut content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match content.annotations.get(key) {
            Some((existing, _)) if existing == value => return,
            Some(_) => {
                tracing::warn!(key, "an audit annotation has another value already");
                return;
            }
            None => {}
        }
        let bytes = content.bytes + key.len() + value.len();
        if bytes > BYTES_MAX {
            tracing::warn!(key, "the audit annotations of a request are too large");
            return;
        }
        content.bytes = bytes;
        content
            .annotations
            .insert(key.to_owned(), (value.to_owned(), level));
    }

    /// The keys and values for an event, with or without the request object.
    pub(crate) fn of_event(&self, has_request: bool) -> Vec<(String, String)> {
        let content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let visible = content
            .annotations
            .iter()
            .filter(|(_, (_, level))| has_request || *level == AnnotationLevel::Metadata);
        visible
            .map(|(key, (value, _))| (key.clone(), value.clone()))
            .collect()
    }
}

fn is_valid(key: &str) -> bool {
    let Some((prefix, name)) = key.split_once('/') else {
        return false;
    };
    !name.is_empty() && !name.contains('/') && names::dns_subdomain(prefix).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_of_a_valid_key_stays() {
        let annotations = AuditAnnotations::default();
        let level = AnnotationLevel::Metadata;
        for (key, value) in [
            ("a.b/k", "1"),
            ("a.b/k", "2"),
            ("k", "no prefix"),
            ("A_/k", "no subdomain"),
            ("a/b/k", "two names"),
            ("a/", "no name"),
        ] {
            annotations.add(key, value, level);
        }
        annotations.add("a.b/patch", "[]", AnnotationLevel::Request);
        let one = ("a.b/k".to_owned(), "1".to_owned());
        assert_eq!(annotations.of_event(false), std::slice::from_ref(&one));
        let patch = ("a.b/patch".to_owned(), "[]".to_owned());
        assert_eq!(annotations.of_event(true), [one, patch]);
    }

    #[test]
    fn the_annotations_of_a_request_have_a_bound() {
        let annotations = AuditAnnotations::default();
        let value = "x".repeat(10 * 1024);
        for number in 0..100 {
            annotations.add(
                &format!("a/k{number:02}"),
                &value,
                AnnotationLevel::Metadata,
            );
        }
        let bytes = annotations
            .of_event(false)
            .into_iter()
            .map(|(key, value)| key.len() + value.len());
        let bytes: usize = bytes.sum();
        assert!(
            (BYTES_MAX - 11 * 1024..=BYTES_MAX).contains(&bytes),
            "{bytes}"
        );
    }
}
