//! Expired client certificates: the server renews the certificate in its kubeconfig, but not in copies of the
//! kubeconfig.

use jiff::Timestamp;
use kubeconfig::Kubeconfig;

/// The end of validity of the current user's client certificate, if the certificate has expired.
pub fn expired(kubeconfig: &Kubeconfig, now: Timestamp) -> Option<Timestamp> {
    let (certificate, _) = kubeconfig.select(None).ok()?.identity?;
    let pem = String::from_utf8(certificate.read().ok()?).ok()?;
    let end = Timestamp::try_from(certificates::end_of_pem(&pem)?).ok()?;
    (end <= now).then_some(end)
}

/// The message for a client certificate that has expired, with the command that renews it.
pub fn remedy(url: &str, source: &str, end: Timestamp) -> String {
    format!(
        "the server at {url} refuses the client certificate of {source}, which ended on {}; with \
         mainstay, `mainstay kubeconfig --merge` puts the renewed one of the server's data directory in \
         its place",
        end.strftime("%Y-%m-%d %H:%M:%S UTC")
    )
}

#[cfg(test)]
mod tests {
    use certificates::Authority;

    use super::*;
    use control_plane::admin_kubeconfig::{Credentials, render};

    /// findings R24: the certificate in a copy of a kubeconfig expires, although the server has renewed the certificate
    /// in its kubeconfig.
    #[test]
    fn an_end_is_seen_in_the_users_own_kubeconfig() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path()).unwrap();
        let client = authority.client("admin", &["system:masters"]).unwrap();
        let text = render(&Credentials {
            server: "https://127.0.0.1:1",
            others: &[],
            ca: "ca",
            certificate: client.certificate_pem(),
            key: client.key_pem(),
        });
        let kubeconfig: Kubeconfig = serde_saphyr::from_str(&text).unwrap();
        let now = Timestamp::now();
        assert_eq!(expired(&kubeconfig, now), None);
        let later = now + jiff::SignedDuration::from_hours(24 * 400);
        let end = expired(&kubeconfig, later).unwrap();
        assert!(now < end && end < later);
        let advice = remedy("https://127.0.0.1:1", "~/.kube/config", end);
        assert!(advice.contains("mainstay kubeconfig --merge"), "{advice}");
        let mut other = kubeconfig;
        other.current_context = None;
        assert_eq!(expired(&other, later), None);
    }
}
