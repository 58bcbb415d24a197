//! The target of `logs`: a pod, or a workload with pods.

use clap::error::{Error, ErrorKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::core::Selector;
use kube::{Api, Client};

/// The kinds by their names: group, version, kind, plural.
const KINDS: [(&[&str], [&str; 4]); 6] = [
    (&["po", "pod", "pods"], ["", "v1", "Pod", "pods"]),
    (
        &["sts", "statefulset", "statefulsets"],
        ["apps", "v1", "StatefulSet", "statefulsets"],
    ),
    (
        &["deploy", "deployment", "deployments"],
        ["apps", "v1", "Deployment", "deployments"],
    ),
    (
        &["ds", "daemonset", "daemonsets"],
        ["apps", "v1", "DaemonSet", "daemonsets"],
    ),
    (
        &["rs", "replicaset", "replicasets"],
        ["apps", "v1", "ReplicaSet", "replicasets"],
    ),
    (&["job", "jobs"], ["batch", "v1", "Job", "jobs"]),
];

/// A kind and a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    kind: [&'static str; 4],
    name: String,
}

impl Target {
    /// Reads `KIND/NAME`.
    ///
    /// # Errors
    /// A mistake in the command line, which says what is allowed.
    pub fn parse(word: &str) -> Result<Self, Error> {
        let mistake = |text: String| Error::raw(ErrorKind::InvalidValue, text + "\n");
        let (kind, name) = word.split_once('/').ok_or_else(|| {
            mistake(format!(
                "{word:?} is not of the form KIND/NAME; for example: mainstay logs sts/{word}"
            ))
        })?;
        if name.is_empty() || name.contains('/') {
            return Err(mistake(format!("{name:?} is no name; give KIND/NAME")));
        }
        let lower = kind.to_lowercase();
        let found = KINDS.iter().find(|(names, _)| names.contains(&&*lower));
        let kinds: Vec<&str> = KINDS.iter().map(|(names, _)| names[0]).collect();
        let (_, kind) = found.ok_or_else(|| {
            mistake(format!(
                "{kind:?} has no pods; allowed: {}",
                kinds.join(", ")
            ))
        })?;
        Ok(Self {
            kind: *kind,
            name: name.to_owned(),
        })
    }

    /// Which pods are meant; nothing if there is no such object.
    pub async fn selection(
        &self,
        client: &Client,
        namespace: &str,
    ) -> Result<Option<ListParams>, kube::Error> {
        let [group, version, kind, plural] = self.kind;
        let of_name = ListParams::default().fields(&format!("metadata.name={}", self.name));
        let resource = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&resource, plural);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let Some(object) = api.get_opt(&self.name).await? else {
            return Ok(None);
        };
        if kind == "Pod" {
            return Ok(Some(of_name));
        }
        let selector = object.data["spec"]["selector"].clone();
        let selector = serde_json::from_value::<LabelSelector>(selector).ok();
        let selector = selector.and_then(|selector| Selector::try_from(selector).ok());
        // One without a selector, or with one that means nothing, has no pods.
        Ok(selector.map(|selector| ListParams::default().labels_from(&selector)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_kubectl_knows() {
        let kind = |word: &str| Target::parse(word).map(|target| target.kind[2]);
        assert_eq!(kind("sts/web").unwrap(), "StatefulSet");
        assert_eq!(kind("Deployment/web").unwrap(), "Deployment");
        assert_eq!(kind("pod/web-0").unwrap(), "Pod");
        let error = kind("web").unwrap_err().to_string();
        assert!(error.contains("mainstay logs sts/web"), "{error}");
        let error = kind("svc/web").unwrap_err().to_string();
        assert!(error.contains("allowed: po, sts"), "{error}");
    }
}
