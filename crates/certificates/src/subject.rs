use x509_parser::parse_x509_certificate;

/// The subject of a client certificate: Kubernetes' user name and groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSubject {
    /// The common name: the user.
    pub common_name: String,
    /// The organizations, in their order: the groups.
    pub organizations: Vec<String>,
}

/// The error of parsing a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// The bytes are not a certificate.
    #[error("not an X.509 certificate")]
    Malformed,
    /// The subject has no common name.
    #[error("the certificate has no common name")]
    NoCommonName,
    /// The subject contains several common names, so programs would differ about the user.
    #[error("the certificate has several common names")]
    SeveralCommonNames,
}

impl ClientSubject {
    /// Parses the subject of a certificate (DER). The signature is not verified.
    pub fn of(certificate: &[u8]) -> Result<Self, SubjectError> {
        let (_, parsed) =
            parse_x509_certificate(certificate).map_err(|_| SubjectError::Malformed)?;
        let subject = parsed.subject();
        let mut names = subject.iter_common_name();
        let common_name = names.next().and_then(|name| name.as_str().ok());
        if names.next().is_some() {
            cov_mark::hit!(findings_2_s35_subject);
            return Err(SubjectError::SeveralCommonNames);
        }
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
    use rcgen::DnType;

    use super::*;

    // findings-2 S35
    #[test]
    fn a_certificate_with_two_common_names_names_nobody() {
        cov_mark::check!(findings_2_s35_subject);
        let of = |names: &[&str]| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            // rcgen stores one name of each type, so the second common name is added by its object identifier.
            let kinds = [DnType::CommonName, DnType::CustomDnType(vec![2, 5, 4, 3])];
            for (kind, name) in kinds.into_iter().zip(names) {
                params.distinguished_name.push(kind, *name);
            }
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            ClientSubject::of(certificate.der()).map(|subject| subject.common_name)
        };
        assert_eq!(of(&["system:node:n1"]), Ok("system:node:n1".to_owned()));
        let several = Err(SubjectError::SeveralCommonNames);
        assert_eq!(of(&["system:node:n1", "system:node:n2"]), several);
        assert_eq!(of(&[]), Err(SubjectError::NoCommonName));
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        assert_eq!(ClientSubject::of(b""), Err(SubjectError::Malformed));
        assert_eq!(
            ClientSubject::of(b"-----BEGIN"),
            Err(SubjectError::Malformed)
        );
    }
}
