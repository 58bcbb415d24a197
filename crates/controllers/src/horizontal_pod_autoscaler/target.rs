//! The target of an autoscaler: an object of any kind with a scale sub-resource.

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, HorizontalPodAutoscaler};
use kube::api::{ApiResource, DynamicObject, PostParams, Request};
use kube::core::discovery::Scope;
use kube::error::DiscoveryError;
use kube::{Client, Resource, ResourceExt, discovery};
use reconcile::execute;

/// A target with its scale.
pub(super) struct Target {
    client: Client,
    path: String,
    name: String,
    pub scale: Scale,
}

impl Target {
    /// Reads the scale of an autoscaler's target.
    ///
    /// *Errors.* The message for the user.
    pub async fn read(
        client: &Client,
        autoscaler: &HorizontalPodAutoscaler,
    ) -> Result<Self, String> {
        let reference = &autoscaler.spec.scale_target_ref;
        let (resource, scope) = resource(client, reference).await?;
        let namespace = autoscaler.namespace().unwrap_or_default();
        let namespace = (scope == Scope::Namespaced).then_some(namespace.as_str());
        let path = DynamicObject::url_path(&resource, namespace);
        let request = Request::new(&path)
            .get_subresource("scale", &reference.name)
            .map_err(|error| error.to_string())?;
        let scale = client.request(request).await;
        let scale = scale.map_err(|error| execute::message(&error))?;
        Ok(Self {
            client: client.clone(),
            path,
            name: reference.name.clone(),
            scale,
        })
    }

    /// Writes the number of replicas, if the scale is unchanged.
    pub async fn rescale(self, replicas: i32) -> kube::Result<()> {
        let mut scale = self.scale;
        scale.spec.get_or_insert_default().replicas = Some(replicas);
        let body = serde_json::to_vec(&scale).map_err(kube::Error::SerdeError)?;
        let request = Request::new(&self.path)
            .replace_subresource("scale", &self.name, &PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        self.client.request::<Scale>(request).await.map(drop)
    }
}

/// The served resource of a kind: in the named version, or in another.
async fn resource(
    client: &Client,
    reference: &CrossVersionObjectReference,
) -> Result<(ApiResource, Scope), String> {
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
    let served = discovery::group(client, group).await;
    let served = served.map_err(|error| match error {
        kube::Error::Discovery(DiscoveryError::MissingApiGroup(_)) => unknown(),
        other => execute::message(&other),
    })?;
    let in_version = served.versioned_resources(version);
    let named = in_version.into_iter().find(|(one, _)| one.kind == *kind);
    let (resource, can) = named
        .or_else(|| served.recommended_kind(kind))
        .ok_or_else(unknown)?;
    Ok((resource, can.scope))
}
