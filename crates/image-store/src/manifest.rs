//! Manifests, indexes and configurations as OCI and Docker write them; pure.

use serde::Deserialize;

use crate::digest::Digest;
use crate::image::ImageConfig;
use crate::limits::LAYERS_MAX;

/// Media types that are asked for, OCI's and Docker's.
pub(crate) const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A part of an image, by digest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub digest: Digest,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub media_type: String,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// What a manifest is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

/// One image for one platform.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Either kind of top document.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// An image's whole configuration.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Configuration {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    config: Option<ImageConfig>,
    rootfs: RootFs,
}

#[derive(Clone, Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl Configuration {
    pub fn run_config(&self) -> ImageConfig {
        self.config.clone().unwrap_or_default()
    }

    /// Digests of the uncompressed layers, topmost last.
    pub fn diff_ids(&self) -> &[Digest] {
        self.rootfs.diff_ids.as_deref().unwrap_or_default()
    }
}

/// Reads a manifest or an index.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Any {
        #[serde(default)]
        schema_version: u32,
        #[serde(default)]
        manifests: Option<Vec<Descriptor>>,
        #[serde(default)]
        layers: Option<Vec<Descriptor>>,
        #[serde(default)]
        config: Option<Descriptor>,
    }
    let any: Any =
        serde_json::from_slice(bytes).map_err(|error| format!("malformed manifest: {error}"))?;
    match (any.schema_version, any.manifests, any.config, any.layers) {
        (1, ..) => {
            Err("manifests of schema version 1 are not supported; push the image anew".to_owned())
        }
        (_, Some(manifests), None, None) => Ok(Document::Index(manifests)),
        (_, None, Some(config), Some(layers)) if layers.len() <= LAYERS_MAX => {
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        (_, None, Some(_), Some(layers)) => Err(format!(
            "{} layers are more than the {LAYERS_MAX} that are possible",
            layers.len()
        )),
        _ => Err("malformed manifest: neither an image nor an index".to_owned()),
    }
}

/// Reads a configuration that belongs to `layers` layers.
pub(crate) fn parse_configuration(bytes: &[u8], layers: usize) -> Result<Configuration, String> {
    let configuration: Configuration = serde_json::from_slice(bytes)
        .map_err(|error| format!("malformed image configuration: {error}"))?;
    match configuration.diff_ids().len() == layers {
        true => Ok(configuration),
        false => Err(format!(
            "its configuration lists {} layers, its manifest {layers}",
            configuration.diff_ids().len()
        )),
    }
}

/// This machine as OCI names it.
pub(crate) fn this_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Picks the manifest for `architecture`, or tells what there is instead.
pub(crate) fn choose<'a>(
    manifests: &'a [Descriptor],
    architecture: &str,
) -> Result<&'a Descriptor, String> {
    let fits = |descriptor: &&Descriptor| {
        let platform = descriptor.platform.as_ref();
        platform.is_some_and(|p| p.os == "linux" && p.architecture == architecture)
    };
    if let Some(found) = manifests.iter().find(fits) {
        return Ok(found);
    }
    // An index of one image that does not say what it is for: its configuration will.
    if let [only] = manifests
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let mut available: Vec<_> = manifests
        .iter()
        .filter_map(|descriptor| descriptor.platform.as_ref())
        // Attestations are listed like images.
        .filter(|platform| platform.os != "unknown")
        .map(|platform| format!("{}/{}", platform.os, platform.architecture))
        .collect();
    available.sort();
    available.dedup();
    Err(if available.is_empty() {
        "none".to_owned()
    } else {
        available.join(", ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(os: &str, architecture: &str, text: &str) -> String {
        let digest = Digest::of(text.as_bytes());
        format!(
            r#"{{"digest":"{digest}","size":1,"mediaType":"x",
                 "platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#
        )
    }

    #[test]
    fn the_manifest_for_this_machine_is_chosen() {
        let list = [
            descriptor("linux", "arm64", "a"),
            descriptor("windows", "amd64", "b"),
            descriptor("unknown", "unknown", "c"),
            descriptor("linux", "amd64", "d"),
        ];
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, list.join(","));
        let Document::Index(manifests) = parse(index.as_bytes()).unwrap() else {
            panic!()
        };
        assert_eq!(
            choose(&manifests, "amd64").unwrap().digest,
            Digest::of(b"d")
        );
        let available = choose(&manifests, "riscv64").unwrap_err();
        assert_eq!(available, "linux/amd64, linux/arm64, windows/amd64");
        assert!(choose(&[], "amd64").is_err());
    }

    #[test]
    fn unusable_documents_are_told_apart() {
        let error = |text: &str| parse(text.as_bytes()).unwrap_err();
        assert!(error("{").contains("malformed"));
        assert!(error(r#"{"schemaVersion":1,"fsLayers":[]}"#).contains("schema version 1"));
        assert!(error(r#"{"schemaVersion":2}"#).contains("neither"));
        let layer = r#"{"digest":"sha256:../../etc","size":1}"#;
        assert!(error(&format!(r#"{{"config":{layer},"layers":[]}}"#)).contains("digest"));
    }

    #[test]
    fn configurations_may_have_nulls_but_must_fit_their_manifest() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Env":["A=b"]},
                       "rootfs":{"type":"layers","diff_ids":null}}"#;
        let configuration = parse_configuration(text.as_bytes(), 0).unwrap();
        assert_eq!(configuration.run_config().env, ["A=b"]);
        assert!(
            parse_configuration(text.as_bytes(), 1)
                .unwrap_err()
                .contains("lists 0 layers")
        );
    }
}
