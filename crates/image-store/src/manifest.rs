//! Manifests, indexes and configurations as registries serve them (OCI image specification;
//! Docker image manifest version 2, schema 2).

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Maximum number of entries of a list in a document. An empty entry has two bytes in the document, but a
/// hundred bytes in memory.
const ENTRIES_MAX: usize = 10_000;

/// Maximum number of stored bytes of a configuration. Usual images have a few kilobytes.
const CONFIG_BYTES_MAX: usize = 256 << 10;

/// Annotations of a descriptor that contain the name of an image in an OCI layout, the preferred one first.
/// Other annotations are not stored.
pub const NAME_ANNOTATIONS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// The media types of manifests that the `Accept` header names.
pub const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// The container configuration of an image, which pods may override.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// The program and its first arguments (`Entrypoint`).
    #[serde(deserialize_with = "list")]
    pub entrypoint: Vec<String>,
    /// Further arguments; the program and its arguments if there is no entry point.
    #[serde(deserialize_with = "list")]
    pub cmd: Vec<String>,
    /// Environment variables as `NAME=value`.
    #[serde(deserialize_with = "list")]
    pub env: Vec<String>,
    /// Working directory; empty for `/`.
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// `user[:group]` with names or numbers; empty for root.
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// Signal that stops a container, such as `SIGQUIT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Directories that the image declares as volumes.
    #[serde(deserialize_with = "keys_of_map", serialize_with = "map_of_keys")]
    pub volumes: Vec<String>,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A list. A list that is too long is cut after the first entry beyond the limit.
struct Entries<T>(Vec<T>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Entries<T> {
    fn push(&mut self, entry: T) {
        self.0.push(entry);
    }

    fn is_full(&self) -> bool {
        self.0.len() > ENTRIES_MAX
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut entries = Entries::default();
                while !entries.is_full() {
                    match list.next_element()? {
                        Some(entry) => entries.push(entry),
                        None => return Ok(entries),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(entries)
            }
        }

        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// The keys of a map, with the limit of a list.
#[derive(Default)]
struct Keys(Entries<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;

        impl<'de> Visitor<'de> for Map {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut keys = Entries::default();
                while !keys.is_full() {
                    match map.next_entry::<_, IgnoredAny>()? {
                        Some((key, _)) => keys.push(key),
                        None => return Ok(Keys(keys)),
                    }
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Keys(keys))
            }
        }

        deserializer.deserialize_map(Map)
    }
}

fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let entries: Entries<T> = null_is_default(deserializer)?;
    Ok(entries.0)
}

fn list_if_any<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    let entries: Option<Entries<T>> = Option::deserialize(deserializer)?;
    Ok(entries.map(|entries| entries.0))
}

fn keys_of_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let Keys(mut keys) = null_is_default(deserializer)?;
    keys.0.sort_unstable();
    keys.0.dedup();
    Ok(keys.0)
}

fn map_of_keys<S: serde::Serializer>(keys: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(keys.iter().map(|key| (key, serde_json::json!({}))))
}

fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut names = BTreeMap::new();
            while let Some((key, value)) = map.next_entry::<String, String>()? {
                if NAME_ANNOTATIONS.contains(&key.as_str()) {
                    names.insert(key, value);
                }
            }
            Ok(names)
        }
    }

    deserializer.deserialize_map(Names)
}

/// The configuration blob of an image (OCI image specification, `config.md`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigBlob {
    pub architecture: String,
    pub os: String,
    #[serde(deserialize_with = "null_is_default")]
    pub config: ImageConfig,
    pub rootfs: RootFs,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(deserialize_with = "list")]
    pub diff_ids: Vec<String>,
}

/// A reference to a blob: media type, digest and size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(deserialize_with = "names", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A manifest or an index, which is recognised by its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Document {
    pub schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Descriptor>,
    #[serde(
        deserialize_with = "list_if_any",
        skip_serializing_if = "Option::is_none"
    )]
    pub layers: Option<Vec<Descriptor>>,
    #[serde(
        deserialize_with = "list_if_any",
        skip_serializing_if = "Option::is_none"
    )]
    pub manifests: Option<Vec<Descriptor>>,
}

/// The content of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// The manifest of one image.
    Image {
        config: Blob,
        /// The layers, the bottom layer first.
        layers: Vec<Blob>,
    },
    /// One image for several platforms.
    Index(Vec<Descriptor>),
}

/// The digest and the size of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
}

/// The reason why a document is no valid manifest, index or configuration.
#[derive(Debug, thiserror::Error)]
pub enum MalformedDocument {
    #[error("malformed {document}, at line {line}, column {column}")]
    Json {
        document: &'static str,
        line: usize,
        column: usize,
    },
    #[error("the {document} has more than {} {entries}", ENTRIES_MAX)]
    TooManyEntries {
        document: &'static str,
        entries: &'static str,
    },
    #[error("the {0} has more than {max} bytes for containers", max = CONFIG_BYTES_MAX)]
    TooLarge(&'static str),
    #[error("manifest schema version {0} is not supported")]
    SchemaVersion(u32),
    #[error("the manifest has neither layers nor a list of manifests")]
    NoLayers,
    #[error("malformed or unknown digest")]
    Digest,
}

impl MalformedDocument {
    fn json(document: &'static str, error: &serde_json::Error) -> Self {
        Self::Json {
            document,
            line: error.line(),
            column: error.column(),
        }
    }
}

/// The position of a syntax error in a document, without the content of the document, which may be secret.
pub fn json_fault(document: &str, error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    format!("malformed {document}, at line {line}, column {column}")
}

/// Reads a document.
pub fn document(bytes: impl Read) -> Result<Document, MalformedDocument> {
    let document: Document = serde_json::from_reader(bytes)
        .map_err(|error| MalformedDocument::json("manifest", &error))?;
    bounded("manifest", "layers", document.layers.as_deref())?;
    bounded("index", "manifests", document.manifests.as_deref())?;
    Ok(document)
}

/// Reads the configuration of an image.
pub fn configuration(bytes: impl Read) -> Result<ConfigBlob, MalformedDocument> {
    const DOCUMENT: &str = "configuration";
    let blob: ConfigBlob = serde_json::from_reader(bytes)
        .map_err(|error| MalformedDocument::json(DOCUMENT, &error))?;
    let ImageConfig {
        entrypoint,
        cmd,
        env,
        working_dir,
        user,
        stop_signal,
        volumes,
    } = &blob.config;
    bounded(DOCUMENT, "layers", Some(&blob.rootfs.diff_ids))?;
    let lists = [
        ("arguments", entrypoint),
        ("arguments", cmd),
        ("variables", env),
        ("volumes", volumes),
    ];
    for (entries, list) in lists {
        bounded(DOCUMENT, entries, Some(list))?;
    }
    let texts = lists.iter().flat_map(|(_, list)| list.iter());
    let texts = texts.chain([working_dir, user]).chain(stop_signal);
    if texts.map(String::len).sum::<usize>() > CONFIG_BYTES_MAX {
        return Err(MalformedDocument::TooLarge(DOCUMENT));
    }
    Ok(blob)
}

fn bounded<T>(
    document: &'static str,
    entries: &'static str,
    list: Option<&[T]>,
) -> Result<(), MalformedDocument> {
    match list.is_some_and(|list| list.len() > ENTRIES_MAX) {
        true => {
            cov_mark::hit!(findings_2_s38_lists);
            Err(MalformedDocument::TooManyEntries { document, entries })
        }
        false => Ok(()),
    }
}

/// Parses a manifest or index.
pub fn parse(bytes: impl Read) -> Result<Manifest, MalformedDocument> {
    let document = document(bytes)?;
    if document.schema_version != 2 {
        return Err(MalformedDocument::SchemaVersion(document.schema_version));
    }
    if let Some(manifests) = document.manifests {
        return Ok(Manifest::Index(manifests));
    }
    let (Some(config), Some(layers)) = (document.config, document.layers) else {
        return Err(MalformedDocument::NoLayers);
    };
    let layers = layers.iter().map(blob).collect::<Result<_, _>>()?;
    Ok(Manifest::Image {
        config: blob(&config)?,
        layers,
    })
}

fn blob(descriptor: &Descriptor) -> Result<Blob, MalformedDocument> {
    let digest = Digest::parse(&descriptor.digest).ok_or(MalformedDocument::Digest)?;
    Ok(Blob {
        digest,
        size: descriptor.size,
    })
}

/// The entry for this machine's platform. *Errors.* The list of available platforms.
pub fn for_this_platform(manifests: &[Descriptor]) -> Result<&Descriptor, Vec<String>> {
    let fits = |descriptor: &&Descriptor| {
        descriptor
            .platform
            .as_ref()
            .is_some_and(|p| p.os == "linux" && p.architecture == architecture())
    };
    if let Some(matching) = manifests.iter().find(fits) {
        return Ok(matching);
    }
    // Archives with a single image often have no platform; the configuration is checked later.
    if let [only] = manifests
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let platforms = manifests
        .iter()
        .filter_map(|descriptor| descriptor.platform.as_ref());
    Err(platforms
        .map(|p| format!("{}/{}", p.os, p.architecture))
        .collect())
}

/// The architecture of this machine, as named in images.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        architecture => architecture,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_configuration_with_nulls_is_read() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"],"Entrypoint":null,
            "Env":null,"User":"nobody","Volumes":{"/data":{}},"StopSignal":"SIGQUIT","Extra":1},
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config: ConfigBlob = serde_json::from_str(text).unwrap();
        assert_eq!(config.config.cmd, ["sh"]);
        assert_eq!(config.config.volumes, ["/data"]);
        assert_eq!(config.config.stop_signal.as_deref(), Some("SIGQUIT"));
        let again: ConfigBlob =
            serde_json::from_value(serde_json::to_value(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    // findings-2 S38
    #[test]
    fn lists_have_a_bound() {
        cov_mark::check!(findings_2_s38_lists);
        let list = |entry: &str, count| format!("[{}]", vec![entry; count].join(","));
        let manifest = |field: &str, count| {
            let text = format!(r#"{{"schemaVersion":2,"{field}":{}}}"#, list("{}", count));
            document(text.as_bytes()).map(|document| document.layers.or(document.manifests))
        };
        let configured = |field: &str, value: &str| {
            let text = format!(r#"{{"config":{{"{field}":{value}}}}}"#);
            configuration(text.as_bytes())
        };
        for field in ["layers", "manifests"] {
            let whole = manifest(field, ENTRIES_MAX).unwrap().unwrap();
            assert_eq!(whole.len(), ENTRIES_MAX);
            let error = manifest(field, ENTRIES_MAX + 2).unwrap_err().to_string();
            assert!(error.contains(&format!("10000 {field}")), "{error}");
        }
        for field in ["Entrypoint", "Cmd", "Env"] {
            configured(field, &list(r#""a""#, ENTRIES_MAX)).unwrap();
            let error = configured(field, &list(r#""a""#, ENTRIES_MAX + 2))
                .unwrap_err()
                .to_string();
            assert!(error.contains("has more than 10000"), "{error}");
            let long = format!(r#"["{}"]"#, "a".repeat(CONFIG_BYTES_MAX + 1));
            let error = configured(field, &long).unwrap_err().to_string();
            assert!(error.contains("262144 bytes"), "{error}");
        }
        let many: Vec<String> = (0..ENTRIES_MAX + 2)
            .map(|number| format!(r#""{number}":[]"#))
            .collect();
        let volumes = |count| configured("Volumes", &format!("{{{}}}", many[..count].join(",")));
        assert_eq!(
            volumes(ENTRIES_MAX).unwrap().config.volumes.len(),
            ENTRIES_MAX
        );
        let error = volumes(ENTRIES_MAX + 2).unwrap_err().to_string();
        assert!(error.contains("10000 volumes"), "{error}");
    }

    #[test]
    fn the_own_platform_is_chosen_and_others_are_named() {
        let entry = |os: &str, architecture: &str| Descriptor {
            platform: Some(Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: None,
            }),
            ..Descriptor::default()
        };
        let matching = entry("linux", architecture());
        let list = [entry("windows", architecture()), matching.clone()];
        assert_eq!(for_this_platform(&list), Ok(&matching));
        let foreign = [entry("linux", "s390x"), entry("linux", "ppc64le")];
        assert_eq!(
            for_this_platform(&foreign),
            Err(vec!["linux/s390x".to_owned(), "linux/ppc64le".to_owned()])
        );
    }

    #[test]
    fn hostile_digests_are_refused() {
        let text = json!({"schemaVersion": 2, "layers": [],
            "config": {"mediaType": "x", "digest": "sha256:../../x", "size": 1}});
        assert!(
            parse(text.to_string().as_bytes())
                .unwrap_err()
                .to_string()
                .contains("digest")
        );
        assert!(parse(&b"{"[..]).is_err());
        assert!(
            parse(&br#"{"schemaVersion":1}"#[..])
                .unwrap_err()
                .to_string()
                .contains("version 1")
        );
    }
}
