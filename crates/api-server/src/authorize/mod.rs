//! Who may do what: RBAC, from the roles and bindings in the store.

mod escalation;
mod index;
mod refresh;
mod rules;

use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

use object_model::{Status, StatusReason};

use crate::identity::UserInfo;
use crate::request_info::RequestInfo;

pub(crate) use escalation::check as check_escalation;
pub(crate) use index::Index;
pub(crate) use refresh::{Sources, fill, run as keep_fresh};
pub(crate) use rules::{Asked, Rule};

/// The group whose members may do everything, whatever the roles say.
const MASTERS: &str = "system:masters";

/// The authoriser: an index over roles and bindings, kept fresh by watches.
#[derive(Default)]
pub(crate) struct Rbac {
    index: RwLock<Index>,
    synced: AtomicBool,
}

impl Rbac {
    /// Whether the user may do what is asked.
    pub(crate) fn allows(&self, user: &UserInfo, asked: &Asked<'_>) -> bool {
        if user.groups.iter().any(|group| group == MASTERS) {
            return true;
        }
        self.read(|index| index.allows(user, asked))
    }

    /// All rules that a user has in a namespace.
    pub(crate) fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let mut rules = self.read(|index| index.rules(user, namespace));
        if user.groups.iter().any(|group| group == MASTERS) {
            rules.extend(Rule::everything());
            rules.sort();
            rules.dedup();
        }
        rules
    }

    pub(crate) fn read<T>(&self, with: impl FnOnce(&Index) -> T) -> T {
        // A panic while the lock was held leaves maps that are still whole.
        with(
            &self
                .index
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    fn write(&self, with: impl FnOnce(&mut Index)) {
        with(
            &mut self
                .index
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
    }

    /// Whether the index has been filled.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }
}

/// Refuses a request that its user may not make.
///
/// *Errors.* 403 with upstream's text (kubectl.md 0.1).
pub(crate) fn authorize(rbac: &Rbac, user: &UserInfo, info: &RequestInfo) -> Result<(), Status> {
    let asked = Asked::of(info);
    if rbac.allows(user, &asked) {
        Ok(())
    } else {
        Err(forbidden(user, info))
    }
}

fn forbidden(user: &UserInfo, info: &RequestInfo) -> Status {
    let who = &user.name;
    if !info.is_resource {
        let text = format!(
            "forbidden: User {who:?} cannot {} path {:?}",
            info.verb, info.path
        );
        return Status::new(StatusReason::Forbidden, text);
    }
    let resource = if info.subresource.is_empty() {
        info.resource.clone()
    } else {
        format!("{}/{}", info.resource, info.subresource)
    };
    let place = if info.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", info.namespace)
    };
    let why = format!(
        "User {who:?} cannot {} resource {resource:?} in API group {:?} {place}",
        info.verb, info.group
    );
    Status::forbidden(&info.group, &info.resource, &info.name, &why)
}
