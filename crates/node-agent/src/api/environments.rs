//! The API objects that the environments of containers are built from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use pod_lifecycle::environment::downward::NodeFacts;
use pod_lifecycle::environment::{self, References};

use super::object_error::ApiObjectError;
use super::objects::ApiObjects;
use crate::limits::{ENVIRONMENT_BYTES_MAX, STORED_ENVIRONMENTS_BYTES_MAX};

/// The sources of the environment of each container of a pod at the last start of the container by this
/// agent. Sources beyond a total of [`STORED_ENVIRONMENTS_BYTES_MAX`] are not stored.
#[derive(Clone, Debug, Default)]
pub struct StoredEnvironments(Arc<Mutex<BTreeMap<String, environment::Sources>>>);

impl StoredEnvironments {
    fn store(&self, container: &str, sources: &environment::Sources) {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stored.remove(container);
        let bytes: usize = stored
            .values()
            .map(environment::Sources::object_bytes)
            .sum();
        if bytes + sources.object_bytes() <= STORED_ENVIRONMENTS_BYTES_MAX {
            stored.insert(container.to_owned(), sources.clone());
        }
    }

    fn get(&self, container: &str) -> Option<environment::Sources> {
        let stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stored.get(container).cloned()
    }
}

impl ApiObjects {
    /// The objects that a container's environment is built from, without Services. While the API does not
    /// respond, the sources of the container's last start are used, if this agent has started the
    /// container.
    pub async fn environment(
        &self,
        namespace: &str,
        container: &str,
        references: References,
        facts: NodeFacts,
        stored: &StoredEnvironments,
    ) -> Result<environment::Sources, ApiObjectError> {
        match self
            .read_environment(namespace, references, facts.clone())
            .await
        {
            Ok(sources) => {
                stored.store(container, &sources);
                Ok(sources)
            }
            Err(error) if error.is_unavailable_read() => match stored.get(container) {
                Some(sources) => Ok(environment::Sources { facts, ..sources }),
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn read_environment(
        &self,
        namespace: &str,
        references: References,
        facts: NodeFacts,
    ) -> Result<environment::Sources, ApiObjectError> {
        let mut sources = environment::Sources {
            facts,
            ..environment::Sources::default()
        };
        for (name, needed) in references.config_maps {
            let read = self.read::<ConfigMap>("configmap", namespace, &name);
            if let Some(object) = read.await? {
                let mut data = object.data.unwrap_or_default();
                data.retain(|key, _| needed.contains(key));
                sources.config_maps.insert(name, data);
            }
            check_environment(&sources)?;
        }
        for (name, needed) in references.secrets {
            let read = self.read::<Secret>("secret", namespace, &name);
            if let Some(object) = read.await? {
                let data = object.data.into_iter().flatten();
                let data = data.filter(|(key, _)| needed.contains(key));
                let data = data.map(|(key, ByteString(bytes))| (key, bytes)).collect();
                sources.secrets.insert(name, data);
            }
            check_environment(&sources)?;
        }
        Ok(sources)
    }
}

/// *Errors.* The environment is larger than the kernel accepts.
fn check_environment(sources: &environment::Sources) -> Result<(), ApiObjectError> {
    if sources.object_bytes() <= ENVIRONMENT_BYTES_MAX {
        return Ok(());
    }
    Err(ApiObjectError::EnvironmentTooLarge)
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
        let stored = StoredEnvironments::default();
        let half = STORED_ENVIRONMENTS_BYTES_MAX / 2;
        stored.store("a", &sources(half));
        stored.store("b", &sources(half));
        stored.store("c", &sources(2));
        assert_eq!(stored.get("a"), Some(sources(half)));
        assert_eq!(stored.get("c"), None);
        // The stored environment of this container is replaced.
        stored.store("b", &sources(2));
        stored.store("c", &sources(2));
        assert_eq!(stored.get("c"), Some(sources(2)));
        assert!(check_environment(&sources(ENVIRONMENT_BYTES_MAX)).is_ok());
        let error = check_environment(&sources(ENVIRONMENT_BYTES_MAX + 1)).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("more than 6291456 bytes"), "{message}");
    }
}
