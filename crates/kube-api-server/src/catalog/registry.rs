//! The served resources by group, version and plural name, and the store keys of their objects.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use custom_resources::conversion::{StorageForm, WebhookConversion};
use json_tree::Value;
use object_model::{FieldError, Status};
use openapi_documents::Schema;
use resource_kinds::{DecodeError, Kind, KindInfo, Scope, Subresource};

use crate::catalog::complete_objects::CompleteObjects;

/// The parts of a resource that come from a definition.
pub(crate) struct CustomParts {
    pub(crate) schema: Schema,
    /// The stored form of the objects, which is equal for all versions.
    pub(crate) storage: Option<Arc<StorageForm>>,
    /// A hash of the spec of a definition with a webhook; objects that were converted under another spec are stale.
    pub(crate) spec_hash: u64,
    pub(crate) complete_objects: CompleteObjects,
}

/// A kind in one version, as a resource of the API.
pub(crate) struct Resource {
    pub(crate) kind: Arc<dyn Kind>,
    /// Whether another kind has its objects under the same keys, so that a stored object may have the form of that
    /// kind.
    pub(crate) shared: bool,
    /// `None` for a built-in kind.
    custom: Option<CustomParts>,
    /// The prefix of the store keys of all objects.
    prefix: Vec<u8>,
    is_namespaced: bool,
}

impl Resource {
    fn new(kind: Arc<dyn Kind>, shared: bool, custom: Option<CustomParts>) -> Self {
        let info = kind.info();
        Self {
            shared,
            custom,
            prefix: ["/registry/", info.storage, "/"].concat().into_bytes(),
            is_namespaced: info.scope == Scope::Namespaced,
            kind,
        }
    }

    /// The resource of a kind that is not stored, for admission.
    pub(crate) fn computed(kind: Arc<dyn Kind>) -> Self {
        Self::new(kind, false, None)
    }

    pub(crate) fn info(&self) -> KindInfo<'_> {
        self.kind.info()
    }

    /// The schema that contains the kind.
    pub(crate) fn schema(&self) -> &Schema {
        match &self.custom {
            Some(custom) => &custom.schema,
            None => Schema::published(),
        }
    }

    /// The paths of fields of an object that are not in the schema of its kind.
    pub(crate) fn unknown_fields(&self, object: &Value) -> Vec<String> {
        let info = self.info();
        let published = || {
            let schema = Schema::published();
            schema.unknown_fields(info.group, info.version, info.kind, object)
        };
        let from_kind = self.kind.unknown_fields(object);
        from_kind.unwrap_or_else(published)
    }

    /// Whether the kind comes from a CustomResourceDefinition.
    pub(crate) fn is_custom(&self) -> bool {
        self.custom.is_some()
    }

    /// The stored objects that clients get as they are stored, as far as known; `None` for a built-in kind.
    pub(crate) fn complete_objects(&self) -> Option<&CompleteObjects> {
        self.custom.as_ref().map(|custom| &custom.complete_objects)
    }

    /// Group and version in which objects are stored; `None` for a built-in kind.
    pub(crate) fn storage_version(&self) -> Option<&str> {
        let storage = self.custom.as_ref()?.storage.as_ref()?;
        Some(&storage.api_version)
    }

    /// The webhook that converts objects of other versions.
    pub(crate) fn webhook(&self) -> Option<&WebhookConversion> {
        let storage = self.custom.as_ref()?.storage.as_ref()?;
        storage.webhook.as_ref()
    }

    /// See [`CustomParts::spec_hash`]; 0 for a built-in kind.
    pub(crate) fn spec_hash(&self) -> u64 {
        self.custom.as_ref().map_or(0, |custom| custom.spec_hash)
    }

    /// Whether every stored object has the form that clients get: no other kind uses the same keys, and no definition
    /// adds defaults.
    pub(crate) fn is_shown_as_stored(&self) -> bool {
        !self.shared && !self.is_custom()
    }

    /// Converts an object from another version of the kind to this version.
    ///
    /// *Errors.* The first field that does not fit.
    pub(crate) fn convert(&self, mut object: Value) -> Result<Value, DecodeError> {
        if !self.is_custom() {
            return self.kind.decode(object);
        }
        // The conversion changes only `apiVersion`. Fields are not removed, because a field that is unknown in one
        // version may exist in another version.
        if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion".to_owned(), self.info().api_version().into());
        }
        Ok(object)
    }

    pub(crate) fn namespaced(&self) -> bool {
        self.is_namespaced
    }

    pub(crate) fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.info().subresources.iter().find(|sub| sub.name == name)
    }

    /// The key of one object.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> Vec<u8> {
        let bytes = self.prefix.len() + namespace.len() + 1 + name.len();
        let mut key = Vec::with_capacity(bytes);
        key.extend_from_slice(&self.prefix);
        if self.is_namespaced && !namespace.is_empty() {
            key.extend_from_slice(namespace.as_bytes());
            key.push(b'/');
        }
        key.extend_from_slice(name.as_bytes());
        key
    }

    /// The prefix of the keys of all objects in a namespace, or in all namespaces.
    pub(crate) fn prefix(&self, namespace: &str) -> Vec<u8> {
        self.key(namespace, "")
    }

    /// Namespace and name from a key.
    pub(crate) fn names<'k>(&self, key: &'k [u8]) -> (&'k str, &'k str) {
        let rest = key.get(self.prefix.len()..).unwrap_or_default();
        let rest = std::str::from_utf8(rest).unwrap_or_default();
        if self.namespaced() {
            rest.split_once('/').unwrap_or(("", rest))
        } else {
            ("", rest)
        }
    }

    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(self.info().group, self.info().plural, name)
    }

    pub(crate) fn already_exists(&self, name: &str) -> Status {
        Status::already_exists(self.info().group, self.info().plural, name)
    }

    pub(crate) fn conflict(&self, name: &str, why: &str) -> Status {
        Status::conflict(self.info().group, self.info().plural, name, why)
    }

    pub(crate) fn invalid(&self, name: &str, errors: &[FieldError]) -> Status {
        Status::invalid(self.info().group, self.info().kind, name, errors)
    }
}

/// The first key after all keys with the prefix.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // A prefix of only 0xff bytes has no end. Keys never have such a prefix.
    vec![u8::MAX]
}

/// Whether a kind has this group, version and plural.
pub(crate) fn is_at(info: &KindInfo<'_>, group: &str, version: &str, plural: &str) -> bool {
    (info.group, info.version, info.plural) == (group, version, plural)
}

pub(crate) struct Registry {
    resources: Vec<Arc<Resource>>,
    /// The indices of the resources with a plural name.
    by_plural: HashMap<String, Vec<usize>>,
    /// Versions of custom kinds that a definition describes but does not serve.
    withdrawn: Vec<Arc<Resource>>,
    /// The built-in kinds, in the order of the configuration.
    kinds: Vec<Arc<dyn Kind>>,
}

impl Registry {
    /// Builds the registry from the built-in kinds, the custom kinds with their schemas, and the versions that are
    /// not served.
    pub(crate) fn new(
        kinds: Vec<(Arc<dyn Kind>, Option<CustomParts>)>,
        withdrawn: Vec<(Arc<dyn Kind>, Option<CustomParts>)>,
    ) -> Self {
        let all: Vec<Arc<dyn Kind>> = kinds.iter().map(|(kind, _)| kind.clone()).collect();
        let mut users: BTreeMap<&str, usize> = BTreeMap::new();
        let described = withdrawn.iter().map(|(kind, _)| kind);
        let users_of_keys = all.iter().filter(|kind| !kind.info().verbs.is_empty());
        for kind in users_of_keys.chain(described) {
            *users.entry(kind.info().storage).or_default() += 1;
        }
        let resources: Vec<Arc<Resource>> = kinds
            .into_iter()
            .filter(|(kind, _)| !kind.info().verbs.is_empty())
            .map(|(kind, custom)| {
                let users = users.get(kind.info().storage);
                let shared = users.is_some_and(|count| *count > 1);
                Arc::new(Resource::new(kind, shared, custom))
            })
            .collect();
        let withdrawn = withdrawn.into_iter();
        let withdrawn = withdrawn.map(|(kind, custom)| Arc::new(Resource::new(kind, true, custom)));
        let mut by_plural: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, resource) in resources.iter().enumerate() {
            let plural = resource.info().plural.to_owned();
            by_plural.entry(plural).or_default().push(index);
        }
        Self {
            resources,
            by_plural,
            withdrawn: withdrawn.collect(),
            kinds: all,
        }
    }

    /// The resource in another version, which need not be served.
    pub(crate) fn in_version(
        &self,
        resource: &Resource,
        api_version: &str,
    ) -> Option<&Arc<Resource>> {
        let candidates = self.resources().chain(&self.withdrawn);
        let mut same = candidates.filter(|other| other.info().storage == resource.info().storage);
        same.find(|other| other.info().api_version() == api_version)
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let mut resources = self.named(plural);
        let matching = resources.find(|resource| is_at(&resource.info(), group, version, plural));
        matching.cloned()
    }

    /// The resource in any of its served versions.
    pub(crate) fn any_version(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        let mut resources = self.named(plural);
        let matching = resources.find(|resource| resource.info().group == group);
        matching.cloned()
    }

    fn named(&self, plural: &str) -> impl Iterator<Item = &Arc<Resource>> {
        let indices = self.by_plural.get(plural).into_iter().flatten();
        indices.filter_map(|index| self.resources.get(*index))
    }

    /// The resource of an object, by its `apiVersion` and `kind`.
    pub(crate) fn of(&self, object: &Value) -> Option<Arc<Resource>> {
        self.of_kind(object["apiVersion"].as_str()?, object["kind"].as_str()?)
    }

    /// The resource of objects of a kind.
    pub(crate) fn of_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        let mut resources = self.resources();
        let matching = resources.find(|resource| {
            let info = resource.info();
            info.kind == kind && info.api_version() == api_version
        });
        matching.cloned()
    }

    pub(crate) fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// Information about all kinds, including kinds that exist only in requests and responses.
    pub(crate) fn infos(&self) -> impl Iterator<Item = KindInfo<'_>> {
        self.kinds.iter().map(|kind| kind.info())
    }
}
