//! Certificates for the keys of other programs: approved requests (PKCS#10).
//!
//! The caller passes the contents as parsed at the approval. Only the key comes from the request, and the certificate
//! is compared with the approved contents before it is returned.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateSigningRequestDer;
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::{FromDer as _, GeneralName};

use crate::authority::distinguished_name;
use crate::{Authority, CertificateError, ClientSubject, Identity, inspect};

/// Maximum validity of a signed certificate in seconds: a year, the default of kube-controller-manager.
pub const LIFE_MAX: i64 = 365 * 24 * 3600;

/// An approved CertificateSigningRequest, ready to be signed.
#[derive(Clone, Debug)]
pub struct ApprovedRequest<'a> {
    /// The request in DER. Its signature proves that the requester has the private key.
    pub der: &'a [u8],
    /// The subject of the certificate.
    pub subject: ClientSubject,
    /// Subject alternative names: DNS names.
    pub dns: &'a [String],
    /// Subject alternative names: IP addresses.
    pub addresses: &'a [IpAddr],
    /// Subject alternative names: e-mail addresses.
    pub emails: &'a [String],
    /// Subject alternative names: URIs.
    pub uris: &'a [String],
    /// The usages of the certificate.
    pub usages: Vec<Usage>,
    /// The requested validity in seconds, at most [`LIFE_MAX`].
    pub life: i64,
}

/// A usage of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usage {
    DigitalSignature,
    KeyEncipherment,
    ClientAuth,
    ServerAuth,
}

impl Authority {
    /// A server certificate with a new key for a node at an address, as a node would get it after a request.
    ///
    /// *Errors.* `Generate` if no key can be created.
    pub fn node_server(
        &self,
        node_name: &str,
        address: IpAddr,
    ) -> Result<Identity, CertificateError> {
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let certificate = self.sign(&ApprovedRequest {
            der: request.der(),
            subject: ClientSubject {
                common_name: format!("system:node:{node_name}"),
                organizations: vec!["system:nodes".to_owned()],
            },
            dns: &[],
            addresses: &[address],
            emails: &[],
            uris: &[],
            usages: vec![Usage::DigitalSignature, Usage::ServerAuth],
            life: LIFE_MAX,
        })?;
        Identity::from_pem(certificate, key.serialize_pem()).ok_or(CertificateError::Differs("key"))
    }

    /// Signs a request: the certificate (PEM) contains the approved contents and nothing else.
    ///
    /// *Errors.* `Request` if the bytes are not a request, `Generate` if the signature is wrong or the type of the
    /// key is not supported, `TooManyGroups` for more than two organizations, `Differs` if the certificate would
    /// differ from the approved contents.
    pub fn sign(&self, approved: &ApprovedRequest<'_>) -> Result<String, CertificateError> {
        // This call verifies the signature, which proves that the requester has the private key.
        let der = CertificateSigningRequestDer::from(approved.der);
        let mut params = CertificateSigningRequestParams::from_der(&der)?;
        let now = OffsetDateTime::now_utc();
        let mut granted = CertificateParams::default();
        granted.distinguished_name = distinguished_name(&approved.subject)?;
        granted.subject_alt_names = approved.names()?;
        let life = Duration::seconds(approved.life.clamp(0, LIFE_MAX));
        (granted.not_before, granted.not_after) = inspect::validity(now, life);
        granted.is_ca = IsCa::ExplicitNoCa;
        granted.use_authority_key_identifier_extension = true;
        for usage in &approved.usages {
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
        params.params = granted;
        let signed = params.signed_by(self.issuer())?;
        approved.check(signed.der())?;
        Ok(signed.pem())
    }
}

impl ApprovedRequest<'_> {
    fn names(&self) -> Result<Vec<SanType>, CertificateError> {
        let dns = self.dns.iter();
        let dns = dns.map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
        let addresses = self.addresses.iter();
        let addresses = addresses.map(|address| Ok(SanType::IpAddress(*address)));
        let emails = self.emails.iter();
        let emails = emails.map(|name| Ok(SanType::Rfc822Name(name.as_str().try_into()?)));
        let uris = self.uris.iter();
        let uris = uris.map(|name| Ok(SanType::URI(name.as_str().try_into()?)));
        dns.chain(addresses).chain(emails).chain(uris).collect()
    }

    /// Compares a certificate (DER) with the approved contents.
    ///
    /// *Errors.* `Differs` with the first difference, `Request` if it cannot be parsed.
    fn check(&self, certificate: &[u8]) -> Result<(), CertificateError> {
        let unreadable = CertificateError::Request;
        let Ok((_, parsed)) = parse_x509_certificate(certificate) else {
            return Err(unreadable);
        };
        let Ok((_, request)) = X509CertificationRequest::from_der(self.der) else {
            return Err(unreadable);
        };
        let request = request.certification_request_info;
        for (what, is_same) in [
            ("subject", subject(&parsed).as_ref() == Some(&self.subject)),
            ("alternative names", self.has_names(&parsed)),
            (
                "usages",
                usages(&parsed) == Some(self.usages.iter().copied().collect()),
            ),
            ("key", parsed.public_key().raw == request.subject_pki.raw),
            ("kind", !parsed.is_ca()),
        ] {
            if !is_same {
                return Err(CertificateError::Differs(what));
            }
        }
        Ok(())
    }

    fn has_names(&self, certificate: &X509Certificate<'_>) -> bool {
        let Ok(extension) = certificate.subject_alternative_name() else {
            return false;
        };
        let mut names = Vec::new();
        for name in extension
            .iter()
            .flat_map(|names| &names.value.general_names)
        {
            names.push(match name {
                GeneralName::DNSName(name) => format!("DNS {name}"),
                GeneralName::RFC822Name(name) => format!("mail {name}"),
                GeneralName::URI(name) => format!("URI {name}"),
                GeneralName::IPAddress(bytes) => match inspect::address(bytes) {
                    Some(address) => format!("IP {address}"),
                    None => return false,
                },
                _ => return false,
            });
        }
        let dns = self.dns.iter().map(|name| format!("DNS {name}"));
        let addresses = self.addresses.iter().map(|address| format!("IP {address}"));
        let emails = self.emails.iter().map(|name| format!("mail {name}"));
        let uris = self.uris.iter().map(|name| format!("URI {name}"));
        names
            .into_iter()
            .eq(dns.chain(addresses).chain(emails).chain(uris))
    }
}

/// The subject; `None` if it has other attributes than one common name and organizations.
fn subject(certificate: &X509Certificate<'_>) -> Option<ClientSubject> {
    let all = certificate.subject();
    let text =
        |name: &x509_parser::x509::AttributeTypeAndValue<'_>| name.as_str().ok().map(str::to_owned);
    let names: Vec<String> = all.iter_common_name().map(text).collect::<Option<_>>()?;
    let organizations: Vec<String> = all.iter_organization().map(text).collect::<Option<_>>()?;
    let only = all.iter_attributes().count() == names.len() + organizations.len();
    match names.as_slice() {
        [common_name] if only => Some(ClientSubject {
            common_name: common_name.clone(),
            organizations,
        }),
        _ => None,
    }
}

/// The usages; `None` if some of them are not supported here.
fn usages(certificate: &X509Certificate<'_>) -> Option<BTreeSet<Usage>> {
    let mut usages = BTreeSet::new();
    if let Some(usage) = certificate.key_usage().ok()? {
        let mut rest = usage.value.flags;
        // Bits of the extension (RFC 5280, 4.2.1.3), starting with the lowest bit.
        for (bit, usage) in [(0, Usage::DigitalSignature), (2, Usage::KeyEncipherment)] {
            if rest & (1 << bit) != 0 {
                usages.insert(usage);
                rest &= !(1 << bit);
            }
        }
        if rest != 0 {
            return None;
        }
    }
    if let Some(usage) = certificate.extended_key_usage().ok()? {
        let usage = usage.value;
        let others = usage.any
            || usage.code_signing
            || usage.email_protection
            || usage.time_stamping
            || usage.ocsp_signing
            || !usage.other.is_empty();
        if others {
            return None;
        }
        usages.extend(usage.client_auth.then_some(Usage::ClientAuth));
        usages.extend(usage.server_auth.then_some(Usage::ServerAuth));
    }
    Some(usages)
}

#[cfg(test)]
mod tests {
    use rcgen::{DnType, KeyPair};
    use x509_parser::parse_x509_certificate;
    use x509_parser::pem::parse_x509_pem;

    use super::*;

    /// A request for `jane` in two groups that requests a CA certificate.
    fn request() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["jane.example.com".to_owned()]).unwrap();
        params.distinguished_name = distinguished_name(&jane()).unwrap();
        params.distinguished_name.push(DnType::CountryName, "DE");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    fn jane() -> ClientSubject {
        ClientSubject {
            common_name: "jane".to_owned(),
            organizations: vec!["developers".to_owned(), "testers".to_owned()],
        }
    }

    fn approved(der: &[u8]) -> ApprovedRequest<'_> {
        ApprovedRequest {
            der,
            subject: jane(),
            dns: &[],
            addresses: &[],
            emails: &[],
            uris: &[],
            usages: vec![Usage::DigitalSignature, Usage::ClientAuth],
            life: 3600,
        }
    }

    fn contents(pem: &str) -> Vec<u8> {
        parse_x509_pem(pem.as_bytes()).unwrap().1.contents
    }

    #[test]
    fn a_certificate_says_what_was_approved_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let der = request();
        let names = ["jane.example.com".to_owned()];
        let approved = ApprovedRequest {
            dns: &names,
            ..approved(&der)
        };
        let signed = contents(&authority.sign(&approved).unwrap());
        assert_eq!(ClientSubject::of(&signed).unwrap(), jane());
        let (_, parsed) = parse_x509_certificate(&signed).unwrap();
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
        let trusted = contents(authority.ca_pem());
        let (_, issuer) = parse_x509_certificate(&trusted).unwrap();
        assert_eq!(parsed.issuer(), issuer.subject());
    }

    #[test]
    fn what_differs_from_what_was_approved_is_found() {
        // findings S3
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let (der, other) = (request(), request());
        let names = ["a.example.com".to_owned()];
        let addresses = ["10.0.0.1".parse().unwrap()];
        let right = ApprovedRequest {
            dns: &names,
            addresses: &addresses,
            ..approved(&der)
        };
        let signed = contents(&authority.sign(&right).unwrap());
        right.check(&signed).unwrap();
        let difference = |wrong: ApprovedRequest<'_>| match wrong.check(&signed) {
            Err(CertificateError::Differs(what)) => what,
            other => panic!("{other:?}"),
        };
        let mut subject = jane();
        subject.organizations.pop();
        let wrong = |change: fn(ApprovedRequest<'_>) -> ApprovedRequest<'_>| change(right.clone());
        assert_eq!(
            difference(ApprovedRequest {
                subject,
                ..right.clone()
            }),
            "subject"
        );
        assert_eq!(
            difference(wrong(|it| ApprovedRequest { dns: &[], ..it })),
            "alternative names"
        );
        assert_eq!(
            difference(wrong(|it| ApprovedRequest {
                addresses: &[],
                ..it
            })),
            "alternative names"
        );
        let usages = vec![Usage::DigitalSignature];
        assert_eq!(
            difference(ApprovedRequest {
                usages,
                ..right.clone()
            }),
            "usages"
        );
        assert_eq!(
            difference(ApprovedRequest {
                der: &other,
                ..right.clone()
            }),
            "key"
        );
        // A CA certificate is not a request.
        let authority = contents(authority.ca_pem());
        assert!(right.check(&authority).is_err());
    }

    #[test]
    fn what_is_no_request_is_not_signed() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        assert!(authority.sign(&approved(b"x")).is_err());
        // The signature belongs to other data.
        let mut forged = request();
        *forged.last_mut().unwrap() ^= 1;
        assert!(authority.sign(&approved(&forged)).is_err());
    }
}
