//! Certificates for other people's keys: requests (PKCS#10) that somebody has approved.

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose,
    IsCa, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use time::{Duration, OffsetDateTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::authority::distinguished_name;
use crate::{Authority, CertificateError, ClientSubject, inspect};

/// The longest life of a certificate that is signed for somebody, in seconds: a year, as
/// kube-controller-manager's default.
pub const LIFE_MAX: i64 = 365 * 24 * 3600;

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Signing what is sent.
    DigitalSignature,
    /// Encrypting other keys.
    KeyEncipherment,
    /// Showing to a server who one is.
    ClientAuth,
    /// Showing to clients who one is.
    ServerAuth,
}

impl Authority {
    /// Signs a request (PEM): subject, alternative names and key are the request's, the usages are
    /// those given, and nothing else that it asks for is granted. The certificate (PEM) is valid for
    /// `life` seconds at most, and for no more than [`LIFE_MAX`].
    ///
    /// *Errors.* `Request` for what is no request, `Generate` where its own signature is wrong or its
    /// key is of a kind that cannot be signed, `TooManyGroups` for more than two organizations.
    pub fn sign(
        &self,
        request: &[u8],
        usages: &[Usage],
        life: i64,
    ) -> Result<String, CertificateError> {
        let malformed = |_| CertificateError::Request;
        let der = CertificateSigningRequestDer::from_pem_slice(request).map_err(malformed)?;
        // Checks the signature: who asks has the key.
        let mut asked = CertificateSigningRequestParams::from_der(&der)?;
        let now = OffsetDateTime::now_utc();
        let mut granted = CertificateParams::default();
        granted.distinguished_name = subject(&der)?;
        granted.subject_alt_names = names(&asked.params.subject_alt_names);
        let life = Duration::seconds(life.clamp(0, LIFE_MAX));
        (granted.not_before, granted.not_after) = inspect::validity(now, life);
        granted.is_ca = IsCa::ExplicitNoCa;
        granted.use_authority_key_identifier_extension = true;
        for usage in usages {
            match usage {
                Usage::DigitalSignature => {
                    granted.key_usages.push(KeyUsagePurpose::DigitalSignature);
                }
                Usage::KeyEncipherment => {
                    granted.key_usages.push(KeyUsagePurpose::KeyEncipherment);
                }
                Usage::ClientAuth => {
                    let purpose = ExtendedKeyUsagePurpose::ClientAuth;
                    granted.extended_key_usages.push(purpose);
                }
                Usage::ServerAuth => {
                    let purpose = ExtendedKeyUsagePurpose::ServerAuth;
                    granted.extended_key_usages.push(purpose);
                }
            }
        }
        asked.params = granted;
        Ok(asked.signed_by(self.issuer())?.pem())
    }
}

/// The subject is read anew: the library's own form of it keeps one organization only.
fn subject(der: &CertificateSigningRequestDer<'_>) -> Result<DistinguishedName, CertificateError> {
    let parsed = X509CertificationRequest::from_der(der);
    let (_, parsed) = parsed.map_err(|_| CertificateError::Request)?;
    let subject = &parsed.certification_request_info.subject;
    let text = |name: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        let text = name.as_str().map_err(|_| CertificateError::Request)?;
        Ok::<_, CertificateError>(text.to_owned())
    };
    let common_name = subject.iter_common_name().last().map(text).transpose()?;
    distinguished_name(&ClientSubject {
        common_name: common_name.unwrap_or_default(),
        organizations: subject
            .iter_organization()
            .map(text)
            .collect::<Result<_, _>>()?,
    })
}

/// Kinds of names that a signer's rules speak of.
fn names(asked: &[SanType]) -> Vec<SanType> {
    let known = asked.iter().filter(|name| {
        matches!(
            name,
            SanType::DnsName(_) | SanType::IpAddress(_) | SanType::Rfc822Name(_) | SanType::URI(_)
        )
    });
    known.cloned().collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{DnType, KeyPair};
    use x509_parser::parse_x509_certificate;
    use x509_parser::pem::parse_x509_pem;

    use super::*;

    /// A request for `jane` of two groups, who would like to be an authority.
    fn request() -> String {
        let mut params = CertificateParams::new(vec!["jane.example.com".to_owned()]).unwrap();
        params.distinguished_name = distinguished_name(&ClientSubject {
            common_name: "jane".to_owned(),
            organizations: vec!["developers".to_owned(), "testers".to_owned()],
        })
        .unwrap();
        params.distinguished_name.push(DnType::CountryName, "DE");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_certificate_says_what_was_asked_and_allows_what_was_granted() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let usages = [Usage::DigitalSignature, Usage::ClientAuth];
        let pem = authority.sign(request().as_bytes(), &usages, 3600).unwrap();
        let (_, block) = parse_x509_pem(pem.as_bytes()).unwrap();
        let subject = ClientSubject::of(&block.contents).unwrap();
        assert_eq!(subject.common_name, "jane");
        assert_eq!(subject.organizations, ["developers", "testers"]);
        let (_, parsed) = parse_x509_certificate(&block.contents).unwrap();
        assert!(!parsed.is_ca());
        let usage = parsed.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        let extended = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth);
        let names = parsed.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names.len(), 1);
        let validity = parsed.validity();
        let span = validity.not_after.timestamp() - validity.not_before.timestamp();
        assert_eq!(span, 3600 + inspect::BACKDATED.whole_seconds());
        let trusted = parse_x509_pem(authority.ca_pem().as_bytes()).unwrap().1;
        let (_, issuer) = parse_x509_certificate(&trusted.contents).unwrap();
        assert_eq!(parsed.issuer(), issuer.subject());
    }

    #[test]
    fn what_is_no_request_is_not_signed() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let sign = |text: &str| authority.sign(text.as_bytes(), &[], 600);
        assert!(matches!(sign("x"), Err(CertificateError::Request)));
        // The signature is over something else.
        let mut letters: Vec<char> = request().chars().collect();
        let place = letters.len() - 50;
        letters[place] = if letters[place] == 'A' { 'B' } else { 'A' };
        let forged: String = letters.into_iter().collect();
        assert!(sign(&forged).is_err());
    }
}
