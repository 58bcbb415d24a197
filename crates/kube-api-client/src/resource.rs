//! Kinds of objects: kinds of `k8s_openapi`, kinds that are known only at run time, and metadata alone.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::marker::PhantomData;

use json_tree::{Map, Value};
use k8s_openapi::ResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The scope of a kind that is known at run time only.
pub struct DynamicResourceScope;

impl ResourceScope for DynamicResourceScope {}

/// A kind of object that the server can list and watch.
pub trait Object: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Object for K {}

/// A kind of object, and the metadata of its objects.
pub trait Resource {
    /// The description of the kind, for types that do not contain it.
    type DynamicType: Send + Sync + 'static;
    /// The scope of the kind: namespaced or cluster.
    type Scope;
    /// Whether requests ask only for the metadata.
    const METADATA_ONLY: bool = false;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str>;
    /// Group and version in the form of `apiVersion`.
    fn api_version(of: &Self::DynamicType) -> Cow<'_, str>;
    /// The plural in paths.
    fn plural(of: &Self::DynamicType) -> Cow<'_, str>;
    /// The metadata of an object.
    fn meta(&self) -> &ObjectMeta;
    /// The metadata of an object.
    fn meta_mut(&mut self) -> &mut ObjectMeta;

    /// An owner reference to this object.
    fn owner_ref(&self, of: &Self::DynamicType) -> Option<OwnerReference> {
        let meta = self.meta();
        Some(OwnerReference {
            api_version: Self::api_version(of).into_owned(),
            kind: Self::kind(of).into_owned(),
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            ..OwnerReference::default()
        })
    }

    /// An owner reference to this object as the controller.
    fn controller_owner_ref(&self, of: &Self::DynamicType) -> Option<OwnerReference> {
        Some(OwnerReference {
            controller: Some(true),
            ..self.owner_ref(of)?
        })
    }
}

impl<K> Resource for K
where
    K: k8s_openapi::Metadata<Ty = ObjectMeta> + k8s_openapi::Resource,
{
    type DynamicType = ();
    type Scope = <K as k8s_openapi::Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::KIND.into()
    }

    fn api_version((): &()) -> Cow<'_, str> {
        K::API_VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::URL_PATH_SEGMENT.into()
    }

    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
}

/// Shortcuts to parts of the metadata.
pub trait ResourceExt: Resource {
    /// The name, or else `generateName`; empty without both.
    fn name_any(&self) -> String {
        let meta = self.meta();
        let name = meta.name.as_ref().or(meta.generate_name.as_ref());
        name.cloned().unwrap_or_default()
    }

    fn namespace(&self) -> Option<String> {
        self.meta().namespace.clone()
    }

    fn uid(&self) -> Option<String> {
        self.meta().uid.clone()
    }

    fn resource_version(&self) -> Option<String> {
        self.meta().resource_version.clone()
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        self.meta().labels.as_ref().unwrap_or(&NONE)
    }

    fn annotations(&self) -> &BTreeMap<String, String> {
        self.meta().annotations.as_ref().unwrap_or(&NONE)
    }

    fn owner_references(&self) -> &[OwnerReference] {
        self.meta().owner_references.as_deref().unwrap_or_default()
    }

    fn finalizers(&self) -> &[String] {
        self.meta().finalizers.as_deref().unwrap_or_default()
    }
}

static NONE: BTreeMap<String, String> = BTreeMap::new();

impl<K: Resource> ResourceExt for K {}

/// A kind that is known only at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiResource {
    /// Group; empty for the core group.
    pub group: String,
    /// API version, for instance `v1`.
    pub version: String,
    /// Kind, for instance `StatefulSet`.
    pub kind: String,
    /// Plural in paths, for instance `statefulsets`.
    pub plural: String,
}

impl ApiResource {
    /// The kind with these names.
    pub fn new(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }

    /// Group and version in the form of `apiVersion`.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The path of the kind's objects, in all namespaces or in one namespace.
    pub fn collection(&self, namespace: Option<&str>) -> String {
        collection(&self.api_version(), &self.plural, namespace)
    }
}

/// The path of a kind's objects.
pub(crate) fn collection(api_version: &str, plural: &str, namespace: Option<&str>) -> String {
    let root = if api_version.contains('/') {
        "apis"
    } else {
        "api"
    };
    match namespace {
        Some(namespace) => format!("/{root}/{api_version}/namespaces/{namespace}/{plural}"),
        None => format!("/{root}/{api_version}/{plural}"),
    }
}

/// The type of an object in its JSON text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TypeMeta {
    /// `apiVersion`: group and version, for instance `apps/v1`.
    pub api_version: String,
    /// Kind, for instance `StatefulSet`.
    pub kind: String,
}

/// An object of a kind that is known only at run time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DynamicObject {
    /// The type of the object, if its JSON text has one. Objects in a list may have none.
    pub types: Option<TypeMeta>,
    pub metadata: ObjectMeta,
    /// All other members, as a JSON object.
    pub data: Value,
}

impl Resource for DynamicObject {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        of.api_version().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Serialize for DynamicObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(types) = &self.types {
            map.serialize_entry("apiVersion", &types.api_version)?;
            map.serialize_entry("kind", &types.kind)?;
        }
        map.serialize_entry("metadata", &self.metadata)?;
        for (name, value) in self.data.as_object().into_iter().flatten() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for DynamicObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DynamicVisitor)
    }
}

struct DynamicVisitor;

impl<'de> Visitor<'de> for DynamicVisitor {
    type Value = DynamicObject;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of the API")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DynamicObject, A::Error> {
        let mut object = DynamicObject::default();
        let mut data = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "apiVersion" => {
                    object.types.get_or_insert_default().api_version = map.next_value()?;
                }
                "kind" => object.types.get_or_insert_default().kind = map.next_value()?,
                "metadata" => object.metadata = map.next_value()?,
                _ => {
                    data.insert(name, map.next_value()?);
                }
            }
        }
        object.data = Value::Object(data);
        Ok(object)
    }
}

/// The metadata of an object of kind `K`.
#[derive(Clone, Debug)]
pub struct PartialObjectMeta<K> {
    pub metadata: ObjectMeta,
    kind: PhantomData<fn() -> K>,
}

impl<K: Resource> Resource for PartialObjectMeta<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;
    const METADATA_ONLY: bool = true;

    fn kind(of: &K::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn api_version(of: &K::DynamicType) -> Cow<'_, str> {
        K::api_version(of)
    }

    fn plural(of: &K::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<'de, K> Deserialize<'de> for PartialObjectMeta<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let MetadataOnly { metadata } = MetadataOnly::deserialize(deserializer)?;
        Ok(Self {
            metadata,
            kind: PhantomData,
        })
    }
}

/// A type for all kinds, so that one function decodes it.
#[derive(Deserialize)]
struct MetadataOnly {
    #[serde(default)]
    metadata: ObjectMeta,
}

#[cfg(test)]
mod tests {
    use json_tree::json;
    use k8s_openapi::api::apps::v1::StatefulSet;
    use k8s_openapi::api::core::v1::Node;

    use super::*;

    #[test]
    fn a_kind_has_a_path() {
        let path = |version: &str, plural: &str, namespace| collection(version, plural, namespace);
        let sets = path(&StatefulSet::api_version(&()), "statefulsets", Some("shop"));
        assert_eq!(sets, "/apis/apps/v1/namespaces/shop/statefulsets");
        let nodes = path(&Node::api_version(&()), &Node::plural(&()), None);
        assert_eq!(nodes, "/api/v1/nodes");
        let boats = ApiResource::new("example.org", "v2", "Boat", "boats");
        assert_eq!(boats.collection(None), "/apis/example.org/v2/boats");
    }

    #[test]
    fn an_object_of_any_kind_is_read_and_written() {
        let text = json!({"apiVersion": "example.org/v1", "kind": "Boat",
            "metadata": {"name": "b"}, "spec": {"sails": 2}});
        let boat: DynamicObject = serde_json::from_slice(text.to_string().as_bytes()).unwrap();
        assert_eq!(boat.name_any(), "b");
        assert_eq!(boat.data["spec"]["sails"], 2);
        assert_eq!(json_tree::to_value(&boat).unwrap(), text);
        let meta: PartialObjectMeta<Node> =
            serde_json::from_slice(text.to_string().as_bytes()).unwrap();
        assert_eq!(meta.name_any(), "b");
    }
}
