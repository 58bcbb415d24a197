//! The target of an autoscaler: an object of any kind with a scale sub-resource.

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, HorizontalPodAutoscaler};
use kube_api_client::guarded_writes;
use kube_api_client::{Api, Client, DynamicObject, PostParams, ServedResource};
use resource_kinds::MetadataIdentity;

/// A target with its scale.
pub(super) struct ScaleTarget {
    api: Api<DynamicObject>,
    name: String,
    pub scale: Scale,
}

impl ScaleTarget {
    /// Reads the scale of an autoscaler's target.
    ///
    /// *Errors.* The message for the user.
    pub async fn read(
        client: &Client,
        autoscaler: &HorizontalPodAutoscaler,
    ) -> Result<Self, String> {
        let reference = &autoscaler.spec.scale_target_ref;
        let served = resource(client, reference).await?;
        let namespace = autoscaler.metadata.object_namespace();
        let namespace = namespace.map_err(|error| error.to_string())?;
        let client = client.clone();
        let api: Api<DynamicObject> = match served.namespaced {
            true => Api::namespaced_with(client, namespace, &served.resource),
            false => Api::all_with(client, &served.resource),
        };
        let scale = api.get_subresource("scale", &reference.name).await;
        Ok(Self {
            scale: scale.map_err(|error| guarded_writes::message(&error))?,
            api,
            name: reference.name.clone(),
        })
    }

    /// Writes the number of replicas, if the scale is unchanged.
    pub async fn rescale(self, replicas: i32) -> kube_api_client::Result<()> {
        let mut scale = self.scale;
        scale.spec.get_or_insert_default().replicas = Some(replicas);
        let params = PostParams::default();
        let written = self
            .api
            .replace_subresource("scale", &self.name, &params, &scale);
        written.await.map(drop)
    }
}

/// The served resource of a kind: in the named version, or in the preferred version.
pub(super) async fn resource(
    client: &Client,
    reference: &CrossVersionObjectReference,
) -> Result<ServedResource, String> {
    let api_version = reference.api_version.as_deref().unwrap_or_default();
    let (group, version) = match api_version.split_once('/') {
        Some((_, version)) if version.contains('/') => {
            return Err(format!("unexpected GroupVersion string: {api_version}"));
        }
        Some(parts) => parts,
        None => ("", api_version),
    };
    let kind = &reference.kind;
    let unknown = || format!("no matches for kind \"{kind}\" in group \"{group}\"");
    let message = |error| guarded_writes::message(&error);
    let served = client.served_group(group).await.map_err(message)?;
    let mut versions = served.ok_or_else(unknown)?.versions;
    let preferred = versions.first().cloned();
    versions.retain(|served| served == version);
    versions.extend(preferred);
    for version in versions {
        let in_version = client.served_resources(group, &version).await;
        let mut in_version = in_version.map_err(message)?.into_iter();
        if let Some(served) = in_version.find(|one| one.resource.kind == *kind) {
            return Ok(served);
        }
    }
    Err(unknown())
}
