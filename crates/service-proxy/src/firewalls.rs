//! Rules in other firewalls of this machine, which have no rules for pods.
//!
//! A packet must pass every table that filters it. Container engines and firewalls drop forwarded packets
//! of unknown links (Docker sets that policy at its start), so that pods would have no network. As network
//! plugins do, this module inserts rules for the pods' links at the head of such chains. The rules accept
//! all forwarded packets, but packets to the machine itself only if their destination is one of the
//! addresses for pods. The rules contain the names of the instance's links, by which the module recognises
//! and removes them. If a firewall uses the old xtables interface without nftables, the module changes
//! nothing.

use std::net::Ipv4Addr;

use crate::encode::{DELETE_RULE, GET_CHAIN, GET_RULE, NEW_RULE};
use crate::expressions::{Expressions, LinkDirection};
use crate::kernel::{Kernel, KernelError};
use crate::message::{Batch, FAMILY_UNSPECIFIED, NLM_F_CREATE, big_number, find, nftables, text};

const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const HOOK_INPUT: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;

/// A chain that drops unknown packets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Guard {
    family: u8,
    table: String,
    chain: String,
    hook: u32,
}

/// The links and addresses whose packets the machine's firewalls must accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLinks {
    /// Prefixes of the host's link names of pods, and of other links that pods' packets use.
    pub prefixes: Vec<String>,
    /// Addresses of this machine that pods use: the node's address for its pods, and the DNS address.
    pub local_addresses: Vec<Ipv4Addr>,
}

/// Inserts missing rules, and returns the number of chains that needed a rule.
///
/// # Errors
/// The kernel rejects a rule.
pub fn open(kernel: &mut Kernel, links: &PodLinks) -> Result<usize, KernelError> {
    let mut opened = 0;
    for guard in guards(kernel)? {
        if !program_rules(kernel, &guard, links)?.is_empty() {
            continue;
        }
        let mut batch = Batch::new();
        for (by, address) in passes(guard.hook, links) {
            // Without the append flag a rule is inserted at the head of its chain.
            batch.message_in(guard.family, NEW_RULE, NLM_F_CREATE, |a| {
                a.text(1, &guard.table);
                a.text(2, &guard.chain);
                a.nested(4, |list| Expressions { list }.accept(by, address));
            });
        }
        kernel.transact(&batch.into_bytes())?;
        tracing::info!(
            table = guard.table,
            chain = guard.chain,
            "let pods through a firewall"
        );
        opened += 1;
    }
    Ok(opened)
}

/// Removes the rules.
///
/// # Errors
/// The kernel rejects the removal.
pub fn close(kernel: &mut Kernel, links: &PodLinks) -> Result<(), KernelError> {
    for guard in guards(kernel)? {
        let mut batch = Batch::new();
        for handle in program_rules(kernel, &guard, links)? {
            batch.message_in(guard.family, DELETE_RULE, 0, |a| {
                a.text(1, &guard.table);
                a.text(2, &guard.chain);
                a.bytes(3, &handle);
            });
        }
        kernel.transact(&batch.into_bytes())?;
    }
    Ok(())
}

fn passes<'a>(hook: u32, links: &'a PodLinks) -> Vec<(LinkDirection<'a>, Option<Ipv4Addr>)> {
    let of_link = |prefix: &'a String| match hook {
        HOOK_FORWARD => vec![
            (LinkDirection::Input(prefix), None),
            (LinkDirection::Output(prefix), None),
        ],
        _ => links
            .local_addresses
            .iter()
            .map(|ip| (LinkDirection::Input(prefix), Some(*ip)))
            .collect(),
    };
    links.prefixes.iter().flat_map(of_link).collect()
}

fn guards(kernel: &mut Kernel) -> Result<Vec<Guard>, KernelError> {
    let mut guards = Vec::new();
    let each = |family: u8, attributes: &[u8]| guards.extend(guard(family, attributes));
    kernel.list(FAMILY_UNSPECIFIED, nftables(GET_CHAIN), |_| {}, each)?;
    Ok(guards)
}

fn guard(family: u8, attributes: &[u8]) -> Option<Guard> {
    let hook = big_number(find(attributes, 4)?, 1)?;
    let table = text(attributes, 1)?;
    // firewalld accepts all packets by policy, and rejects them with a rule at the end of its chains.
    let drops = big_number(attributes, 5)? == POLICY_DROP || table == "firewalld";
    let concerns_pods = matches!(hook, HOOK_INPUT | HOOK_FORWARD)
        && matches!(family, FAMILY_INET | FAMILY_IPV4)
        && text(attributes, 7)? == "filter";
    let chain = text(attributes, 3)?;
    (drops && concerns_pods).then_some(Guard {
        family,
        table,
        chain,
        hook,
    })
}

/// The handles of a chain's rules that contain the instance's links.
fn program_rules(
    kernel: &mut Kernel,
    guard: &Guard,
    links: &PodLinks,
) -> Result<Vec<[u8; 8]>, KernelError> {
    let mut handles = Vec::new();
    let ask = |a: &mut crate::message::Attributes<'_>| {
        a.text(1, &guard.table);
        a.text(2, &guard.chain);
    };
    let each = |_, attributes: &[u8]| {
        let expressions = find(attributes, 4).unwrap_or_default();
        let names = |prefix: &String| {
            let mut windows = expressions.windows(prefix.len());
            windows.any(|window| window == prefix.as_bytes())
        };
        let names_links = links.prefixes.iter().any(names);
        let handle: Option<[u8; 8]> = find(attributes, 3).and_then(|handle| handle.try_into().ok());
        handles.extend(handle.filter(|_| names_links));
    };
    kernel.list(guard.family, nftables(GET_RULE), ask, each)?;
    Ok(handles)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use pod_network::{PodNetwork, PodNetworkOptions};

    use super::{FAMILY_INET, FAMILY_IPV4, HOOK_FORWARD, HOOK_INPUT, PodLinks};
    use crate::encode::{GET_RULE, NEW_CHAIN};
    use crate::kernel::Kernel;
    use crate::message::{Batch, NLM_F_CREATE, nftables};
    use crate::namespaces::Namespace;

    /// A typical firewall, which drops unknown packets.
    fn add_firewall(kernel: &mut Kernel, family: u8, hook: u32) {
        const NEW_TABLE: u16 = 0;
        let mut batch = Batch::new();
        batch.message_in(family, NEW_TABLE, NLM_F_CREATE, |a| a.text(1, "filter"));
        batch.message_in(family, NEW_CHAIN, NLM_F_CREATE, |a| {
            a.text(1, "filter");
            a.text(3, "GUARD");
            a.nested(4, |hook_attributes| {
                hook_attributes.number(1, hook);
                hook_attributes.number(2, 0);
            });
            a.number(5, super::POLICY_DROP);
            a.text(7, "filter");
        });
        kernel.transact(&batch.into_bytes()).unwrap();
    }

    fn rules(kernel: &mut Kernel, family: u8) -> usize {
        let mut count = 0;
        let ask = |a: &mut crate::message::Attributes<'_>| a.text(1, "filter");
        kernel
            .list(family, nftables(GET_RULE), ask, |_, _| count += 1)
            .unwrap();
        count
    }

    #[test]
    fn firewalls_that_know_nothing_of_pods_are_passed_and_left_as_they_were() {
        let [host, a, b] = std::array::from_fn(|_| Namespace::new());
        let dir = tempfile::tempdir().unwrap();
        host.block_on(|| async {
            let network = PodNetwork::open(PodNetworkOptions {
                instance_id: "a1b2c3".to_owned(),
                state_dir: dir.path().to_owned(),
                pod_cidr: "10.244.0.0/24".parse().unwrap(),
                service_cidr: "10.96.0.0/16".parse().unwrap(),
                encryption: None,
            });
            let network = network.await.unwrap();
            network.attach("pod-a", a.path()).await.unwrap();
            network.attach("pod-b", b.path()).await.unwrap();
        });
        b.serve(8080, "b");
        host.ip("addr add 198.51.100.1/32 dev lo");
        let mut kernel = host.run(|| Kernel::open("a1b2c3")).unwrap();
        let node = Ipv4Addr::new(10, 244, 0, 1);
        let links = PodLinks {
            prefixes: vec![pod_network::link_prefix("a1b2c3")],
            local_addresses: vec![node],
        };
        add_firewall(&mut kernel, FAMILY_IPV4, HOOK_FORWARD);
        assert!(a.ask((Ipv4Addr::new(10, 244, 0, 3), 8080)).is_err());
        assert_eq!(super::open(&mut kernel, &links).unwrap(), 1);
        assert_eq!(
            super::open(&mut kernel, &links).unwrap(),
            0,
            "once is enough"
        );
        assert_eq!(a.ask((Ipv4Addr::new(10, 244, 0, 3), 8080)).unwrap().0, "b");
        host.serve(9000, "host");
        add_firewall(&mut kernel, FAMILY_INET, HOOK_INPUT);
        assert!(a.ask((node, 9000)).is_err());
        assert_eq!(super::open(&mut kernel, &links).unwrap(), 1);
        assert_eq!(a.ask((node, 9000)).unwrap().0, "host");
        let other = a.ask((Ipv4Addr::new(198, 51, 100, 1), 9000));
        assert!(other.is_err(), "only addresses for pods: {other:?}");
        assert_eq!(
            (
                rules(&mut kernel, FAMILY_IPV4),
                rules(&mut kernel, FAMILY_INET)
            ),
            (2, 1)
        );
        super::close(&mut kernel, &links).unwrap();
        assert_eq!(
            (
                rules(&mut kernel, FAMILY_IPV4),
                rules(&mut kernel, FAMILY_INET)
            ),
            (0, 0)
        );
    }
}
