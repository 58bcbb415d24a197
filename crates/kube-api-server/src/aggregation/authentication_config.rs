//! The ConfigMap by which extension API servers verify requests: the authorities of client certificates and of the
//! front proxy, and the headers that name the user.

use std::time::SystemTime;

use json_tree::{Value, json};
use object_model::Status;

use crate::aggregation::identity;
use crate::bootstrap::{this_server, write_request};
use crate::handlers::verbs::create::create;
use crate::handlers::verbs::update::update;
use crate::handlers::writer::Writer;
use crate::http::decode::Decoded;
use crate::objects::storage;
use crate::objects::write_request::{ObjectPart, Validation, accept};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// The common name of the front proxy's certificate.
pub(crate) const FRONT_PROXY: &str = "front-proxy-client";

const CLIENT_CA: &str = "client-ca-file";
const PROXY_CA: &str = "requestheader-client-ca-file";

/// The authorities of a server, as PEM.
#[derive(Clone, Debug, Default)]
pub(crate) struct Authorities {
    /// The authorities of client certificates.
    pub(crate) clients: Option<String>,
    /// The authority of the front proxy's certificate.
    pub(crate) front_proxy: Option<String>,
}

/// Creates or completes the ConfigMap. Authorities of other servers stay until they expire.
///
/// *Errors.* The errors of the write.
pub(crate) async fn keep(writer: Writer<'_>, authorities: &Authorities) -> Result<(), Status> {
    let Some(resource) = writer.objects.catalog.any_version("", "configmaps") else {
        return Ok(());
    };
    if authorities.clients.is_none() && authorities.front_proxy.is_none() {
        return Ok(());
    }
    let user = this_server();
    let request = write_request(&resource, &user, NAMESPACE, NAME);
    let now = SystemTime::now();
    let Some(stored) = writer.objects.read(&resource, NAMESPACE, NAME).await? else {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": data(&Value::Null, authorities, now)});
        let (object, _) = accept(&resource, Decoded::from(object), Validation::Ignore)?;
        return match create(writer, &request, object).await {
            // Another server created the ConfigMap; the next call completes it.
            Err(status) if status.code == 409 => Ok(()),
            created => created.map(drop),
        };
    };
    let existing = storage::decode(&resource, &stored)?;
    if data(&existing["data"], authorities, now) == existing["data"] {
        return Ok(());
    }
    let mut change = |old: &Value| {
        let mut next = old.clone();
        next["data"] = data(&old["data"], authorities, now);
        Ok(next)
    };
    let written = update(writer, &request, ObjectPart::Whole, &mut change).await;
    written.map(drop)
}

/// The data of the ConfigMap with the authorities of this server.
fn data(existing: &Value, authorities: &Authorities, now: SystemTime) -> Value {
    let mut data = match existing {
        Value::Object(_) => existing.clone(),
        _ => json!({}),
    };
    let own = [
        (CLIENT_CA, &authorities.clients),
        (PROXY_CA, &authorities.front_proxy),
    ];
    for (key, own) in own {
        if let Some(own) = own {
            let stored = existing[key].as_str().unwrap_or_default();
            data[key] = json!(united(stored, own, now));
        }
    }
    if authorities.front_proxy.is_some() {
        for (key, value) in [
            ("requestheader-allowed-names", FRONT_PROXY),
            ("requestheader-username-headers", identity::USER),
            ("requestheader-uid-headers", identity::UID),
            ("requestheader-group-headers", identity::GROUP),
            ("requestheader-extra-headers-prefix", identity::EXTRA_PREFIX),
        ] {
            data[key] = json!(json!([value]).to_string());
        }
    }
    data
}

/// The valid certificates of both texts, each of them once.
fn united(stored: &str, own: &str, now: SystemTime) -> String {
    let mut all: Vec<&str> = Vec::new();
    for certificate in certificates(stored).chain(certificates(own)) {
        let is_valid = certificates::end_of_pem(certificate).is_some_and(|end| end > now);
        if is_valid && !all.contains(&certificate) {
            all.push(certificate);
        }
    }
    all.iter()
        .map(|certificate| format!("{certificate}\n"))
        .collect()
}

/// The certificates of a PEM text, without the text around them.
fn certificates(text: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END).filter_map(|part| {
        let start = part.rfind("-----BEGIN CERTIFICATE-----")?;
        part.get(start..).filter(|part| part.ends_with(END))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use certificates::Authority;

    use super::*;

    fn authority() -> String {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(directory.path()).unwrap();
        authority.ca_pem().to_owned()
    }

    #[test]
    fn all_keys_are_there_and_authorities_of_other_servers_stay() {
        let (clients, proxy, other) = (authority(), authority(), authority());
        let now = SystemTime::now();
        let authorities = Authorities {
            clients: Some(clients.clone()),
            front_proxy: Some(proxy.clone()),
        };
        let first = data(&Value::Null, &authorities, now);
        let lines = |key: &str| first[key].as_str().unwrap().to_owned();
        assert_eq!(lines(CLIENT_CA).trim(), clients.trim());
        assert_eq!(lines(PROXY_CA).trim(), proxy.trim());
        for (key, list) in [
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            (
                "requestheader-extra-headers-prefix",
                r#"["X-Remote-Extra-"]"#,
            ),
        ] {
            assert_eq!(lines(key), list);
        }
        assert_eq!(data(&first, &authorities, now), first);
        let server = Authorities {
            clients: None,
            front_proxy: Some(other.clone()),
        };
        let second = data(&first, &server, now);
        assert_eq!(second[CLIENT_CA], first[CLIENT_CA]);
        let both = format!("{}\n{}\n", proxy.trim(), other.trim());
        assert_eq!(second[PROXY_CA].as_str().unwrap(), both);
        // An expired certificate is removed, and so is a text that is no certificate.
        let later = now + Duration::from_secs(20 * 365 * 24 * 3600);
        assert_eq!(united(&both, "", later), "");
        assert_eq!(
            united("-----BEGIN CERTIFICATE-----\nx", &proxy, now).trim(),
            proxy.trim()
        );
    }
}
