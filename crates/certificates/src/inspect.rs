//! The check of a stored certificate before its use. Pure: the time is an argument.

use std::{collections::BTreeSet, net::IpAddr, time::SystemTime};

use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use time::{Duration, OffsetDateTime};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate};

use crate::{ClientSubject, SubjectAltNames};

/// A certificate is renewed when less than this fraction (1/3) of its lifetime is left.
const RENEWAL_PART: i32 = 3;

/// The validity starts this long before the creation, for peers whose clocks are slow.
pub(crate) const BACKDATED: Duration = Duration::hours(1);

/// The names or the subject that a stored certificate must have.
pub(crate) enum CertificatePurpose<'a> {
    Server(&'a SubjectAltNames),
    Client(&'a ClientSubject),
}

/// Whether the certificate (DER) has the purpose, is signed by the authority with this public key, and is not due for
/// renewal.
pub(crate) fn usable(
    certificate: &[u8],
    purpose: &CertificatePurpose<'_>,
    authority_key: &[u8],
    now: OffsetDateTime,
) -> bool {
    let Ok((_, parsed)) = parse_x509_certificate(certificate) else {
        return false;
    };
    let fits_purpose = match purpose {
        // Additional addresses are accepted, because most of them were addresses of the host, and the key is
        // unchanged.
        CertificatePurpose::Server(names) => {
            alt_names(&parsed).is_some_and(|has| has.covers(names))
        }
        CertificatePurpose::Client(subject) => {
            ClientSubject::of(certificate).as_ref() == Ok(*subject)
        }
    };
    fits_purpose && signed_by(&parsed, authority_key) && fresh(&parsed, now)
}

/// Whether the certificate has a valid signature of this key (an uncompressed P-256 point).
pub(crate) fn signed_by(certificate: &X509Certificate<'_>, key: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(
            certificate.tbs_certificate.as_ref(),
            &certificate.signature_value.data,
        )
        .is_ok()
}

fn fresh(certificate: &X509Certificate<'_>, now: OffsetDateTime) -> bool {
    let validity = certificate.validity();
    let (start, end) = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    let renewal = end - (end - start) / i64::from(RENEWAL_PART);
    start <= now.unix_timestamp() && now.unix_timestamp() < renewal
}

/// The end of validity of a certificate.
pub(crate) fn ends(certificate: &X509Certificate<'_>) -> SystemTime {
    certificate.validity().not_after.to_datetime().into()
}

/// The end of validity of the first certificate in a PEM text; `None` if it cannot be parsed.
pub fn end_of_pem(pem: &str) -> Option<SystemTime> {
    validity_of_pem(pem).map(|(_, end)| end)
}

/// The first and the last second of validity of the first certificate in a PEM text; `None` if it cannot be parsed.
pub fn validity_of_pem(pem: &str) -> Option<(SystemTime, SystemTime)> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, parsed) = parse_x509_certificate(&certificate).ok()?;
    let begin = parsed.validity().not_before.to_datetime().into();
    Some((begin, ends(&parsed)))
}

/// The alternative names; `None` if they cannot be parsed or have other types.
fn alt_names(certificate: &X509Certificate<'_>) -> Option<SubjectAltNames> {
    let extension = certificate.subject_alternative_name().ok()??;
    let mut names = SubjectAltNames {
        dns: BTreeSet::new(),
        addresses: BTreeSet::new(),
    };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                names.dns.insert((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                names.addresses.insert(address(bytes)?);
            }
            _ => return None,
        }
    }
    Some(names)
}

pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The first and the last moment of validity of a certificate that is created now.
pub(crate) fn validity(now: OffsetDateTime, life: Duration) -> (OffsetDateTime, OffsetDateTime) {
    (now - BACKDATED, now + life)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = SubjectAltNames::api_server("", []);
        let all_names: Vec<String> = names
            .dns
            .iter()
            .cloned()
            .chain(names.addresses.iter().map(IpAddr::to_string))
            .collect();
        let mut params = CertificateParams::new(all_names).unwrap();
        (params.not_before, params.not_after) = validity(now, Duration::days(30));
        let certificate = params.self_signed(&key).unwrap();
        let usable_at = |now| {
            usable(
                certificate.der(),
                &CertificatePurpose::Server(&names),
                key.public_key_raw(),
                now,
            )
        };
        let end = now + Duration::days(30);
        assert_eq!(end_of_pem(&certificate.pem()), Some(end.into()));
        assert!(usable_at(now));
        assert!(usable_at(now + Duration::days(19)));
        assert!(!usable_at(now + Duration::days(21)));
        assert!(!usable_at(now - Duration::days(1)));
        let stranger = KeyPair::generate().unwrap();
        let purpose = CertificatePurpose::Server(&names);
        assert!(!usable(
            certificate.der(),
            &purpose,
            stranger.public_key_raw(),
            now
        ));
    }
}
