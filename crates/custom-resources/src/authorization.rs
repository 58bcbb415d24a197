//! Checks of rights during the evaluation of expressions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The user whose rights are checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessSubject {
    /// The user of the admission request.
    Requester,
    ServiceAccount {
        namespace: String,
        name: String,
    },
}

/// The resource of a check. Empty texts match as in a SubjectAccessReview.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceAccess {
    pub group: String,
    /// The resource in the plural, for instance `pods`.
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// The text of a field selector; an invalid selector restricts nothing.
    pub field_selector: String,
    /// The text of a label selector; an invalid selector restricts nothing.
    pub label_selector: String,
}

/// The target of a check.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessTarget {
    /// A path that is not of a resource, for instance `/healthz`.
    Path(String),
    Resource(ResourceAccess),
}

/// One check of a right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccessCheck {
    pub subject: AccessSubject,
    pub target: AccessTarget,
    /// The verb, for instance `get`; of a path, the method in lower case.
    pub verb: String,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessDecision {
    pub is_allowed: bool,
    /// The reason of the decision; may be empty.
    pub reason: String,
    /// The error of the check; `None` if the authoriser could decide.
    pub error: Option<String>,
}

/// The function that decides a check. It runs during the evaluation, so it does not wait for anything.
type Decide = dyn Fn(&AccessCheck) -> AccessDecision + Send + Sync;

/// The authoriser for the expressions about one request; it remembers its decisions.
pub struct RequestAuthorizer {
    decide: Box<Decide>,
    decisions: Mutex<BTreeMap<AccessCheck, AccessDecision>>,
}

impl fmt::Debug for RequestAuthorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestAuthorizer").finish_non_exhaustive()
    }
}

impl RequestAuthorizer {
    pub fn new(decide: impl Fn(&AccessCheck) -> AccessDecision + Send + Sync + 'static) -> Self {
        Self {
            decide: Box::new(decide),
            decisions: Mutex::default(),
        }
    }

    pub(crate) fn check(&self, check: AccessCheck) -> AccessDecision {
        let lock = || {
            self.decisions
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let remembered = lock().get(&check).cloned();
        remembered.unwrap_or_else(|| {
            let decision = (self.decide)(&check);
            lock().insert(check, decision.clone());
            decision
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_decision_is_made_once_for_a_request() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let authorizer = RequestAuthorizer::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            AccessDecision::default()
        });
        let check = |verb: &str| AccessCheck {
            subject: AccessSubject::Requester,
            target: AccessTarget::Path("/".to_owned()),
            verb: verb.to_owned(),
        };
        for verb in ["get", "get", "post", "get"] {
            assert!(!authorizer.check(check(verb)).is_allowed);
        }
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}
