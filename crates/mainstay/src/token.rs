//! `mainstay token`: bootstrap tokens, by which new nodes ask for their certificates.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use certificates::{KeyHash, random_text};
use clap::Subcommand;
use cluster_inspection::Server;
use command_output::columns;
use command_output::output::{print_line, print_text};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_api_client::{Api, Client, DeleteParams, ListParams, PostParams};
use object_model::duration;
use resource_kinds::bootstrap_token::{
    Data, Expiration, ID_LENGTH, NAMESPACE, NODE_GROUP, SECRET_LENGTH, TYPE, expiration, is_id,
    key, secret_name, text,
};

use crate::settings::ServerArguments;

/// The ConfigMap with the certificates of the authority, which every namespace has.
const ROOT_CA: &str = "kube-root-ca.crt";
/// Timeout of the wait for the ConfigMap, which the controllers write in a new cluster.
const ROOT_CA_WAIT: Duration = Duration::from_secs(60);

/// Arguments of `mainstay token`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct TokenArguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Create a token and print it
    Create {
        /// Time until the token expires, such as 30m or 24h; 0 for a token without an end
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = ttl)]
        ttl: Ttl,
        /// Text for the list of tokens
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// List the tokens, without their secret parts
    List,
    /// Delete tokens; certificates that nodes got by them stay valid
    Delete {
        /// Tokens, or their identifiers
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
    },
}

const AFTER_HELP: &str = "\
A token is a Secret of the type bootstrap.kubernetes.io/token in the namespace kube-system. It is
printed as ID.SECRET.HASH: a kubelet authenticates by ID.SECRET, and sha256:HASH is the hash of the
key of the certificate authority, as kubeadm has it. A user with a token may ask for the client
certificate of a new node, and for nothing else.

Examples:
  mainstay token create
  mainstay token create --ttl 1h --description 'rack 7'
  mainstay token list
  mainstay token delete 07401b";

/// Lifetime of a token; `None` for a token that does not expire.
type Ttl = Option<SignedDuration>;

fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "0" {
        return Ok(None);
    }
    let ttl: SignedDuration = text.parse().map_err(|_| {
        "give a time such as 30m or 24h, or 0 for a token without an end".to_owned()
    })?;
    match ttl {
        ttl if ttl.is_zero() => Ok(None),
        ttl if ttl.is_negative() => Err("a token cannot end in the past".to_owned()),
        ttl => Ok(Some(ttl)),
    }
}

/// Runs the command on the server's tokens.
pub async fn run(arguments: TokenArguments) -> Result<()> {
    let server = arguments.server.find().await?;
    let secrets: Api<Secret> = Api::namespaced(server.client.clone(), NAMESPACE);
    let explain = |error: kube_api_client::Error| server.explain(error);
    match arguments.action {
        Action::Create { ttl, description } => {
            let token = Token::new(ttl, description.as_deref())?;
            let hash = authority(&server).await?;
            token.create(&server.client).await.map_err(explain)?;
            print_line(&token.to_join_with(hash));
        }
        Action::List => {
            let only = ListParams::default().fields(&format!("type={TYPE}"));
            let listed = secrets.list(&only).await.map_err(explain)?;
            print_text(&table(&listed.items, Timestamp::now()));
        }
        Action::Delete { tokens } => {
            let ids: Vec<&str> = tokens
                .iter()
                .map(|token| id_of(token))
                .collect::<Result<_>>()?;
            for id in ids {
                let how = DeleteParams::default();
                match secrets.delete(&secret_name(id), &how).await {
                    Err(error) if error.code() == Some(404) => bail!("there is no token {id}"),
                    deleted => drop(deleted.map_err(explain)?),
                }
                print_line(&format!("deleted {id}"));
            }
        }
    }
    Ok(())
}

/// A new bootstrap token and the Secret that stores it.
pub struct Token {
    text: String,
    object: Secret,
}

impl Token {
    /// A random token that expires after `ttl`.
    ///
    /// # Errors
    /// The system has no random numbers, or the time is too long.
    pub fn new(ttl: Ttl, description: Option<&str>) -> Result<Self> {
        let id = random_text(ID_LENGTH).context("make a token")?;
        let secret = random_text(SECRET_LENGTH).context("make a token")?;
        let now = Timestamp::now();
        let end = match ttl {
            Some(ttl) => Some(
                now.checked_add(ttl)
                    .context("compute the expiry of the token")?,
            ),
            None => None,
        };
        Ok(Self {
            object: object(&id, &secret, end, description),
            text: format!("{id}.{secret}"),
        })
    }

    /// Creates the Secret, which makes the token valid.
    ///
    /// # Errors
    /// Errors of the API.
    pub async fn create(&self, client: &Client) -> kube_api_client::Result<()> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
        let created = secrets.create(&PostParams::default(), &self.object).await;
        created.map(drop)
    }

    /// The text for `mainstay node --token`: the token and the hash of the authority's key.
    pub fn to_join_with(&self, authority: KeyHash) -> String {
        format!("{}.{authority}", self.text)
    }
}

/// The identifier in a whole token or in the identifier alone.
fn id_of(token: &str) -> Result<&str> {
    let id = token.split('.').next().unwrap_or(token);
    if !is_id(id) {
        bail!("{id:?} is not the identifier of a token, which has {ID_LENGTH} letters and digits");
    }
    Ok(id)
}

/// The hash of the authority's public key, from the ConfigMap that the cluster publishes.
pub async fn authority(server: &Server) -> Result<KeyHash> {
    let published = tokio::time::timeout(ROOT_CA_WAIT, published(&server.client)).await;
    let map = match published {
        Ok(published) => published.map_err(|error| server.explain(error))?,
        Err(_) => bail!("the cluster does not publish its authority in {NAMESPACE}/{ROOT_CA}"),
    };
    let data = map.data.unwrap_or_default();
    let pem = data.get("ca.crt").map_or("", String::as_str);
    KeyHash::of_pem(pem).with_context(|| format!("{NAMESPACE}/{ROOT_CA} has no certificate"))
}

async fn published(client: &Client) -> Result<ConfigMap, kube_api_client::Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    loop {
        if let Some(map) = maps.get_opt(ROOT_CA).await? {
            return Ok(map);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The Secret of a token, as kubeadm writes it.
fn object(id: &str, secret: &str, end: Option<Timestamp>, description: Option<&str>) -> Secret {
    let mut data = BTreeMap::from([
        (key::ID, id.to_owned()),
        (key::SECRET, secret.to_owned()),
        (key::AUTHENTICATION, "true".to_owned()),
        (key::GROUPS, NODE_GROUP.to_owned()),
    ]);
    let seconds = end.and_then(|end| Timestamp::from_second(end.as_second()).ok());
    data.extend(seconds.map(|end| (key::EXPIRATION, end.to_string())));
    data.extend(description.map(|text| (key::DESCRIPTION, text.to_owned())));
    let data = data.into_iter();
    Secret {
        metadata: ObjectMeta {
            name: Some(secret_name(id)),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(
            data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
                .collect(),
        ),
        ..Secret::default()
    }
}

fn table(secrets: &[Secret], now: Timestamp) -> String {
    let none = Data::new();
    let mut rows = vec![["ID", "TTL", "EXPIRES", "GROUPS", "DESCRIPTION"].map(str::to_owned)];
    for secret in secrets {
        let data = secret.data.as_ref().unwrap_or(&none);
        let (ttl, expires) = match expiration(data) {
            Expiration::Never => ("<forever>".to_owned(), "<never>".to_owned()),
            Expiration::At(end) if end <= now => ("<expired>".to_owned(), end.to_string()),
            Expiration::At(end) => {
                let left = duration::human(end.as_second() - now.as_second());
                (left, end.to_string())
            }
            Expiration::Malformed => ("<invalid>".to_owned(), "<invalid>".to_owned()),
        };
        let or_none = |key: &str| match text(data, key) {
            "" => "<none>".to_owned(),
            text => text.replace(char::is_control, " "),
        };
        rows.push([
            or_none(key::ID),
            ttl,
            expires,
            or_none(key::GROUPS),
            or_none(key::DESCRIPTION),
        ]);
    }
    columns::table(&rows, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_as_long_as_is_asked_for() {
        assert_eq!(ttl("24h"), Ok(Some(SignedDuration::from_hours(24))));
        assert_eq!(ttl("1h30m"), Ok(Some(SignedDuration::from_mins(90))));
        assert_eq!(ttl("0"), Ok(None));
        assert_eq!(ttl("0s"), Ok(None));
        for text in ["", "soon", "-1h", "24"] {
            assert!(ttl(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_list_shows_no_secret_part() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let later = now + SignedDuration::from_hours(24);
        let secrets = [
            object("abcdef", "0123456789abcdef", Some(later), Some("rack\n7")),
            object("bcdefg", "0123456789abcdef", None, None),
            object("cdefgh", "0123456789abcdef", Some(now), None),
        ];
        let table = table(&secrets, now);
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0], ["ID", "TTL", "EXPIRES", "GROUPS", "DESCRIPTION"]);
        assert_eq!(
            rows[1],
            [
                "abcdef",
                "24h",
                "2026-01-02T00:00:00Z",
                NODE_GROUP,
                "rack",
                "7"
            ]
        );
        assert_eq!(rows[2][..3], ["bcdefg", "<forever>", "<never>"]);
        assert_eq!(
            rows[3][..3],
            ["cdefgh", "<expired>", "2026-01-01T00:00:00Z"]
        );
        assert!(!table.contains("0123456789abcdef"));
    }

    #[test]
    fn a_token_is_deleted_by_any_of_its_forms() {
        for form in [
            "abcdef",
            "abcdef.0123456789abcdef",
            "abcdef.0123456789abcdef.00",
        ] {
            assert_eq!(id_of(form).unwrap(), "abcdef");
        }
        for other in ["", "ABCDEF", "bootstrap-token-abcdef"] {
            assert!(id_of(other).is_err(), "{other}");
        }
    }
}
