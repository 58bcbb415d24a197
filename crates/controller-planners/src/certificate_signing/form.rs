//! The rules for requests to each signer.

use std::collections::BTreeSet;

use object_model::{NODES, NodeName};
use resource_kinds::certificates::{Request, signer};

use super::Usage;

/// The rules of a signer for its requests.
#[derive(Clone, Copy)]
pub(super) enum SignerRules {
    /// A client certificate for any user.
    ApiClient,
    /// A client certificate for a node.
    NodeClient,
    /// A server certificate for a node.
    NodeServing,
}

/// The rules of a built-in signer; `None` for other signers.
pub(super) fn of_signer(name: &str) -> Option<SignerRules> {
    match name {
        signer::API_CLIENT => Some(SignerRules::ApiClient),
        signer::NODE_CLIENT => Some(SignerRules::NodeClient),
        signer::NODE_SERVING => Some(SignerRules::NodeServing),
        _ => None,
    }
}

impl SignerRules {
    /// Checks a request and returns the usages of its certificate.
    ///
    /// *Errors.* The first violated rule, in the words of Kubernetes.
    pub fn check(self, request: &Request, usages: &[String]) -> Result<Vec<Usage>, String> {
        match self {
            Self::ApiClient => client_usages(usages),
            Self::NodeClient => {
                let names = [
                    (request.dns.is_empty(), "DNS"),
                    (request.emails.is_empty(), "Email"),
                    (request.addresses.is_empty(), "IP"),
                    (request.uris.is_empty(), "URI"),
                ];
                check_organization(request)?;
                check_names(&names)?;
                check_common_name(request)?;
                exactly(usages, Usage::ClientAuth)
            }
            Self::NodeServing => {
                check_organization(request)?;
                if request.dns.is_empty() && request.addresses.is_empty() {
                    return Err("DNS or IP subjectAltName is required".to_owned());
                }
                let names = [
                    (request.emails.is_empty(), "Email"),
                    (request.uris.is_empty(), "URI"),
                ];
                check_names(&names)?;
                let usages = exactly(usages, Usage::ServerAuth)?;
                check_common_name(request)?;
                Ok(usages)
            }
        }
    }
}

fn check_organization(request: &Request) -> Result<(), String> {
    match request.organizations.as_slice() {
        [only] if only == NODES => Ok(()),
        _ => Err("subject organization is not system:nodes".to_owned()),
    }
}

fn check_common_name(request: &Request) -> Result<(), String> {
    if !NodeName::is_claimed_by(&request.common_name) {
        return Err("subject common name does not begin with system:node: ".to_owned());
    }
    match NodeName::of_user(&request.common_name) {
        Some(_) => Ok(()),
        None => {
            cov_mark::hit!(findings_2_s35_signer);
            Err("subject common name does not end with the name of a node".to_owned())
        }
    }
}

fn check_names(names: &[(bool, &str)]) -> Result<(), String> {
    match names.iter().find(|(none, _)| !none) {
        None => Ok(()),
        Some((_, kind)) => Err(format!("{kind} subjectAltNames are not allowed")),
    }
}

fn usage(name: &str) -> Option<Usage> {
    match name {
        "client auth" => Some(Usage::ClientAuth),
        "digital signature" => Some(Usage::DigitalSignature),
        "key encipherment" => Some(Usage::KeyEncipherment),
        "server auth" => Some(Usage::ServerAuth),
        _ => None,
    }
}

fn client_usages(usages: &[String]) -> Result<Vec<Usage>, String> {
    let mut requested = BTreeSet::new();
    for name in usages {
        match usage(name) {
            Some(usage) if usage != Usage::ServerAuth => requested.insert(usage),
            _ => return Err(format!("invalid usage for client certificate: {name}")),
        };
    }
    match requested.contains(&Usage::ClientAuth) {
        true => Ok(requested.into_iter().collect()),
        false => Err("missing required usage for client certificate: client auth".to_owned()),
    }
}

/// Requires the purpose and digital signatures, and allows key encipherment.
fn exactly(usages: &[String], purpose: Usage) -> Result<Vec<Usage>, String> {
    let requested: BTreeSet<Option<Usage>> = usages.iter().map(|name| usage(name)).collect();
    let needed = BTreeSet::from([Some(purpose), Some(Usage::DigitalSignature)]);
    let mut all = needed.clone();
    all.insert(Some(Usage::KeyEncipherment));
    if requested == needed || requested == all {
        return Ok(requested.into_iter().flatten().collect());
    }
    let purpose = match purpose {
        Usage::ServerAuth => ["digital signature", "key encipherment", "server auth"],
        _ => ["client auth", "digital signature", "key encipherment"],
    };
    Err(format!("usages did not match [{}]", purpose.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings-2 S35
    #[test]
    fn a_certificate_of_a_node_is_for_one_node_with_a_valid_name() {
        cov_mark::check!(findings_2_s35_signer);
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let usages: Vec<String> = strings(&["client auth", "digital signature"]);
        let serving: Vec<String> = strings(&["server auth", "digital signature"]);
        let signed = |common_name: &str, organizations: &[&str]| {
            let mut request = Request::default();
            request.common_name = common_name.to_owned();
            request.organizations = strings(organizations);
            let client = SignerRules::NodeClient.check(&request, &usages);
            request.dns = strings(&["n1"]);
            let server = SignerRules::NodeServing.check(&request, &serving);
            assert_eq!(client.is_ok(), server.is_ok(), "{common_name}");
            client.is_ok()
        };
        assert!(signed("system:node:n1", &[NODES]));
        for (name, organizations) in [
            ("system:node:", &[NODES][..]),
            ("system:node:VM-3", &[NODES]),
            ("system:node:n1.", &[NODES]),
            ("system:node:n1 ", &[NODES]),
            ("system:node:*.default.svc", &[NODES]),
            ("system:node", &[NODES]),
            ("n1", &[NODES]),
            ("", &[NODES]),
            ("system:node:n1", &[]),
            ("system:node:n1", &[NODES, NODES]),
            ("system:node:n1", &[NODES, "system:masters"]),
            ("system:node:n1", &["nodes"]),
        ] {
            assert!(
                !signed(name, organizations),
                "{name:?} of {organizations:?}"
            );
        }
    }
}
