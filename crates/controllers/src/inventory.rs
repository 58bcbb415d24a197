//! The metadata of all objects, for garbage collection and the deletion of namespaces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_client::{Api, ApiResource, Client, DynamicObject, PartialObjectMeta, ServedResource};
use futures::StreamExt;
use futures::stream::SelectAll;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use reconcile::{Cache, Component, Identity, Index, ObjectChange, WatchConfig};

/// The metadata of an object of any kind.
pub(crate) type Metadata = PartialObjectMeta<DynamicObject>;

/// The stored part of an object's metadata: there is one for each object of the cluster.
#[derive(Debug)]
pub(crate) struct Meta {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    pub deleting: bool,
    pub finalizers: Box<[String]>,
    pub owners: Box<[OwnerReference]>,
}

impl From<Metadata> for Meta {
    fn from(object: Metadata) -> Self {
        let meta = object.metadata;
        Self {
            namespace: meta.namespace.unwrap_or_default().into(),
            name: meta.name.unwrap_or_default().into(),
            uid: meta.uid.unwrap_or_default().into(),
            resource_version: meta.resource_version.unwrap_or_default().into(),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.unwrap_or_default().into(),
            owners: meta.owner_references.unwrap_or_default().into(),
        }
    }
}

impl Meta {
    fn identity(&self) -> Identity<'_> {
        Identity {
            namespace: &self.namespace,
            name: &self.name,
            uid: &self.uid,
            resource_version: &self.resource_version,
        }
    }
}

/// All served resources that can be listed and deleted, with their objects' metadata.
pub(crate) struct Inventory {
    client: Client,
    pub resources: Vec<Resource>,
    by_kind: BTreeMap<(String, String), usize>,
}

/// A resource whose objects are collected, and how to delete them.
pub(crate) struct Resource {
    pub api: ApiResource,
    pub namespaced: bool,
    /// Whether it has the verb `deletecollection`.
    pub deletes_collections: bool,
    watched: Option<Watched>,
}

struct Watched {
    cache: Cache<Meta>,
    by_uid: Index<Meta>,
    by_owner: Index<Meta>,
}

/// An object and its resource.
#[derive(Clone)]
pub(crate) struct ListedObject {
    pub resource: usize,
    pub object: Arc<Meta>,
}

impl Inventory {
    /// Discovers the resources, with retries, and starts to watch them. `None` after a shutdown.
    pub async fn open(client: Client, component: &Component) -> Option<Self> {
        let served = loop {
            match served(&client).await {
                Ok(served) => break served,
                Err(error) => tracing::debug!(error = %error, "discovery failed"),
            }
            tokio::select! {
                () = component.shutdown.cancelled() => return None,
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        };
        let resources: Vec<Resource> = served
            .into_iter()
            .map(|served| resource(&client, served, component))
            .collect();
        let by_kind = resources
            .iter()
            .enumerate()
            .map(|(number, resource)| {
                (
                    (resource.api.group.clone(), resource.api.kind.clone()),
                    number,
                )
            })
            .collect();
        let inventory = Self {
            client,
            resources,
            by_kind,
        };
        for resource in &inventory.resources {
            if let Some(watched) = &resource.watched
                && !watched.cache.wait_synced().await
            {
                return None;
            }
        }
        Some(inventory)
    }

    /// The index of the resource with that API version and kind.
    pub fn resource_of(&self, api_version: &str, kind: &str) -> Option<usize> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.by_kind
            .get(&(group.to_owned(), kind.to_owned()))
            .copied()
    }

    /// The object with that UID.
    pub fn by_uid(&self, uid: &str) -> Option<ListedObject> {
        self.find(|watched| watched.by_uid.get(uid))
            .into_iter()
            .next()
    }

    /// The objects with that owner UID.
    pub fn by_owner(&self, uid: &str) -> Vec<ListedObject> {
        self.find(|watched| watched.by_owner.get(uid))
    }

    fn find(&self, look: impl Fn(&Watched) -> Vec<Arc<Meta>>) -> Vec<ListedObject> {
        let watched = self.resources.iter().enumerate();
        let watched = watched.filter_map(|(number, r)| Some((number, r.watched.as_ref()?)));
        watched
            .flat_map(|(resource, watched)| {
                look(watched)
                    .into_iter()
                    .map(move |object| ListedObject { resource, object })
            })
            .collect()
    }

    /// Changes of all objects, each with the index of its resource.
    pub fn subscribe(
        &self,
    ) -> SelectAll<futures::stream::BoxStream<'static, (usize, ObjectChange<Meta>)>> {
        let watched = self.resources.iter().enumerate();
        let watched = watched.filter_map(|(number, r)| Some((number, r.watched.as_ref()?)));
        let streams = watched.map(|(number, watched)| {
            watched
                .cache
                .subscribe()
                .map(move |change| (number, change))
                .boxed()
        });
        futures::stream::select_all(streams)
    }

    /// The API of a resource, in a namespace if it is namespaced.
    pub fn api(&self, resource: usize, namespace: &str) -> Api<Metadata> {
        let resource = &self.resources[resource];
        if resource.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &resource.api)
        } else {
            Api::all_with(self.client.clone(), &resource.api)
        }
    }
}

/// One version of each kind that can be listed and deleted: that of its group's preferred version, or
/// the first other one that has the kind.
async fn served(client: &Client) -> api_client::Result<Vec<ServedResource>> {
    let mut served = BTreeMap::new();
    for group in client.served_groups().await? {
        for version in &group.versions {
            for one in client.served_resources(&group.name, version).await? {
                let names = (group.name.clone(), one.resource.plural.clone());
                served.entry(names).or_insert(one);
            }
        }
    }
    served.retain(|_, one| one.can("list") && one.can("delete"));
    Ok(served.into_values().collect())
}

fn resource(client: &Client, served: ServedResource, component: &Component) -> Resource {
    let namespaced = served.namespaced;
    let deletes_collections = served.can("deletecollection");
    // Events have no owners and are numerous: they are not watched.
    let watch = served.can("watch") && served.resource.plural != "events";
    let api = served.resource;
    let watched = watch.then(|| {
        let all: Api<Metadata> = Api::all_with(client.clone(), &api);
        let config = WatchConfig::default();
        let cache = Cache::spawn_as(all, config, component.clone(), Meta::identity, Meta::from);
        Watched {
            by_uid: cache.index(|object: &Meta| vec![object.uid.to_string()]),
            by_owner: cache.index(|object: &Meta| {
                let owners = object.owners.iter();
                owners.map(|owner| owner.uid.clone()).collect()
            }),
            cache,
        }
    });
    Resource {
        namespaced,
        deletes_collections,
        api,
        watched,
    }
}
