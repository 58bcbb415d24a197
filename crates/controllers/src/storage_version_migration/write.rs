//! The objects of a resource, each written without a change.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_api_client::guarded_writes::{is_of_the_object, message, unless_outrun};
use kube_api_client::{Api, ApiResource, Client, DynamicObject, ListParams, Patch, PatchParams};

/// Objects per list request.
const PAGE: u32 = 500;

/// The reason why objects were not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// No API serves the resource.
    #[error("resource does not exist in discovery")]
    Unknown,
    /// The definition does not serve the version in which objects are stored.
    #[error("the storage version {0} is not served; set `served: true` first")]
    NotServed(String),
    /// The server refused a request about this object or did not respond.
    #[error("{0}: {text}", text = message(.1))]
    Api(String, #[source] kube_api_client::Error),
}

impl WriteError {
    /// Whether another attempt has the same result.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Unknown | Self::NotServed(_) => true,
            Self::Api(_, error) => is_of_the_object(error),
        }
    }
}

/// A resource in the version in which its objects are written.
pub(super) struct MigratedResource {
    resource: ApiResource,
    is_namespaced: bool,
}

impl MigratedResource {
    /// The storage version of a definition.
    pub(super) fn of_definition(definition: &CustomResourceDefinition) -> Result<Self, WriteError> {
        let spec = &definition.spec;
        let stored = spec.versions.iter().find(|version| version.storage);
        let stored = stored.ok_or(WriteError::Unknown)?;
        if !stored.served {
            return Err(WriteError::NotServed(stored.name.clone()));
        }
        let names = &spec.names;
        Ok(Self {
            resource: ApiResource::new(&spec.group, &stored.name, &names.kind, &names.plural),
            is_namespaced: spec.scope == "Namespaced",
        })
    }

    /// The first version of the group that serves the resource; the preferred version is the first.
    pub(super) async fn of_discovery(
        client: &Client,
        group: &str,
        plural: &str,
    ) -> Result<Self, WriteError> {
        let failed = |error| WriteError::Api(format!("{plural}.{group}"), error);
        let served = client.served_group(group).await.map_err(failed)?;
        for version in served.ok_or(WriteError::Unknown)?.versions {
            let resources = client.served_resources(group, &version).await;
            let mut resources = resources.map_err(failed)?.into_iter();
            let is_wanted = |served: &kube_api_client::ServedResource| {
                served.resource.plural == plural && served.can("list") && served.can("patch")
            };
            if let Some(served) = resources.find(is_wanted) {
                return Ok(Self {
                    resource: served.resource,
                    is_namespaced: served.namespaced,
                });
            }
        }
        Err(WriteError::Unknown)
    }

    pub(super) fn version(&self) -> &str {
        &self.resource.version
    }

    fn error(&self, error: kube_api_client::Error) -> WriteError {
        WriteError::Api(self.resource.plural.clone(), error)
    }

    /// The resource version of the list of all objects.
    pub(super) async fn resource_version(&self, client: &Client) -> Result<String, WriteError> {
        let all: Api<DynamicObject> = Api::all_with(client.clone(), &self.resource);
        let listed = all.list_metadata(&ListParams::default().limit(1)).await;
        let listed = listed.map_err(|error| self.error(error))?;
        Ok(listed.metadata.resource_version.unwrap_or_default())
    }

    /// Writes each object without a change; returns their number. `None` if `is_wanted` was false after a page.
    pub(super) async fn write_objects(
        &self,
        client: &Client,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Option<usize>, WriteError> {
        let all: Api<DynamicObject> = Api::all_with(client.clone(), &self.resource);
        let mut count = 0;
        let mut page = Some(ListParams::default().limit(PAGE));
        while let Some(params) = page {
            let listed = all.list_metadata(&params).await;
            let listed = listed.map_err(|error| self.error(error))?;
            page = params.next(listed.metadata.continue_);
            for object in listed.items {
                let name = object.metadata.name.unwrap_or_default();
                let namespace = object.metadata.namespace.filter(|_| self.is_namespaced);
                let api: Api<DynamicObject> = match &namespace {
                    Some(namespace) => {
                        Api::namespaced_with(client.clone(), namespace, &self.resource)
                    }
                    None => all.clone(),
                };
                let nothing = Patch::Merge(json_tree::json!({}));
                let written = api.patch(&name, &PatchParams::default(), &nothing).await;
                // A deleted object, and one that was changed meanwhile, need no migration.
                let written = unless_outrun(written).map_err(|error| {
                    let name = namespace.map_or(name.clone(), |space| format!("{space}/{name}"));
                    WriteError::Api(name, error)
                })?;
                count += usize::from(written.is_some());
            }
            if !is_wanted() {
                return Ok(None);
            }
        }
        Ok(Some(count))
    }
}
