//! The kinds that a server serves.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    APIGroup, APIGroupList, APIResourceList, APIVersions,
};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::resource::ApiResource;

/// A kind that a server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedResource {
    /// Group, version, kind and plural.
    pub resource: ApiResource,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// The supported verbs, for instance `list`.
    pub verbs: Vec<String>,
    /// Its short names, as kubectl accepts them.
    pub short_names: Vec<String>,
}

impl ServedResource {
    /// Whether the kind supports a verb.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|supported| supported == verb)
    }
}

/// A group with its versions. The first version is the preferred one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedGroup {
    /// Its name; empty for the core group.
    pub name: String,
    /// Its versions, the preferred one first.
    pub versions: Vec<String>,
}

impl From<APIGroup> for ServedGroup {
    fn from(group: APIGroup) -> Self {
        let preferred = group.preferred_version.map(|preferred| preferred.version);
        let versions = group.versions.into_iter().map(|version| version.version);
        let mut versions: Vec<String> = versions.collect();
        versions.sort_by_key(|version| preferred.as_ref() != Some(version));
        Self {
            name: group.name,
            versions,
        }
    }
}

impl Client {
    /// The groups of the server; the core group is first.
    pub async fn served_groups(&self) -> Result<Vec<ServedGroup>> {
        let core = self.served_core().await?;
        let groups: APIGroupList = self.get("/apis").await?;
        let groups = groups.groups.into_iter().map(ServedGroup::from);
        Ok(std::iter::once(core).chain(groups).collect())
    }

    /// The group of this name; `None` if the server does not serve it.
    pub async fn served_group(&self, name: &str) -> Result<Option<ServedGroup>> {
        if name.is_empty() {
            return self.served_core().await.map(Some);
        }
        match self.get::<APIGroup>(&format!("/apis/{name}")).await {
            Ok(group) => Ok(Some(group.into())),
            Err(Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn served_core(&self) -> Result<ServedGroup> {
        let core: APIVersions = self.get("/api").await?;
        Ok(ServedGroup {
            name: String::new(),
            versions: core.versions,
        })
    }

    /// The kinds of one version of a group, without subresources.
    pub async fn served_resources(
        &self,
        group: &str,
        version: &str,
    ) -> Result<Vec<ServedResource>> {
        let path = match group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        let list: APIResourceList = self.get(&path).await?;
        let resources = list
            .resources
            .into_iter()
            .filter(|resource| !resource.name.contains('/'));
        let served = resources.map(|resource| ServedResource {
            resource: ApiResource::new(group, version, &resource.kind, &resource.name),
            namespaced: resource.namespaced,
            verbs: resource.verbs,
            short_names: resource.short_names.unwrap_or_default(),
        });
        Ok(served.collect())
    }
}
