//! The API objects that the environments of containers are built from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use pod_lifecycle::environment::downward::NodeFacts;
use pod_lifecycle::environment::{self, References};

use super::objects::{ApiObjects, Unread};
use crate::limits::{ENVIRONMENT_BYTES_MAX, KNOWN_ENVIRONMENTS_BYTES_MAX};

/// The sources of the environment of each container of a pod at the last start of the container by this
/// agent. Sources beyond a total of [`KNOWN_ENVIRONMENTS_BYTES_MAX`] are not stored.
#[derive(Clone, Debug, Default)]
pub struct KnownEnvironments(Arc<Mutex<BTreeMap<String, environment::Sources>>>);

impl KnownEnvironments {
    fn keep(&self, container: &str, sources: &environment::Sources) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(container);
        let kept: usize = known.values().map(environment::Sources::object_bytes).sum();
        if kept + sources.object_bytes() <= KNOWN_ENVIRONMENTS_BYTES_MAX {
            known.insert(container.to_owned(), sources.clone());
        }
    }

    fn of(&self, container: &str) -> Option<environment::Sources> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(container).cloned()
    }
}

impl ApiObjects {
    /// The objects that a container's environment is built from, without Services. While the API does not
    /// respond, the sources of the container's last start are used, if this agent has started the
    /// container.
    pub async fn environment(
        &self,
        pod: &Pod,
        container: &str,
        references: References,
        facts: NodeFacts,
        known: &KnownEnvironments,
    ) -> Result<environment::Sources, String> {
        match self.read_environment(pod, references, facts.clone()).await {
            Ok(sources) => {
                known.keep(container, &sources);
                Ok(sources)
            }
            Err(unread) => match known.of(container).filter(|_| unread.is_away) {
                Some(sources) => Ok(environment::Sources { facts, ..sources }),
                None => Err(unread.message),
            },
        }
    }

    async fn read_environment(
        &self,
        pod: &Pod,
        references: References,
        facts: NodeFacts,
    ) -> Result<environment::Sources, Unread> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut found = environment::Sources {
            facts,
            ..environment::Sources::default()
        };
        for (name, needed) in references.config_maps {
            let read = self.read::<ConfigMap>("configmap", namespace, &name);
            if let Some(object) = read.await? {
                let mut data = object.data.unwrap_or_default();
                data.retain(|key, _| needed.contains(key));
                found.config_maps.insert(name, data);
            }
            check_environment(&found)?;
        }
        for (name, needed) in references.secrets {
            let read = self.read::<Secret>("secret", namespace, &name);
            if let Some(object) = read.await? {
                let data = object.data.into_iter().flatten();
                let data = data.filter(|(key, _)| needed.contains(key));
                let data = data.map(|(key, ByteString(bytes))| (key, bytes)).collect();
                found.secrets.insert(name, data);
            }
            check_environment(&found)?;
        }
        Ok(found)
    }
}

/// *Errors.* The environment is larger than the kernel accepts.
fn check_environment(sources: &environment::Sources) -> Result<(), Unread> {
    if sources.object_bytes() <= ENVIRONMENT_BYTES_MAX {
        return Ok(());
    }
    Err(Unread {
        message: format!(
            "the ConfigMaps and Secrets of the environment have more than {ENVIRONMENT_BYTES_MAX} bytes, the most that \
             Linux takes"
        ),
        is_away: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings-2 S39
    #[test]
    fn environments_are_kept_up_to_a_bound_and_larger_ones_than_linux_takes_are_refused() {
        let sources = |bytes: usize| environment::Sources {
            config_maps: BTreeMap::from([(
                "m".to_owned(),
                BTreeMap::from([("k".to_owned(), "x".repeat(bytes - 1))]),
            )]),
            ..environment::Sources::default()
        };
        let known = KnownEnvironments::default();
        let half = KNOWN_ENVIRONMENTS_BYTES_MAX / 2;
        known.keep("a", &sources(half));
        known.keep("b", &sources(half));
        known.keep("c", &sources(2));
        assert_eq!(known.of("a"), Some(sources(half)));
        assert_eq!(known.of("c"), None);
        // The stored environment of this container is replaced.
        known.keep("b", &sources(2));
        known.keep("c", &sources(2));
        assert_eq!(known.of("c"), Some(sources(2)));
        assert!(check_environment(&sources(ENVIRONMENT_BYTES_MAX)).is_ok());
        let refused = check_environment(&sources(ENVIRONMENT_BYTES_MAX + 1))
            .err()
            .unwrap();
        assert!(
            refused.message.contains("more than 6291456 bytes"),
            "{}",
            refused.message
        );
    }
}
