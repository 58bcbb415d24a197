//! The content of a certificate request (PKCS#10).

use std::net::IpAddr;

use jiff::Timestamp;
use json_tree::Value;
use k8s_openapi::ByteString;
use serde::Deserialize;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::parse_x509_certificate;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::AttributeTypeAndValue;

/// A decoded request. Approval and signing use only these fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The request in DER. The PEM text is parsed only once, because two parsers may find different requests in one
    /// text.
    der: Vec<u8>,
    /// The common name; empty if there is none.
    pub common_name: String,
    /// The organizations, in the order of the request.
    pub organizations: Vec<String>,
    /// Subject alternative names: DNS names.
    pub dns: Vec<String>,
    /// Subject alternative names: IP addresses.
    pub addresses: Vec<IpAddr>,
    /// Subject alternative names: e-mail addresses.
    pub emails: Vec<String>,
    /// Subject alternative names: URIs.
    pub uris: Vec<String>,
}

/// The error of an invalid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The text is not a single PEM block of this kind, or the text contains something outside of the block.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NotPem,
    /// The contents cannot be parsed.
    #[error("malformed certificate request")]
    Malformed,
    /// The subject contains several common names, so programs would differ about the owner of the certificate.
    #[error("subject must not have several common names")]
    SeveralCommonNames,
}

/// The bytes of a base64 field; empty if the field is absent.
pub(super) fn bytes(field: &Value) -> Vec<u8> {
    ByteString::deserialize(field).map_or_else(|_| Vec::new(), |bytes| bytes.0)
}

impl Request {
    /// Parses the request in a field of an object (base64 of PEM).
    pub(crate) fn from_field(field: &Value) -> Result<Self, RequestError> {
        Self::parse(&bytes(field))
    }

    /// Parses a request (PEM). The signer verifies the signature of the request.
    ///
    /// # Errors
    /// The text is not a request.
    pub fn parse(pem: &[u8]) -> Result<Self, RequestError> {
        let der = contents(pem).ok_or(RequestError::NotPem)?;
        let parsed = X509CertificationRequest::from_der(&der);
        let (rest, parsed) = parsed.map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        let subject = &parsed.certification_request_info.subject;
        let mut request = Self::default();
        for (index, name) in subject.iter_common_name().enumerate() {
            if index > 0 {
                cov_mark::hit!(findings_2_s35_request);
                return Err(RequestError::SeveralCommonNames);
            }
            request.common_name = text(name)?;
        }
        for name in subject.iter_organization() {
            request.organizations.push(text(name)?);
        }
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    request.add(name)?;
                }
            }
        }
        request.der = der;
        Ok(request)
    }

    /// The request in DER, for the signer.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    fn add(&mut self, name: &GeneralName<'_>) -> Result<(), RequestError> {
        match name {
            GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => self.addresses.push(address(bytes)?),
            // No signer here uses the other kinds of names for a certificate.
            _ => {}
        }
        Ok(())
    }
}

/// The bytes of the only block of a PEM text; `None` if the text contains anything else except white space around the
/// block.
///
/// Kubernetes uses the first block that it finds. This function is stricter on purpose, because an administrator or
/// another program reads the whole text.
fn contents(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?.trim_ascii();
    let inner = text.strip_prefix("-----BEGIN CERTIFICATE REQUEST-----")?;
    let inner = inner.strip_suffix("-----END CERTIFICATE REQUEST-----")?;
    let lines = inner.strip_prefix("\r\n").or(inner.strip_prefix('\n'))?;
    let lines = lines.strip_suffix("\r\n").or(lines.strip_suffix('\n'))?;
    // Only letters, digits, + and / are allowed: a second block, a header or another line ending is an error.
    let letters = lines.replace("\r\n", "\n").replace('\n', "");
    let is_base64 =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '/' | '=');
    if letters.is_empty() || !letters.chars().all(is_base64) {
        cov_mark::hit!(findings_s3);
        return None;
    }
    let decoded = ByteString::deserialize(&Value::String(letters)).ok()?;
    Some(decoded.0)
}

/// The end of the validity of the first certificate in a PEM text.
pub fn end_of_validity(pem: &[u8]) -> Option<Timestamp> {
    let (_, block) = parse_x509_pem(pem).ok()?;
    let (_, certificate) = parse_x509_certificate(&block.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

fn text(name: &AttributeTypeAndValue<'_>) -> Result<String, RequestError> {
    let text = name.as_str().map_err(|_| RequestError::Malformed)?;
    Ok(text.to_owned())
}

fn address(bytes: &[u8]) -> Result<IpAddr, RequestError> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Ok(bytes.into());
    }
    let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| RequestError::Malformed)?;
    Ok(bytes.into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// For `system:node:n1` of `system:nodes`, with the names `n1` and 10.0.0.1.
    pub(crate) const NODE: &str = include_str!("testdata/node.csr");
    /// For `jane` of `developers` and `testers`, without other names.
    pub(crate) const JANE: &str = include_str!("testdata/jane.csr");
    /// For `root` of `system:masters`.
    pub(crate) const MASTER: &str = include_str!("testdata/master.csr");

    #[test]
    fn a_request_says_who_it_is_for() {
        let node = Request::parse(NODE.as_bytes()).unwrap();
        assert_eq!(node.common_name, "system:node:n1");
        assert_eq!(node.organizations, ["system:nodes"]);
        assert_eq!(node.dns, ["n1"]);
        assert_eq!(node.addresses, [IpAddr::from([10, 0, 0, 1])]);
        let jane = Request::parse(JANE.as_bytes()).unwrap();
        assert_eq!(jane.organizations, ["developers", "testers"]);
        assert!(jane.dns.is_empty() && jane.uris.is_empty());
    }

    #[test]
    fn one_text_is_one_request() {
        cov_mark::check!(findings_s3);
        // findings S3: a parser that treats `\r` as the end of a line, and a parser that does not, would read
        // different requests.
        let hidden = MASTER.replace('\n', "\r");
        let parse = |text: &str| Request::parse(text.as_bytes());
        for text in [
            format!("{hidden}\n{JANE}"),
            format!("{MASTER}{JANE}"),
            format!("{JANE}{MASTER}"),
            format!("{JANE}{hidden}"),
            format!("Subject: O = developers\n{JANE}"),
            format!("{JANE}trailer"),
            JANE.replace('\n', "\r"),
            JANE.replace("REQUEST-----\n", "REQUEST-----\nComment: x\n\n"),
            JANE.replace("REQUEST-----\n", "REQUEST-----"),
            JANE.replace('M', " M"),
        ] {
            assert_eq!(parse(&text), Err(RequestError::NotPem), "{text}");
        }
        for text in [
            format!("\n{JANE}\n\n"),
            JANE.trim_end().to_owned(),
            JANE.replace('\n', "\r\n"),
        ] {
            assert_eq!(parse(&text), parse(JANE), "{text}");
        }
        assert!(!parse(JANE).unwrap().der().is_empty());
    }

    // findings-2 S35
    #[test]
    fn a_request_has_one_common_name() {
        cov_mark::check!(findings_2_s35_request);
        let twice = include_bytes!("testdata/two-names.csr");
        let refused = Request::parse(twice).unwrap_err();
        assert_eq!(refused, RequestError::SeveralCommonNames);
    }

    #[test]
    fn other_things_are_no_requests() {
        let parse = |text: &str| Request::parse(text.as_bytes());
        assert_eq!(parse(""), Err(RequestError::NotPem));
        assert_eq!(
            parse(&NODE.replace("CERTIFICATE REQUEST", "CERTIFICATE")),
            Err(RequestError::NotPem)
        );
        let short =
            "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
        assert_eq!(parse(short), Err(RequestError::Malformed));
    }
}
