//! Kubernetes' protobuf format, which Go clients use: four magic bytes, then a `runtime.Unknown` with the kind and
//! the object.
//!
//! One table describes the messages (`resource_kinds::api_types`) for both directions, so no kind needs its own code.
//! Decoding produces the JSON that the client would have sent; encoding reads the stored JSON text.

mod messages;
mod read;
mod repeats;
mod transcode;
mod write;

pub(crate) use read::read;
pub(crate) use write::{List, WriteError, encode, event, has_message, object};

pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// Go's zero `time.Time` in Unix seconds. It means that no time is set.
const NO_TIME: i64 = -62_135_596_800;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openapi_documents::{Schema, TypeRef};
    use resource_kinds::api_types::ApiTypes;

    type Visited = BTreeSet<String>;

    /// Kinds that Go clients read and write in JSON.
    const JSON_ONLY: [&str; 2] = ["apiextensions.k8s.io", "snapshot.storage.k8s.io"];

    /// Collects the field names of a message, including those of its embedded messages.
    fn names<'t>(types: &'t ApiTypes, message: &str, into: &mut BTreeMap<&'t str, &'t str>) {
        for field in types.fields(message) {
            if field.json.is_empty() {
                names(types, field.kind, into);
            } else {
                into.insert(field.json, field.kind);
            }
        }
    }

    /// The paths of fields that the schema contains and the message table does not.
    fn lacking(
        types: &ApiTypes,
        message: &str,
        schema: TypeRef<'_>,
        visited: &mut Visited,
    ) -> Vec<String> {
        if !types.is_structure(message) || !visited.insert(message.to_owned()) {
            return Vec::new();
        }
        let mut field_names = BTreeMap::new();
        names(types, message, &mut field_names);
        let fields = schema
            .fields()
            .filter(|field| !["apiVersion", "kind"].contains(&field.name()));
        fields
            .flat_map(|field| {
                let Some(kind) = field_names.get(field.name()) else {
                    return vec![format!("{message}: {}", field.name())];
                };
                let inner = field.type_ref();
                lacking(types, kind, inner.element().unwrap_or(inner), visited)
            })
            .collect()
    }

    #[test]
    fn every_field_of_every_kind_has_its_number() {
        let types = ApiTypes::published();
        let mut visited = Visited::new();
        for kind in resource_kinds::all(&resource_kinds::ClusterConfig::default()) {
            let info = kind.info();
            if JSON_ONLY.contains(&info.group) {
                continue;
            }
            let version = info.api_version();
            let message = types.of_kind(&version, info.kind);
            let message = message
                .unwrap_or_else(|| panic!("{version} {}", info.kind))
                .name;
            let schema = Schema::published().lookup(info.group, info.version, info.kind);
            let lacking = lacking(types, message, schema.unwrap(), &mut visited);
            assert!(lacking.is_empty(), "{lacking:#?}");
        }
        assert!(visited.len() > 250, "{}", visited.len());
    }

    /// If a kind is no longer served, its messages must be removed from the table: each message is a kind or the type
    /// of a field.
    #[test]
    fn every_message_belongs_to_a_kind_that_is_served() {
        /// Messages that wrap other objects, or are responses of their own.
        const FORMS: [&str; 2] = ["meta/v1.PartialObjectMetadata", "meta/v1.Status"];
        let types = ApiTypes::published();
        let kinds = resource_kinds::all(&resource_kinds::ClusterConfig::default());
        let virtual_kinds = [
            ("v1", "ComponentStatus"),
            ("metrics.k8s.io/v1beta1", "NodeMetrics"),
            ("metrics.k8s.io/v1beta1", "PodMetrics"),
        ];
        let bodies = resource_kinds::bodies::kinds().chain(virtual_kinds);
        let bodies = bodies.map(|(version, kind)| {
            let message = types.of_kind(version, kind);
            message.unwrap_or_else(|| panic!("{version} {kind}")).name
        });
        let stored = kinds.iter().filter_map(|kind| {
            let info = kind.info();
            Some(types.of_kind(&info.api_version(), info.kind)?.name)
        });
        let mut served: BTreeSet<&str> = bodies.chain(stored).chain(FORMS).collect();
        let fields = types.names().flat_map(|name| types.fields(name));
        served.extend(fields.map(|field| field.kind));
        let idle = types.names().filter(|name| !served.contains(name));
        assert_eq!(idle.collect::<Vec<_>>(), [""; 0]);
    }
}
