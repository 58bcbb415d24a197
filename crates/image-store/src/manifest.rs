//! Manifests, indexes and configurations as registries serve them (OCI image specification;
//! Docker image manifest version 2, schema 2).

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The media types of manifests that the `Accept` header names.
pub const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// The container configuration of an image; pods may override it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// The program and its first arguments (`Entrypoint`).
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// Further arguments, or program and arguments where there is no entry point.
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// Environment variables as `NAME=value`.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// Working directory; empty for `/`.
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// `user[:group]`, names or numbers; empty for root.
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// Signal that stops a container, such as `SIGQUIT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Directories that the image wants to be volumes.
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

type Keys = std::collections::BTreeMap<String, serde_json::Value>;

fn keys_of_map<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let map: Option<Keys> = Option::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

fn map_of_keys<S: serde::Serializer>(keys: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    let map: Keys = keys
        .iter()
        .map(|key| (key.clone(), serde_json::json!({})))
        .collect();
    map.serialize(serializer)
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
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A manifest or an index, distinguished by its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Document {
    pub schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<Descriptor>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<Descriptor>>,
}

/// The contents of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// One image.
    Image {
        /// The configuration's blob.
        config: Blob,
        /// The layers' blobs, bottom first.
        layers: Vec<Blob>,
    },
    /// The same image for several platforms.
    Index(Vec<Descriptor>),
}

/// A blob by digest and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
}

/// The position of a syntax error in a document, without its contents: those may be secret.
pub fn json_fault(what: &str, error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    format!("malformed {what}, at line {line}, column {column}")
}

/// Parses a manifest or index. *Errors.* A message.
pub fn parse(bytes: &[u8]) -> Result<Manifest, String> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| json_fault("manifest", &error))?;
    if document.schema_version != 2 {
        return Err(format!(
            "manifest schema version {} is not supported",
            document.schema_version
        ));
    }
    if let Some(manifests) = document.manifests {
        return Ok(Manifest::Index(manifests));
    }
    let (Some(config), Some(layers)) = (document.config, document.layers) else {
        return Err("the manifest has neither layers nor a list of manifests".to_owned());
    };
    let layers = layers.iter().map(blob).collect::<Result<_, _>>()?;
    Ok(Manifest::Image {
        config: blob(&config)?,
        layers,
    })
}

fn blob(descriptor: &Descriptor) -> Result<Blob, String> {
    let digest = Digest::parse(&descriptor.digest).ok_or("malformed or unknown digest")?;
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
    if let Some(found) = manifests.iter().find(fits) {
        return Ok(found);
    }
    // Archives of a single image often leave the platform out; the configuration is checked later.
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

/// This machine's architecture as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
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
        let ours = entry("linux", architecture());
        let list = [entry("windows", architecture()), ours.clone()];
        assert_eq!(for_this_platform(&list), Ok(&ours));
        let others = [entry("linux", "s390x"), entry("linux", "ppc64le")];
        assert_eq!(
            for_this_platform(&others),
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
                .contains("digest")
        );
        assert!(parse(b"{").is_err());
        assert!(
            parse(br#"{"schemaVersion":1}"#)
                .unwrap_err()
                .contains("version 1")
        );
    }
}
