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
    pub fn check(self, asked: &Request, usages: &[String]) -> Result<Vec<Usage>, String> {
        match self {
            Self::ApiClient => client_usages(usages),
            Self::NodeClient => {
                let names = [
                    (asked.dns.is_empty(), "DNS"),
                    (asked.emails.is_empty(), "Email"),
                    (asked.addresses.is_empty(), "IP"),
                    (asked.uris.is_empty(), "URI"),
                ];
                check_organization(asked)?;
                check_names(&names)?;
                check_common_name(asked)?;
                exactly(usages, Usage::ClientAuth)
            }
            Self::NodeServing => {
                check_organization(asked)?;
                if asked.dns.is_empty() && asked.addresses.is_empty() {
                    return Err("DNS or IP subjectAltName is required".to_owned());
                }
                let names = [
                    (asked.emails.is_empty(), "Email"),
                    (asked.uris.is_empty(), "URI"),
                ];
                check_names(&names)?;
                let usages = exactly(usages, Usage::ServerAuth)?;
                check_common_name(asked)?;
                Ok(usages)
            }
        }
    }
}

fn check_organization(asked: &Request) -> Result<(), String> {
    match asked.organizations.as_slice() {
        [only] if only == NODES => Ok(()),
        _ => Err("subject organization is not system:nodes".to_owned()),
    }
}

fn check_common_name(asked: &Request) -> Result<(), String> {
    if !NodeName::is_claimed_by(&asked.common_name) {
        return Err("subject common name does not begin with system:node: ".to_owned());
    }
    match NodeName::of_user(&asked.common_name) {
        Some(_) => Ok(()),
        None => Err("subject common name does not end with the name of a node".to_owned()),
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
    let mut found = BTreeSet::new();
    for name in usages {
        match usage(name) {
            Some(usage) if usage != Usage::ServerAuth => found.insert(usage),
            _ => return Err(format!("invalid usage for client certificate: {name}")),
        };
    }
    match found.contains(&Usage::ClientAuth) {
        true => Ok(found.into_iter().collect()),
        false => Err("missing required usage for client certificate: client auth".to_owned()),
    }
}

/// Requires the purpose and digital signatures, and allows key encipherment.
fn exactly(usages: &[String], purpose: Usage) -> Result<Vec<Usage>, String> {
    let found: BTreeSet<Option<Usage>> = usages.iter().map(|name| usage(name)).collect();
    let needed = BTreeSet::from([Some(purpose), Some(Usage::DigitalSignature)]);
    let mut all = needed.clone();
    all.insert(Some(Usage::KeyEncipherment));
    if found == needed || found == all {
        return Ok(found.into_iter().flatten().collect());
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
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let usages: Vec<String> = strings(&["client auth", "digital signature"]);
        let serving: Vec<String> = strings(&["server auth", "digital signature"]);
        let signed = |common_name: &str, organizations: &[&str]| {
            let mut asked = Request::default();
            asked.common_name = common_name.to_owned();
            asked.organizations = strings(organizations);
            let client = SignerRules::NodeClient.check(&asked, &usages);
            asked.dns = strings(&["n1"]);
            let server = SignerRules::NodeServing.check(&asked, &serving);
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
