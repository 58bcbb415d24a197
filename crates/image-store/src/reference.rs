//! Names of images, completed as Docker completes them.

use oci_spec::distribution::Reference;

/// A name that no registry could have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {reference:?}: {reason}")]
pub struct InvalidReference {
    /// The name.
    pub reference: String,
    /// The error.
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
    let invalid = |reason: String| InvalidReference {
        reference: reference.to_owned(),
        reason,
    };
    let parsed = reference.trim().parse::<Reference>();
    let parsed = parsed.map_err(|error| invalid(error.to_string()))?;
    // Of `Host/x` the first word is parsed as a part of the repository, which has no such letters.
    if parsed.repository().chars().any(char::is_uppercase) {
        return Err(invalid("repository name must be lowercase".to_owned()));
    }
    Ok(parsed)
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
}
