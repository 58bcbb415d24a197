//! The metadata of all objects, for garbage collection and the deletion of namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use controller_framework::{Cache, Identity, Index, ObjectChange, WatchConfig};
use controller_planners::garbage_collection::FOREGROUND;
use futures::StreamExt;
use futures::stream::SelectAll;
use json_text::{Cursor, SyntaxError};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube_api_client::{Api, ApiResource, Client, DynamicObject, PartialObjectMeta, ServedResource};
use object_model::{IncompleteMetadata, ObjectIdentity, ResourceVersion, Uid};
use process_telemetry::{Component, Health};
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::MALFORMED_METADATA;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Error;

use crate::remote_groups::{GroupVersion, RemoteGroups};

/// The metadata of an object of any kind.
pub(crate) type Metadata = PartialObjectMeta<DynamicObject>;

/// The stored part of an object's metadata. The struct is small, because there is one for each object of the cluster.
#[derive(Debug)]
pub(crate) struct Meta {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Uid,
    pub version: ResourceVersion,
    pub deleting: bool,
    pub finalizers: Box<[String]>,
    pub owners: Box<[OwnerReference]>,
    /// The parts of its stored metadata that the API server leaves out. Nearly all objects have none.
    pub malformed: Option<Box<MalformedParts>>,
}

/// The names of parts of the metadata, separated by commas.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MalformedParts(pub Box<str>);

impl TryFrom<Metadata> for Meta {
    type Error = IncompleteMetadata;

    fn try_from(object: Metadata) -> Result<Self, Self::Error> {
        let ObjectIdentity { key, uid, version } = object.metadata.identity()?;
        let mut meta = object.metadata;
        let annotations = meta.annotations.as_mut();
        let malformed = annotations.and_then(|all| all.remove(MALFORMED_METADATA));
        Ok(Self {
            namespace: (&*key.namespace).into(),
            name: (&*key.name).into(),
            uid,
            version,
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.unwrap_or_default().into(),
            owners: meta.owner_references.unwrap_or_default().into(),
            malformed: malformed.map(|parts| Box::new(MalformedParts(parts.into()))),
        })
    }
}

/// The parts of an object's metadata, without a check of the identity.
struct MetaTexts<'t> {
    namespace: Box<str>,
    name: Box<str>,
    uid: Box<str>,
    resource_version: Box<str>,
    deleting: bool,
    finalizers: &'t [u8],
    owners: &'t [u8],
    malformed: Option<Box<MalformedParts>>,
}

impl<'t> MetaTexts<'t> {
    /// Reads the metadata. The text after the metadata is not parsed.
    fn read(object: &'t [u8]) -> Result<Self, SyntaxError> {
        let mut meta = Self {
            namespace: Box::default(),
            name: Box::default(),
            uid: Box::default(),
            resource_version: Box::default(),
            deleting: false,
            finalizers: b"null",
            owners: b"null",
            malformed: None,
        };
        let mut cursor = Cursor::new(object);
        let mut fields = cursor.object()?;
        loop {
            match fields.next_key(&mut cursor)? {
                Some(key) if key.is("metadata") => break,
                Some(_) => drop(cursor.skip()?),
                None => return Ok(meta),
            }
        }
        let mut members = cursor.object()?;
        while let Some(key) = members.next_key(&mut cursor)? {
            match key.raw() {
                b"namespace" => meta.namespace = text(&mut cursor)?,
                b"name" => meta.name = text(&mut cursor)?,
                b"uid" => meta.uid = text(&mut cursor)?,
                b"resourceVersion" => meta.resource_version = text(&mut cursor)?,
                b"deletionTimestamp" => meta.deleting = cursor.skip()? != b"null",
                b"finalizers" => meta.finalizers = cursor.skip()?,
                b"ownerReferences" => meta.owners = cursor.skip()?,
                b"annotations" => meta.malformed = malformed(&mut cursor)?,
                _ => drop(cursor.skip()?),
            }
        }
        Ok(meta)
    }
}

impl Meta {
    /// Parses the metadata in the JSON text of an object.
    fn read(object: &[u8]) -> serde_json::Result<Self> {
        let texts = MetaTexts::read(object).map_err(Error::custom)?;
        if texts.name.is_empty() {
            return Err(Error::custom(IncompleteMetadata::Name));
        }
        Ok(Self {
            namespace: texts.namespace,
            name: texts.name,
            uid: texts.uid.parse().map_err(Error::custom)?,
            version: texts.resource_version.parse().map_err(Error::custom)?,
            deleting: texts.deleting,
            finalizers: list(texts.finalizers)?,
            owners: list(texts.owners)?,
            malformed: texts.malformed,
        })
    }

    /// Whether the object has that finalizer.
    pub fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|present| present == finalizer)
    }

    /// Whether the object is deleted after its dependents.
    pub fn is_waiting(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    fn identity(&self) -> Result<Identity<'_>, IncompleteMetadata> {
        Ok(Identity {
            namespace: &self.namespace,
            name: &self.name,
            uid: self.uid.as_str(),
            version: self.version,
        })
    }
}

/// The next string; empty if it is absent.
fn text(cursor: &mut Cursor<'_>) -> Result<Box<str>, SyntaxError> {
    match cursor.peek()? {
        b'n' => cursor.null().map(|()| Box::default()),
        _ => Ok(cursor.string()?.decode()?.into()),
    }
}

/// The malformed parts that the annotations, which are the next object, name.
fn malformed(cursor: &mut Cursor<'_>) -> Result<Option<Box<MalformedParts>>, SyntaxError> {
    let mut malformed_parts = None;
    if cursor.peek()? != b'{' {
        cursor.skip()?;
        return Ok(malformed_parts);
    }
    let mut members = cursor.object()?;
    while let Some(key) = members.next_key(cursor)? {
        if key.is(MALFORMED_METADATA) {
            malformed_parts = Some(Box::new(MalformedParts(text(cursor)?)));
        } else {
            cursor.skip()?;
        }
    }
    Ok(malformed_parts)
}

/// The elements of a list; empty if the list is absent.
fn list<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<Box<[T]>> {
    if text == b"null" {
        return Ok(Box::default());
    }
    serde_json::from_slice::<Vec<T>>(text).map(Vec::into)
}

/// The longest time for the list of kinds of an extension API server.
const REMOTE_LIMIT: Duration = Duration::from_secs(10);

/// The name of the watches of objects of extension API servers.
const REMOTE: &str = "extension API servers";

/// All served resources that can be listed and deleted, with their objects' metadata.
pub(crate) struct Inventory {
    client: Client,
    pub resources: Vec<Resource>,
    /// The group versions of extension API servers whose kinds were read.
    pub remote: BTreeSet<GroupVersion>,
    by_kind: BTreeMap<(String, String), usize>,
}

/// A resource whose objects are collected, and its deletion verbs.
pub(crate) struct Resource {
    pub api: ApiResource,
    pub namespaced: bool,
    /// Whether the resource has the verb `deletecollection`.
    pub deletes_collections: bool,
    /// Whether an extension API server has the objects.
    pub is_remote: bool,
    watched: Option<Watched>,
}

struct Watched {
    cache: Cache<Meta>,
    by_uid: Index<Meta>,
    by_owner: Index<Meta>,
    /// The objects with malformed metadata, all with one term.
    malformed: Index<Meta>,
}

/// An object and its resource.
#[derive(Clone)]
pub(crate) struct ListedObject {
    pub resource: usize,
    pub object: Arc<Meta>,
}

impl Inventory {
    /// Discovers the resources, with retries, and starts to watch them. Resources of an extension API server that does
    /// not respond are left out. `None` after a shutdown.
    pub async fn open(
        client: Client,
        component: &Component,
        remote: &RemoteGroups,
    ) -> Option<Self> {
        let (served, read) = loop {
            match served(&client, remote).await {
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
            .map(|(served, is_remote)| resource(&client, served, is_remote, component))
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
            remote: read,
            by_kind,
        };
        // An extension API server must not delay the collection of all other objects.
        for resource in inventory.resources.iter().filter(|one| !one.is_remote) {
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
    pub fn by_uid(&self, uid: &Uid) -> Option<ListedObject> {
        self.find(uid.as_str(), |watched| &watched.by_uid)
            .into_iter()
            .next()
    }

    /// The objects with that owner UID.
    pub fn by_owner(&self, uid: &Uid) -> Vec<ListedObject> {
        self.find(uid.as_str(), |watched| &watched.by_owner)
    }

    /// The objects with malformed parts of the metadata, which the API server leaves out.
    pub fn malformed(&self) -> Vec<ListedObject> {
        self.find(MALFORMED_METADATA, |watched| &watched.malformed)
    }

    /// Whether the owner is cached, is not being deleted, and may own objects of the namespace. A later deletion of the
    /// owner is a separate change, which queues its dependents.
    pub fn is_live(&self, owner: &OwnerReference, namespace: &str) -> bool {
        let resource = self.resource_of(&owner.api_version, &owner.kind);
        let Some(resource) = resource.map(|number| &self.resources[number]) else {
            return false;
        };
        let watched = resource.watched.iter();
        let mut objects = watched.flat_map(|watched| watched.by_uid.get(&owner.uid));
        objects.any(|owner| {
            !owner.deleting && (!resource.namespaced || *owner.namespace == *namespace)
        })
    }

    /// The objects of all kinds with that term. The index of most kinds has no such term.
    fn find(&self, term: &str, index: fn(&Watched) -> &Index<Meta>) -> Vec<ListedObject> {
        let mut matches = Vec::new();
        for (resource, one) in self.resources.iter().enumerate() {
            let Some(index) = one.watched.as_ref().map(index) else {
                continue;
            };
            if index.has(term) {
                let objects = index.get(term).into_iter();
                matches.extend(objects.map(|object| ListedObject { resource, object }));
            }
        }
        matches
    }

    /// Changes of all objects for which `is_relevant` is true, given the states before and after the change; each with the
    /// index of its resource.
    pub fn subscribe_to_changes(
        &self,
        is_relevant: fn(Option<&Meta>, Option<&Meta>) -> bool,
    ) -> SelectAll<futures::stream::BoxStream<'static, (usize, ObjectChange<Meta>)>> {
        let watched = self.resources.iter().enumerate();
        let watched = watched.filter_map(|(number, r)| Some((number, r.watched.as_ref()?)));
        let streams = watched.map(|(number, watched)| {
            watched
                .cache
                .subscribe_to_changes(is_relevant)
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

/// One version of each kind that can be listed and deleted: the preferred version of its group, or the first other
/// version with the kind.
/// The kinds of extension API servers are marked, and their group versions are returned.
async fn served(
    client: &Client,
    remote: &RemoteGroups,
) -> kube_api_client::Result<(Vec<(ServedResource, bool)>, BTreeSet<GroupVersion>)> {
    let mut served = BTreeMap::new();
    let mut read = BTreeSet::new();
    for group in client.served_groups().await? {
        for version in &group.versions {
            let name = (group.name.clone(), version.clone());
            let is_remote = match remote.all().get(&name) {
                Some(false) => continue,
                Some(true) => true,
                None => false,
            };
            let resources = client.served_resources(&group.name, version);
            let resources = match is_remote {
                false => resources.await?,
                true => match tokio::time::timeout(REMOTE_LIMIT, resources).await {
                    Ok(Ok(resources)) => resources,
                    Ok(Err(_)) | Err(_) => continue,
                },
            };
            if is_remote {
                read.insert(name);
            }
            for one in resources {
                let names = (group.name.clone(), one.resource.plural.clone());
                served.entry(names).or_insert((one, is_remote));
            }
        }
    }
    served.retain(|_, (one, _)| one.can("list") && one.can("delete"));
    Ok((served.into_values().collect(), read))
}

fn resource(
    client: &Client,
    served: ServedResource,
    is_remote: bool,
    component: &Component,
) -> Resource {
    let namespaced = served.namespaced;
    let deletes_collections = served.can("deletecollection");
    // Events are not watched, because they have no owners and are numerous.
    let watch = served.can("watch") && served.resource.plural != "events";
    let api = served.resource;
    // The failures of an extension API server are reported by its APIService, and this program is healthy.
    let unreported = Health::watched_by(None).component(REMOTE, component.shutdown.clone());
    let component = match is_remote {
        true => &unreported,
        false => component,
    };
    let watched = watch.then(|| {
        let all: Api<Metadata> = Api::all_with(client.clone(), &api);
        let config = WatchConfig::default();
        let cache = Cache::spawn_as(all, config, component.clone(), Meta::identity, Meta::read);
        Watched {
            by_uid: cache.index_unless(
                |old, new| old.uid == new.uid,
                |object: &Meta| vec![object.uid.to_string()],
            ),
            by_owner: cache.index_unless(
                |old, new| old.owners == new.owners,
                |object: &Meta| {
                    let owners = object.owners.iter();
                    owners.map(|owner| owner.uid.clone()).collect()
                },
            ),
            malformed: cache.index_unless(
                |old, new| old.malformed == new.malformed,
                |object: &Meta| {
                    let malformed = object.malformed.iter();
                    malformed.map(|_| MALFORMED_METADATA.to_owned()).collect()
                },
            ),
            cache,
        }
    });
    Resource {
        namespaced,
        deletes_collections,
        is_remote,
        api,
        watched,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_read_without_the_rest() {
        let read = |text: &str| Meta::read(text.as_bytes());
        let meta = read(
            r#"{"kind": "A", "spec": {"metadata": 1}, "metadata": {"name": "a\u0062", "namespace": "n", "uid": "u",
            "labels": {"uid": "x"}, "resourceVersion": "7", "deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["x/y"], "ownerReferences":
                [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "q", "blockOwnerDeletion": true}]}}"#,
        );
        let meta = meta.unwrap();
        assert_eq!(
            [&*meta.name, &*meta.namespace, meta.uid.as_str()],
            ["ab", "n", "u"]
        );
        assert_eq!(meta.version.get(), 7);
        assert!(meta.deleting);
        assert_eq!(*meta.finalizers, ["x/y"]);
        assert_eq!(meta.owners.len(), 1);
        assert_eq!(
            (&*meta.owners[0].uid, meta.owners[0].block_owner_deletion),
            ("q", Some(true))
        );
        let absent = r#"{"metadata": {"name": "a", "uid": "u", "resourceVersion": "7", "namespace": null, "finalizers": null,
            "ownerReferences": null, "deletionTimestamp": null}}"#;
        let meta = read(absent).unwrap();
        assert_eq!((&*meta.namespace, meta.deleting), ("", false));
        assert!(meta.finalizers.is_empty() && meta.owners.is_empty());
        assert!(meta.malformed.is_none());
        for incomplete in [
            "{}",
            r#"{"metadata": {"uid": "u", "resourceVersion": "7"}}"#,
            r#"{"metadata": {"name": "a", "resourceVersion": "7"}}"#,
            r#"{"metadata": {"name": "a", "uid": "u"}}"#,
        ] {
            assert!(read(incomplete).is_err(), "{incomplete}");
        }
        assert!(read(r#"{"metadata": {"name": 1}}"#).is_err());
        assert!(read(r#"{"metadata": {"ownerReferences": [{"uid": 1}]}}"#).is_err());
    }

    // findings-2 E2
    #[test]
    fn malformed_parts_are_those_that_the_annotation_names() {
        let object = r#"{"metadata": {"annotations": {"a": "b", "mainstay.dev/malformed-metadata": "labels, finalizers"},
            "name": "x", "uid": "u", "resourceVersion": "7"}}"#;
        let meta = Meta::read(object.as_bytes()).unwrap();
        assert_eq!(&*meta.malformed.unwrap().0, "labels, finalizers");
        assert_eq!(&*meta.name, "x");
        let whole: Metadata = serde_json::from_str(object).unwrap();
        assert_eq!(
            &*Meta::try_from(whole).unwrap().malformed.unwrap().0,
            "labels, finalizers"
        );
        for other in [r#"{"a": "b"}"#, "null"] {
            let object = format!(
                r#"{{"metadata": {{"annotations": {other}, "name": "x", "uid": "u",
                "resourceVersion": "7"}}}}"#
            );
            let meta = Meta::read(object.as_bytes()).unwrap();
            assert!(meta.malformed.is_none() && &*meta.name == "x");
        }
    }
}
