//! The subject of a client certificate: user and groups.

use x509_parser::parse_x509_certificate;

/// The subject of a client certificate: Kubernetes' user name and groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSubject {
    /// The common name: the user.
    pub common_name: String,
    /// The organizations in their order: the groups.
    pub organizations: Vec<String>,
}

/// The error of reading a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// The bytes are not a certificate.
    #[error("not an X.509 certificate")]
    Malformed,
    /// The subject has no common name.
    #[error("the certificate has no common name")]
    NoCommonName,
}

impl ClientSubject {
    /// Reads the subject of a certificate (DER). Does not verify its signature.
    pub fn of(certificate: &[u8]) -> Result<Self, SubjectError> {
        let (_, parsed) =
            parse_x509_certificate(certificate).map_err(|_| SubjectError::Malformed)?;
        let subject = parsed.subject();
        // As Go's crypto/x509, which Kubernetes reads with: of several, the last one counts.
        let common_name = subject.iter_common_name().last();
        let common_name = common_name.and_then(|name| name.as_str().ok());
        let common_name = common_name
            .filter(|name| !name.is_empty())
            .ok_or(SubjectError::NoCommonName)?;
        let organizations = subject.iter_organization();
        let organizations = organizations
            .map(|name| {
                name.as_str()
                    .map(str::to_owned)
                    .map_err(|_| SubjectError::Malformed)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            common_name: common_name.to_owned(),
            organizations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_names_nobody() {
        assert_eq!(ClientSubject::of(b""), Err(SubjectError::Malformed));
        assert_eq!(
            ClientSubject::of(b"-----BEGIN"),
            Err(SubjectError::Malformed)
        );
    }
}
