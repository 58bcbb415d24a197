//! Names of links, aliases and labels, by which an instance recognises its kernel objects.

/// Maximum length of a link's name in Linux, without the terminating zero.
const LINK_NAME_MAX: usize = 15;

/// The name of the host's end of a pod's veth pair: `ms`, four digits of the instance, and six digits from
/// a hash of the pod's UID and `attempt`. The attempt separates two UIDs with equal hashes.
pub(crate) fn link_name(instance_id: &str, pod_uid: &str, attempt: u32) -> String {
    let name = format!(
        "{}{:06x}",
        link_prefix(instance_id),
        hash(pod_uid, attempt) & 0xff_ffff
    );
    debug_assert!(name.len() <= LINK_NAME_MAX, "{name}");
    name
}

/// The prefix of the host's link names of all pods of an instance.
pub fn link_prefix(instance_id: &str) -> String {
    let instance: String = instance_id.chars().take(4).collect();
    format!("ms{instance}")
}

/// The name of the machine's link to the switch of an instance.
pub fn switch_link(instance_id: &str) -> String {
    let instance: String = instance_id.chars().take(6).collect();
    format!("mw{instance}")
}

/// The name of the tunnel to other nodes. It does not have the prefix of pods' links, which the rules of
/// Services match.
pub(crate) fn tunnel_name(instance_id: &str) -> String {
    let instance: String = instance_id.chars().take(6).collect();
    format!("mx{instance}")
}

/// The name of the encrypted tunnel to other nodes.
pub(crate) fn encrypted_tunnel_name(instance_id: &str) -> String {
    let instance: String = instance_id.chars().take(6).collect();
    format!("mg{instance}")
}

/// The FNV-1a hash. It does not change between builds, unlike the hashes of the standard library.
fn hash(text: &str, attempt: u32) -> u32 {
    let seed = 0x811c_9dc5_u32 ^ attempt;
    text.bytes().fold(seed, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// The alias of a pod's link.
pub(crate) fn link_alias(instance_id: &str, pod_uid: &str) -> String {
    format!("{}{pod_uid}", alias_prefix(instance_id))
}

/// The prefix of the aliases of all links of this instance.
pub(crate) fn alias_prefix(instance_id: &str) -> String {
    format!("mainstay/{instance_id}/")
}

/// The label of this instance's addresses on `lo`.
pub(crate) fn address_label(instance_id: &str) -> String {
    let instance: String = instance_id.chars().take(6).collect();
    format!("lo:ms{instance}")
}

#[cfg(test)]
mod tests {
    use super::{address_label, link_name};

    #[test]
    fn names_fit_and_differ_by_pod_and_attempt() {
        let uid = "1f0e4b1c-7a55-4b52-9d2c-0f2b9a6f1c11";
        let name = link_name("a1b2c3", uid, 0);
        assert_eq!(name.len(), 12);
        assert!(name.starts_with("msa1b2"));
        assert_eq!(name, link_name("a1b2c3", uid, 0));
        assert_ne!(name, link_name("a1b2c3", uid, 1));
        assert_ne!(
            name,
            link_name("a1b2c3", "2f0e4b1c-7a55-4b52-9d2c-0f2b9a6f1c11", 0)
        );
        assert!(address_label("a1b2c3").len() <= 15);
    }
}
