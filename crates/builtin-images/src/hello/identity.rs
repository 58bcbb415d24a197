//! The identity of this pod, from its host name and its line in `/etc/hosts` (statefulset.md §1.5,
//! §10.13).

use std::fs;

/// The names that a pod of a StatefulSet derives from its host name.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// The pod's name, which is also its host name.
    pub pod: String,
    /// The StatefulSet's name; `None` unless the pod's name has the form `<set>-<ordinal>`.
    pub set: Option<String>,
    /// The pod's ordinal in its set.
    pub ordinal: Option<u32>,
    /// Full DNS name of the governing Service, such as `web.default.svc.cluster.local`.
    pub service: Option<String>,
}

impl Identity {
    /// Reads the names of the pod in which this process runs.
    pub fn of_pod() -> Self {
        let host = nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_else(|_| "unknown".to_owned());
        // Without this file only the Service's name is absent.
        let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        Self::from_names(&host, &hosts)
    }

    fn from_names(host: &str, hosts: &str) -> Self {
        let pod = host.split('.').next().unwrap_or(host).to_owned();
        let (set, ordinal) = match pod.rsplit_once('-') {
            Some((set, digits)) => match digits.parse() {
                Ok(ordinal) => (Some(set.to_owned()), Some(ordinal)),
                Err(_) => (None, None),
            },
            None => (None, None),
        };
        let prefix = format!("{pod}.");
        let service = hosts
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(str::split_whitespace)
            .find_map(|word| word.strip_prefix(&prefix))
            .map(str::to_owned);
        Self {
            pod,
            set,
            ordinal,
            service,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_s_pod_knows_set_ordinal_and_service() {
        let hosts = "127.0.0.1\tlocalhost\n10.1.2.3\tweb-2.www.shop.svc.cluster.local\tweb-2\n";
        let identity = Identity::from_names("web-2", hosts);
        assert_eq!(identity.set.as_deref(), Some("web"));
        assert_eq!(identity.ordinal, Some(2));
        assert_eq!(
            identity.service.as_deref(),
            Some("www.shop.svc.cluster.local")
        );
    }

    #[test]
    fn a_bare_pod_has_no_ordinal() {
        let identity = Identity::from_names("toolbox", "10.1.2.3\ttoolbox\n");
        assert_eq!(
            (identity.set, identity.ordinal, identity.service),
            (None, None, None)
        );
    }
}
