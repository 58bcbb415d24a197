//! The target of `logs`: a pod, or a workload with pods.

use clap::error::{Error, ErrorKind};
use diagnosis::TargetKind;
use kube_api_client::{Api, ApiResource, Client, DynamicObject, ListParams};
use object_model::LabelSelector;

/// The kinds that have pods.
pub const KINDS: &[TargetKind] = &[
    TargetKind::Pod,
    TargetKind::StatefulSet,
    TargetKind::Deployment,
    TargetKind::DaemonSet,
    TargetKind::ReplicaSet,
    TargetKind::Job,
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget {
    kind: TargetKind,
    name: String,
}

impl LogTarget {
    /// Reads `KIND/NAME`.
    ///
    /// # Errors
    /// A mistake in the command line, with the allowed forms.
    pub fn parse(word: &str) -> Result<Self, Error> {
        let mistake = |text: String| Error::raw(ErrorKind::InvalidValue, text + "\n");
        let (kind, name) = word.split_once('/').ok_or_else(|| {
            mistake(format!(
                "{word:?} is not of the form KIND/NAME; for example: mainstay logs sts/{word}"
            ))
        })?;
        if name.is_empty() || name.contains('/') {
            return Err(mistake(format!(
                "{name:?} is not a valid name; give KIND/NAME"
            )));
        }
        let supported_kind = TargetKind::called(kind).filter(|kind| KINDS.contains(kind));
        let kinds: Vec<&str> = KINDS.iter().map(|kind| kind.short()).collect();
        let kind = supported_kind.ok_or_else(|| {
            mistake(format!(
                "{kind:?} has no pods; allowed: {}",
                kinds.join(", ")
            ))
        })?;
        Ok(Self {
            kind,
            name: name.to_owned(),
        })
    }

    /// The selected pods; `None` if there is no such object.
    pub async fn selection(
        &self,
        client: &Client,
        namespace: &str,
    ) -> Result<Option<ListParams>, kube_api_client::Error> {
        let of_name = ListParams::default().fields(&format!("metadata.name={}", self.name));
        let kind = self.kind;
        let resource = ApiResource::new(kind.group(), "v1", kind.kind(), kind.plural());
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let Some(object) = api.get_opt(&self.name).await? else {
            return Ok(None);
        };
        if kind == TargetKind::Pod {
            return Ok(Some(of_name));
        }
        let selector = Some(&object.data["spec"]["selector"]);
        let selector = selector.filter(|selector| selector.is_object());
        let selector = selector.and_then(|selector| LabelSelector::from_json(selector).ok());
        // An object without a valid selector has no pods.
        Ok(selector.map(|selector| ListParams::default().labels(&selector.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_kubectl_knows() {
        let kind = |word: &str| LogTarget::parse(word).map(|target| target.kind);
        assert_eq!(kind("sts/web").unwrap(), TargetKind::StatefulSet);
        assert_eq!(kind("Deployment/web").unwrap(), TargetKind::Deployment);
        assert_eq!(kind("pod/web-0").unwrap(), TargetKind::Pod);
        let error = kind("web").unwrap_err().to_string();
        assert!(error.contains("mainstay logs sts/web"), "{error}");
        let error = kind("svc/web").unwrap_err().to_string();
        assert!(error.contains("allowed: pod, sts"), "{error}");
    }
}
