//! Authorisation by RBAC, from the roles and bindings in the store.

mod agents;
mod escalation;
mod index;
mod refresh;
mod rules;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use object_model::{Status, StatusReason};
use thiserror::Error;

use crate::http::request_info::RequestInfo;
use crate::http::user::UserInfo;
use crate::objects::storage::Objects;

use agents::NodeRefusal;
pub(crate) use agents::node_of;
pub(crate) use escalation::check as check_escalation;
pub(crate) use index::Index;
pub(crate) use refresh::{Sources, fill, run as keep_fresh};
pub(crate) use rules::{AuthorizationAttributes, Rule};

/// Members of this group may do everything; no role is needed.
const MASTERS: &str = "system:masters";

/// RBAC: an index over roles and bindings, updated by watches.
#[derive(Default)]
pub(crate) struct Rbac {
    index: RwLock<Index>,
    synced: AtomicBool,
}

/// RBAC together with the node authoriser, which reads the objects that pods refer to.
pub(crate) struct Authorizer {
    pub(crate) rbac: Arc<Rbac>,
    objects: Arc<Objects>,
}

impl Authorizer {
    /// Until the index of roles is filled, the authoriser refuses all requests.
    pub(crate) fn new(objects: Arc<Objects>) -> Self {
        Self {
            rbac: Arc::default(),
            objects,
        }
    }
}

impl Rbac {
    pub(crate) fn allows(&self, user: &UserInfo, attributes: &AuthorizationAttributes<'_>) -> bool {
        if user.groups.iter().any(|group| group == MASTERS) {
            return true;
        }
        self.read(|index| index.allows(user, attributes))
    }

    /// All rules that a user has in a namespace.
    pub(crate) fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let mut rules = self.read(|index| index.rules(user, namespace));
        if user.groups.iter().any(|group| group == MASTERS) {
            rules.extend(Rule::everything());
            rules.sort_unstable();
            rules.dedup();
        }
        rules
    }

    pub(crate) fn read<T>(&self, with: impl FnOnce(&Index) -> T) -> T {
        // A thread that panicked with the lock did not leave a partly changed map: each change replaces whole
        // entries.
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

    pub(crate) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }
}

/// The reason why a request is not allowed.
#[derive(Debug, Error)]
pub(crate) enum AuthorizationRefusal {
    #[error("no role allows the request")]
    NoRole,
    #[error(transparent)]
    Node(#[from] NodeRefusal),
}

impl AuthorizationRefusal {
    /// The reason in responses; `None` if upstream states none.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Self::NoRole | Self::Node(NodeRefusal::Unexplained) => None,
            Self::Node(refusal) => Some(refusal.to_string()),
        }
    }
}

/// Decides by the roles and, for a node, by the node authoriser.
pub(crate) fn decide(
    authorizer: &Authorizer,
    user: &UserInfo,
    attributes: &AuthorizationAttributes<'_>,
) -> Result<(), AuthorizationRefusal> {
    let node = node_of(user);
    // The node authoriser of Kubernetes also allows this request without a role.
    if node.is_some() && agents::opens_tunnel(attributes) {
        return Ok(());
    }
    if !authorizer.rbac.allows(user, attributes) {
        return Err(AuthorizationRefusal::NoRole);
    }
    if let Some(name) = node {
        agents::permits(&authorizer.objects, name, attributes)?;
    }
    Ok(())
}

/// Refuses a request that its user may not make.
///
/// *Errors.* 403 with upstream's text (kubectl.md 0.1).
pub(crate) fn authorize(
    authorizer: &Authorizer,
    user: &UserInfo,
    info: &RequestInfo,
) -> Result<(), Status> {
    let decision = decide(authorizer, user, &AuthorizationAttributes::of(info));
    decision.map_err(|refusal| forbidden(user, info, &refusal))
}

fn forbidden(user: &UserInfo, info: &RequestInfo, refusal: &AuthorizationRefusal) -> Status {
    let who = &user.name;
    let reason = match refusal.reason() {
        None => String::new(),
        Some(reason) => format!(": {reason}"),
    };
    if !info.is_resource {
        let text = format!(
            "forbidden: User {who:?} cannot {} path {:?}{reason}",
            info.verb, info.path
        );
        return Status::new(StatusReason::Forbidden, text);
    }
    let resource = if info.subresource.is_empty() {
        info.resource.clone()
    } else {
        format!("{}/{}", info.resource, info.subresource)
    };
    let scope = if info.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", info.namespace)
    };
    let why = format!(
        "User {who:?} cannot {} resource {resource:?} in API group {:?} {scope}{reason}",
        info.verb, info.group
    );
    Status::forbidden(&info.group, &info.resource, &info.name, &why)
}
