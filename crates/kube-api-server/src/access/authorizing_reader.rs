//! Reads by admission plug-ins with the rights of the user who made the request.

use std::net::IpAddr;
use std::sync::Arc;

use json_tree::{Value, json};
use resource_kinds::{ObjectReader, ResourceAttributes};

use crate::access::authorize::{self, AuthorizationAttributes, Authorizer};
use crate::http::user::UserInfo;
use crate::objects::storage::SyncReads;

/// Reads on behalf of a user, so that admission plug-ins can check the user's rights.
pub(crate) struct AuthorizingReader<'s> {
    pub(crate) reads: &'s SyncReads<'s>,
    pub(crate) authorizer: &'s Authorizer,
    pub(crate) user: &'s UserInfo,
    pub(crate) source: Option<IpAddr>,
}

impl ObjectReader for AuthorizingReader<'_> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.reads.get(group, plural, namespace, name)
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Value>> {
        self.reads.list(group, plural, namespace)
    }

    fn requester(&self) -> Value {
        let user = self.user;
        let mut asker = json!({});
        if !user.uid.is_empty() {
            asker["uid"] = json!(user.uid);
        }
        if !user.groups.is_empty() {
            asker["groups"] = json!(user.groups);
        }
        if !user.extra.is_empty() {
            asker["extra"] = json!(user.extra);
        }
        asker
    }

    fn source(&self) -> Option<IpAddr> {
        self.source
    }

    fn allows(&self, attributes: &ResourceAttributes<'_>) -> bool {
        let attributes = AuthorizationAttributes {
            verb: attributes.verb,
            group: attributes.group,
            resource: attributes.resource,
            namespace: attributes.namespace,
            name: attributes.name,
            ..AuthorizationAttributes::default()
        };
        authorize::decide(self.authorizer, self.user, &attributes).is_ok()
    }
}
