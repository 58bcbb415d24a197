//! Image names (the grammar of the OCI Distribution Specification), completed as in Docker.

use std::fmt;

/// The registry of names that have none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Another name of the default registry.
const DEFAULT_REGISTRY_HOST: &str = "index.docker.io";
/// The first part of the repository, for names in the default registry that have only one part.
const DEFAULT_REPOSITORY: &str = "library";
/// The tag of names without a tag and a digest.
const DEFAULT_TAG: &str = "latest";
/// Maximum length of a repository.
const REPOSITORY_MAX: usize = 255;
/// Maximum length of a tag.
const TAG_MAX: usize = 128;

/// An image name that no registry can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {reference:?}: {reason}")]
pub struct InvalidReference {
    pub reference: String,
    /// The rule that the name violates.
    pub reason: String,
}

/// The full form of a name: `nginx` → `docker.io/library/nginx:latest`.
///
/// # Errors
/// The name is malformed.
pub fn normalize(reference: &str) -> Result<String, InvalidReference> {
    parse(reference).map(|reference| reference.whole())
}

pub(crate) fn parse(reference: &str) -> Result<Reference, InvalidReference> {
    Reference::parse(reference.trim()).map_err(|reason| InvalidReference {
        reference: reference.to_owned(),
        reason: reason.to_owned(),
    })
}

/// An image name, completed as in Docker: registry, repository, tag or digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

const MALFORMED: &str = "invalid reference format";

impl Reference {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("repository name must have at least one component");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].find(':') {
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        if !tag.is_none_or(is_tag) {
            return Err(MALFORMED);
        }
        digest.map_or(Ok(()), check_digest)?;
        let (registry, repository) = split(name)?;
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self {
            registry,
            repository,
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The registry, for instance `docker.io` or `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The host of the registry's API.
    pub fn resolve_registry(&self) -> &str {
        match self.registry() {
            DEFAULT_REGISTRY => DEFAULT_REGISTRY_HOST,
            registry => registry,
        }
    }

    /// The repository without the registry, for instance `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only for a name with a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, for instance `sha256:…`; `None` if the name has only a tag.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The full name: registry, repository, tag and digest.
    pub fn whole(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

/// The registry and the repository. The first part of a name is the registry if it looks like a host.
fn split(name: &str) -> Result<(String, String), &'static str> {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            if !is_host(first) && !is_part(first) {
                return Err(MALFORMED);
            }
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    let (first, rest) = repository.split_once('/').unwrap_or((repository, ""));
    let is_default = registry == DEFAULT_REGISTRY;
    if is_default && !rest.is_empty() && is_host(first) && !is_part(first) {
        return Err("repository name must be lowercase");
    }
    if !repository.split('/').all(is_part) {
        return Err(MALFORMED);
    }
    let registry = match registry {
        DEFAULT_REGISTRY_HOST => DEFAULT_REGISTRY,
        registry => registry,
    };
    let repository = match registry {
        DEFAULT_REGISTRY if !repository.contains('/') => {
            format!("{DEFAULT_REPOSITORY}/{repository}")
        }
        _ => repository.to_owned(),
    };
    if repository.len() > REPOSITORY_MAX {
        return Err("repository name must not be more than 255 characters");
    }
    Ok((registry.to_owned(), repository))
}

/// Whether a text is a host, with or without a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty()
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

/// Whether a text is valid as a part of a repository: groups of lower-case letters and digits, separated by
/// a dot, one or two underscores, or dashes.
fn is_part(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_joint =
        |joint: &str| matches!(joint, "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-');
    text.starts_with(is_word) && text.ends_with(is_word) && text.split(is_word).all(is_joint)
}

fn is_tag(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_inner = |c: char| is_word(c) || matches!(c, '.' | '-');
    text.starts_with(is_word) && text.chars().all(is_inner) && text.len() <= TAG_MAX
}

fn check_digest(text: &str) -> Result<(), &'static str> {
    let (algorithm, hash) = text.split_once(':').ok_or(MALFORMED)?;
    if !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(MALFORMED);
    }
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm"),
    };
    match hash.len() == length {
        true => Ok(()),
        false => Err("invalid checksum digest length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings A6: the full form of a name can be parsed again.
    #[test]
    fn names_are_in_lower_case() {
        let refused = normalize("Host/x").unwrap_err();
        assert!(refused.to_string().contains("lowercase"), "{refused}");
        assert!(normalize("Host:5000/x").is_ok());
    }

    #[test]
    fn names_are_completed() {
        let digest = format!("a.example:5000/x/y@sha256:{}", "0".repeat(64));
        for (short, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.9.1", "docker.io/library/nginx:1.9.1"),
            ("mainstay/hello", "docker.io/mainstay/hello:latest"),
            ("127.0.0.1:5000/app:2", "127.0.0.1:5000/app:2"),
            (digest.as_str(), digest.as_str()),
        ] {
            assert_eq!(normalize(short).as_deref(), Ok(full));
        }
    }

    #[test]
    fn malformed_names_are_refused() {
        for name in ["", "UPPER", "a b", "x:", "-x"] {
            assert!(normalize(name).is_err(), "{name:?}");
        }
    }

    /// OCI Distribution Specification 1.1, "Pulling manifests"; the hosts and default names of Docker.
    #[test]
    fn names_have_a_registry_a_repository_a_tag_and_a_digest() {
        let hash = "f".repeat(64);
        let parts = |name: &str| {
            let read = parse(name).unwrap();
            let parts = [
                read.registry(),
                read.repository(),
                read.tag().unwrap_or("-"),
            ];
            parts.join(" ") + if read.digest().is_some() { " @" } else { "" }
        };
        for (name, expected) in [
            ("h.example:tag", "docker.io library/h.example tag"),
            ("h.example:5000", "docker.io library/h.example 5000"),
            ("h:5000/r", "h:5000 r latest"),
            (
                "h-1.example/a/b_c/d--e:T.g-1_",
                "h-1.example a/b_c/d--e T.g-1_",
            ),
            ("localhost/r", "localhost r latest"),
            ("localhost", "docker.io library/localhost latest"),
            ("index.docker.io/r", "docker.io library/r latest"),
            ("docker.io/a/b", "docker.io a/b latest"),
            ("a__b/c.d", "docker.io a__b/c.d latest"),
        ] {
            assert_eq!(parts(name), expected, "{name}");
        }
        let digest = format!("h:5000/r@sha256:{hash}");
        assert_eq!(parts(&digest), "h:5000 r - @");
        let both = format!("r:1@sha256:{hash}");
        assert_eq!(parts(&both), "docker.io library/r 1 @");
        assert_eq!(parse("r").unwrap().resolve_registry(), "index.docker.io");
        assert_eq!(parse("h:1/r").unwrap().resolve_registry(), "h:1");
    }

    #[test]
    fn each_part_has_its_own_letters() {
        let hash = "f".repeat(64);
        let (long, tag) = ("a".repeat(248), "t".repeat(129));
        for name in [
            ":tag",
            "/r",
            "r/",
            "h.example//r",
            "h.-example/r",
            "h:x/r",
            "h:/r",
            "[::1]:5000/r",
            "h:1/Upper/r",
            "h:1/a$/r",
            "a.-b",
            "a___b",
            "a._b",
            "r:-t",
            "r:é",
            "r@",
            "r@sha256",
            "r@sha256:ff",
            &format!("r@md5:{hash}"),
            &format!("r@sha256:{}g", &hash[1..]),
            &format!("@sha256:{hash}"),
            &format!("r:{tag}"),
            &long,
        ] {
            assert!(normalize(name).is_err(), "{name:?}");
        }
        assert!(normalize(&long[1..]).is_ok() && normalize(&format!("r:{}", &tag[1..])).is_ok());
    }
}
