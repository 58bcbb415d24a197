//! The certificate authority of a data directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use time::{Duration, OffsetDateTime};
use x509_parser::parse_x509_certificate;

use crate::{
    CertificateError, ClientSubject, Identity, SubjectAltNames, TokenSigner, files,
    inspect::{self, CertificatePurpose},
    tokens,
};

/// The CA certificate is copied into clients' kubeconfigs, so it must be valid longer than they are used.
const CA_LIFE: Duration = Duration::days(3650);

/// Lifetime of other certificates. They are renewed when less than a third is left, at a start and while the server
/// runs.
const LEAF_LIFE: Duration = Duration::days(365);

/// The file with the keys that sign service account tokens.
const TOKEN_KEY: &str = "service-accounts.key";

/// The object identifier of an organization name.
const ORGANIZATION_OID: [u64; 4] = [2, 5, 4, 10];

/// A certificate authority with its files.
///
/// ```text
/// ca.crt ca.key            the authority; missing other files are created again
/// server.crt server.key    the API server's
/// client-<name>.crt .key   the clients'
/// service-accounts.key     signs service account tokens
/// ```
pub struct Authority {
    dir: PathBuf,
    certificate_pem: String,
    ends: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority in a directory; creates it if it does not exist.
    ///
    /// *Errors.* `Damaged` if the existing CA cannot be used. It is never replaced, because every client trusts it.
    pub fn open_or_create(dir: &Path) -> Result<Self, CertificateError> {
        files::make_dir(dir)?;
        let key = open_or_create_key(&dir.join("ca.key"), &dir.join("ca.crt"))?;
        let path = dir.join("ca.crt");
        let damaged = |what| CertificateError::Damaged {
            path: path.clone(),
            what,
        };
        let certificate_pem = match files::read(&path)? {
            Some(pem) => pem,
            None => {
                let pem = self_signed(&key, OffsetDateTime::now_utc())?.pem();
                files::write(&path, &pem)?;
                pem
            }
        };
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| damaged("is not a PEM certificate"))?;
        let (_, parsed) =
            parse_x509_certificate(&der).map_err(|_| damaged("is not an X.509 certificate"))?;
        if !inspect::signed_by(&parsed, key.public_key_raw()) {
            return Err(damaged("does not belong to ca.key"));
        }
        let ends = inspect::ends(&parsed);
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self {
            dir: dir.to_owned(),
            certificate_pem,
            ends,
            issuer,
        })
    }

    /// The CA certificate as PEM: clients verify the server with it, and the server verifies its clients.
    pub fn ca_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The API server's certificate for these names: the stored certificate, or a new certificate if the names have
    /// changed or the stored one is due for renewal.
    pub fn server(&self, names: &SubjectAltNames) -> Result<Identity, CertificateError> {
        self.server_at(names, SystemTime::now())
    }

    /// As [`server`](Self::server), at a given time.
    pub fn server_at(
        &self,
        names: &SubjectAltNames,
        now: SystemTime,
    ) -> Result<Identity, CertificateError> {
        self.open_or_issue("server", &CertificatePurpose::Server(names), now.into())
    }

    /// A client's certificate: the stored certificate, or a new certificate if the subject differs or the stored one
    /// is due for renewal.
    ///
    /// *Errors.* `TooManyGroups` for more than two organizations.
    pub fn client(
        &self,
        common_name: &str,
        organizations: &[&str],
    ) -> Result<Identity, CertificateError> {
        self.client_at(common_name, organizations, SystemTime::now())
    }

    /// As [`client`](Self::client), at a given time.
    pub fn client_at(
        &self,
        common_name: &str,
        organizations: &[&str],
        now: SystemTime,
    ) -> Result<Identity, CertificateError> {
        let subject = ClientSubject {
            common_name: common_name.to_owned(),
            organizations: organizations.iter().map(|&name| name.to_owned()).collect(),
        };
        let file = format!("client-{}", file_name(common_name));
        self.open_or_issue(&file, &CertificatePurpose::Client(&subject), now.into())
    }

    /// The end of validity of the CA certificate, and of all certificates that it signed. The CA certificate is never
    /// renewed, because every client trusts it.
    pub fn ends(&self) -> SystemTime {
        self.ends
    }

    /// The issuer name and the key that sign certificates.
    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// The key that signs service account tokens.
    pub fn token_signer(&self) -> Result<TokenSigner, CertificateError> {
        TokenSigner::open_or_create(&self.dir.join(TOKEN_KEY))
    }

    /// Creates the key that signs the service account tokens of a new cluster in the authority's directory. This
    /// takes longer than the other steps of a start, so the caller runs it concurrently with them.
    pub fn prepare_token_key(dir: &Path) -> Result<(), CertificateError> {
        files::make_dir(dir)?;
        tokens::prepare(&dir.join(TOKEN_KEY))
    }

    fn open_or_issue(
        &self,
        name: &str,
        purpose: &CertificatePurpose<'_>,
        now: OffsetDateTime,
    ) -> Result<Identity, CertificateError> {
        let certificate = self.dir.join(format!("{name}.crt"));
        let key = self.dir.join(format!("{name}.key"));
        if let (Some(certificate), Some(key)) = (files::read(&certificate)?, files::read(&key)?)
            && let Some(identity) = Identity::from_pem(certificate, key)
            && self.usable(&identity, purpose, now)
        {
            return Ok(identity);
        }
        let identity = self.issue(purpose, now)?;
        let result = files::write(&key, identity.key_pem())
            .and_then(|()| files::write(&certificate, identity.certificate_pem()));
        match result {
            // The certificate is used from memory, and is created again at the next start.
            Err(error) if error.is_full() => Ok(identity),
            other => other.map(|()| identity),
        }
    }

    fn usable(
        &self,
        identity: &Identity,
        purpose: &CertificatePurpose<'_>,
        now: OffsetDateTime,
    ) -> bool {
        let authority_key = self.issuer.key().public_key_raw();
        inspect::usable(&identity.certificate_der(), purpose, authority_key, now)
    }

    fn issue(
        &self,
        purpose: &CertificatePurpose<'_>,
        now: OffsetDateTime,
    ) -> Result<Identity, CertificateError> {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = inspect::validity(now, LEAF_LIFE);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        match purpose {
            CertificatePurpose::Server(names) => {
                params.distinguished_name = common_name("mainstay API server");
                params.subject_alt_names = alt_names(names)?;
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
            CertificatePurpose::Client(subject) => {
                params.distinguished_name = distinguished_name(subject)?;
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity::new(&certificate, &key))
    }
}

/// A lost certificate can be created again from its key; a lost key cannot.
fn open_or_create_key(path: &Path, certificate: &Path) -> Result<KeyPair, CertificateError> {
    let damaged = |what| CertificateError::Damaged {
        path: path.to_owned(),
        what,
    };
    match files::read(path)? {
        Some(pem) => KeyPair::from_pem(&pem).map_err(|_| damaged("is not a PEM private key")),
        None if files::read(certificate)?.is_some() => {
            Err(damaged("is missing, although its certificate is there"))
        }
        None => {
            let key = KeyPair::generate()?;
            files::write(path, &key.serialize_pem())?;
            Ok(key)
        }
    }
}

pub(crate) fn self_signed(
    key: &KeyPair,
    now: OffsetDateTime,
) -> Result<Certificate, CertificateError> {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = inspect::validity(now, CA_LIFE);
    // Each authority has a unique name, so that a client that trusts several authorities finds the matching one.
    let mut number = [0; 4];
    SystemRandom::new()
        .fill(&mut number)
        .map_err(|_| CertificateError::Random)?;
    let number = u32::from_be_bytes(number);
    params.distinguished_name = common_name(&format!("mainstay CA {number:08x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key)?)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// rcgen stores one entry per type, so the second organization is added by its object identifier.
pub(crate) fn distinguished_name(
    subject: &ClientSubject,
) -> Result<DistinguishedName, CertificateError> {
    let types = [
        DnType::OrganizationName,
        DnType::CustomDnType(ORGANIZATION_OID.to_vec()),
    ];
    let organizations = &subject.organizations;
    if organizations.len() > types.len() {
        return Err(CertificateError::TooManyGroups(organizations.len()));
    }
    let mut names = DistinguishedName::new();
    for (kind, organization) in types.into_iter().zip(organizations) {
        names.push(kind, organization);
    }
    names.push(DnType::CommonName, subject.common_name.as_str());
    Ok(names)
}

fn alt_names(names: &SubjectAltNames) -> Result<Vec<SanType>, CertificateError> {
    let dns = names
        .dns
        .iter()
        .map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
    let addresses = names
        .addresses
        .iter()
        .map(|address| Ok(SanType::IpAddress(*address)));
    dns.chain(addresses).collect()
}

/// Replaces characters that are unsafe in a file name. Two clients with equal file names would only replace each
/// other's file, because a stored certificate is compared with the requested certificate before its use.
fn file_name(common_name: &str) -> String {
    let safe = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    common_name
        .chars()
        .map(|letter| if safe(letter) { letter } else { '_' })
        .take(100)
        .collect()
}
