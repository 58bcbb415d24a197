//! The group versions of extension API servers, from their APIServices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use controller_framework::{Cache, Changes};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;

use crate::Context;

/// A group and a version.
pub(crate) type GroupVersion = (String, String);

/// Time without a change of APIServices before the dependent controllers restart.
const QUIET: Duration = Duration::from_millis(200);

/// Time until the kinds of an available server are read again after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// The APIServices of the cluster.
#[derive(Clone)]
pub(crate) struct RemoteGroups(Cache<APIService>);

impl RemoteGroups {
    pub fn of(context: &Context) -> Self {
        Self(context.cache())
    }

    /// Waits for the first list; `false` after a shutdown.
    pub async fn wait_synced(&self) -> bool {
        self.0.wait_synced().await
    }

    pub fn subscribe(&self) -> Changes<APIService> {
        self.0.subscribe()
    }

    /// The group versions of extension API servers, and whether the server is available.
    pub fn all(&self) -> BTreeMap<GroupVersion, bool> {
        let services = self.0.list();
        let services = services.iter().filter_map(|service| of_service(service));
        services.collect()
    }

    /// Waits until a server has become available whose kinds are not in `read`, or an APIService of `read` was deleted.
    pub async fn differ(&self, read: &BTreeSet<GroupVersion>, changes: &mut Changes<APIService>) {
        if next(&self.all(), read) != *read {
            // The server reports that it is available, but its kinds could not be read a moment ago.
            tokio::time::sleep(RETRY).await;
            return;
        }
        while next(&self.all(), read) == *read {
            if changes.next().await.is_none() {
                return std::future::pending().await;
            }
        }
        while let Ok(Some(_)) = tokio::time::timeout(QUIET, changes.next()).await {}
    }
}

fn of_service(service: &APIService) -> Option<(GroupVersion, bool)> {
    let spec = service.spec.as_ref()?;
    spec.service.as_ref()?;
    let status = service.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    // A condition with the reason `Local` is older than the Service of the APIService.
    let is_available = conditions.any(|one| {
        one.type_ == "Available" && one.status == "True" && one.reason.as_deref() != Some("Local")
    });
    let name = (
        spec.group.clone().unwrap_or_default(),
        spec.version.clone().unwrap_or_default(),
    );
    Some((name, is_available))
}

/// The group versions whose kinds are watched: those of available servers, and those that were read before. A server
/// that is unavailable for some time must not restart the collection of all other objects.
fn next(
    all: &BTreeMap<GroupVersion, bool>,
    read: &BTreeSet<GroupVersion>,
) -> BTreeSet<GroupVersion> {
    let wanted = all
        .iter()
        .filter(|(name, is_available)| **is_available || read.contains(name));
    wanted.map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn name(group: &str) -> GroupVersion {
        (group.to_owned(), "v1".to_owned())
    }

    #[test]
    fn an_outage_restarts_nothing_and_a_deletion_does() {
        let read = BTreeSet::from([name("a")]);
        let all = |states: &[(&str, bool)]| {
            let states = states.iter();
            states
                .map(|(group, available)| (name(group), *available))
                .collect()
        };
        assert_eq!(next(&all(&[("a", true), ("b", false)]), &read), read);
        assert_eq!(next(&all(&[("a", false)]), &read), read);
        let both = BTreeSet::from([name("a"), name("b")]);
        assert_eq!(next(&all(&[("a", false), ("b", true)]), &read), both);
        assert_eq!(next(&all(&[]), &read), BTreeSet::new());
    }

    #[test]
    fn only_checked_servers_are_available() {
        let of = |service: json_tree::Value, reason: &str| {
            let object = json!({"metadata": {"name": "v1.a"}, "spec": {"group": "a", "version": "v1",
                "groupPriorityMinimum": 1, "versionPriority": 1, "service": service},
                "status": {"conditions": [{"type": "Available", "status": "True",
                    "reason": reason}]}});
            of_service(&json_tree::from_value(object).unwrap())
        };
        let service = || json!({"namespace": "n", "name": "s"});
        assert_eq!(of(service(), "Passed"), Some((name("a"), true)));
        assert_eq!(of(service(), "Local"), Some((name("a"), false)));
        assert_eq!(of(json_tree::Value::Null, "Local"), None);
    }
}
