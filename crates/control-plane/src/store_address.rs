//! The address of a store in etcd.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use etcd_store::EtcdOptions;
use serde::Deserialize;

const DEFAULT_PREFIX: &str = "/mainstay";

/// The settings of a store in etcd, as flags and in the configuration file. The flags for files have the
/// names of kube-apiserver's flags.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EtcdSettings {
    /// An etcd that several servers share, in place of the store in the data directory:
    /// etcd://HOST:PORT,HOST:PORT,… (TLS) or etcd+http://… (without)
    #[arg(
        id = "store",
        long = "store",
        value_name = "URL",
        env = "MAINSTAY_STORE"
    )]
    pub store: Option<EtcdUrl>,
    /// Prefix of all keys in etcd [default: /mainstay]
    #[arg(id = "etcd-prefix", long = "etcd-prefix", value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// Certificates of the authority of etcd's members, PEM [default: those of the machine]
    #[arg(id = "etcd-cafile", long = "etcd-cafile", value_name = "FILE")]
    pub cafile: Option<PathBuf>,
    /// Certificate of this server as a client of etcd, PEM
    #[arg(id = "etcd-certfile", long = "etcd-certfile", value_name = "FILE")]
    pub certfile: Option<PathBuf>,
    /// Key of this certificate, PEM
    #[arg(id = "etcd-keyfile", long = "etcd-keyfile", value_name = "FILE")]
    pub keyfile: Option<PathBuf>,
}

/// The members of an etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct EtcdUrl {
    is_tls: bool,
    /// Each is `HOST` or `HOST:PORT`.
    members: Vec<String>,
}

impl EtcdUrl {
    /// Whether the URL has the scheme `https`.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The addresses of the members for clients.
    pub fn endpoints(&self) -> Vec<String> {
        let scheme = if self.is_tls { "https" } else { "http" };
        let members = self.members.iter();
        members
            .map(|member| format!("{scheme}://{member}"))
            .collect()
    }
}

impl FromStr for EtcdUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            format!(
                "{text:?} is not etcd://HOST:PORT,HOST:PORT,… (TLS) or etcd+http://HOST:PORT,… \
                 (without)"
            )
        };
        let (scheme, members) = text.split_once("://").ok_or_else(form)?;
        let is_tls = match scheme {
            "etcd" => true,
            "etcd+http" => false,
            _ => return Err(form()),
        };
        let members: Vec<String> = members
            .trim_end_matches('/')
            .split(',')
            // etcd's tools accept lists that repeat the scheme.
            .map(|member| {
                member
                    .trim_start_matches(&format!("{scheme}://"))
                    .to_owned()
            })
            .collect();
        let is_plain =
            |member: &String| !member.is_empty() && !member.contains(['/', '@', '?', '#', ' ']);
        let url = Self { is_tls, members };
        let endpoints = url.endpoints();
        let is_valid = url.members.iter().all(is_plain)
            && endpoints.iter().all(|one| etcd_store::is_endpoint(one));
        is_valid.then_some(url).ok_or_else(form)
    }
}

impl TryFrom<String> for EtcdUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for EtcdUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "etcd" } else { "etcd+http" };
        write!(f, "{scheme}://{}", self.members.join(","))
    }
}

/// The address of a store in etcd, with the client's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdAddress {
    /// The URL of the etcd members.
    pub url: EtcdUrl,
    pub prefix: String,
    /// The certificates of the members' authority.
    pub cafile: Option<PathBuf>,
    /// The certificate and the key of this client.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdAddress {
    /// The flags of a server that uses this store.
    pub fn flags(&self) -> String {
        let mut flags = format!("--store {}", self.url);
        let is_default = self.prefix.trim_end_matches('/') == DEFAULT_PREFIX;
        let prefix = (!is_default).then(|| PathBuf::from(&self.prefix));
        let (certificate, key) = self.identity.clone().unzip();
        for (flag, value) in [
            ("prefix", prefix),
            ("cafile", self.cafile.clone()),
            ("certfile", certificate),
            ("keyfile", key),
        ] {
            if let Some(value) = value {
                flags += &format!(" --etcd-{flag} {}", value.display());
            }
        }
        flags
    }

    pub fn options(&self) -> EtcdOptions {
        EtcdOptions {
            prefix: self.prefix.clone(),
            cafile: self.cafile.clone(),
            identity: self.identity.clone(),
            ..EtcdOptions::new(self.url.endpoints())
        }
    }
}

impl EtcdSettings {
    /// Uses the values of the configuration file for settings without flag or variable.
    pub fn or(self, file: Self) -> Self {
        Self {
            store: self.store.or(file.store),
            prefix: self.prefix.or(file.prefix),
            cafile: self.cafile.or(file.cafile),
            certfile: self.certfile.or(file.certfile),
            keyfile: self.keyfile.or(file.keyfile),
        }
    }

    /// The paths of the files of these settings.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.cafile, &self.certfile, &self.keyfile];
        files.into_iter().flatten().map(PathBuf::as_path)
    }

    /// The address; `None` if the store is not in etcd.
    ///
    /// # Errors
    /// Settings that contradict each other.
    pub fn address(self) -> Result<Option<EtcdAddress>> {
        let has_files = self.files().next().is_some();
        let Some(url) = self.store else {
            ensure!(
                !has_files && self.prefix.is_none(),
                "the flags --etcd-… are for a store in etcd: add --store etcd://HOST:PORT,…"
            );
            return Ok(None);
        };
        ensure!(
            url.is_tls || !has_files,
            "the certificates are for etcd://, and {url} is a connection without TLS"
        );
        let identity = match (self.certfile, self.keyfile) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(_), None) => bail!("--etcd-certfile needs --etcd-keyfile"),
            (None, Some(_)) => bail!("--etcd-keyfile needs --etcd-certfile"),
        };
        let prefix = self.prefix.unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
        ensure!(
            prefix.starts_with('/') && prefix.trim_end_matches('/').len() > 1,
            "--etcd-prefix {prefix}: it has to begin with a slash and a name"
        );
        Ok(Some(EtcdAddress {
            url,
            prefix,
            cafile: self.cafile,
            identity,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(file: &str) -> Result<Option<EtcdAddress>> {
        let settings: EtcdSettings = serde_saphyr::from_str(file)?;
        settings.address()
    }

    fn plain_flags(file: &str) -> String {
        address(file).unwrap().unwrap().flags()
    }

    #[test]
    fn members_are_listed_with_or_without_tls() {
        let endpoints = |text: &str| text.parse::<EtcdUrl>().map(|url| url.endpoints());
        let all = ["https://a:2379", "https://[::1]:1", "https://c"];
        assert_eq!(endpoints("etcd://a:2379,[::1]:1,c/").unwrap(), all);
        assert_eq!(endpoints("etcd+http://a:1").unwrap(), ["http://a:1"]);
        let again = "etcd://a:1,etcd://b:1";
        assert_eq!(endpoints(again).unwrap(), ["https://a:1", "https://b:1"]);
        for strange in [
            "",
            "a:1",
            "etcd://",
            "etcd://a,",
            "https://a:1",
            "etcd://a/b",
            "etcd://user@a",
            "etcd://:2379",
            "etcd://a:0",
            "etcd://a:x",
            "etcd://a:65536",
            "etcd://[::1",
            "etcd://a,etcd+http://b",
        ] {
            let refused = endpoints(strange).unwrap_err();
            assert!(refused.contains("etcd://HOST:PORT"), "{refused}");
        }
    }

    #[test]
    fn settings_that_do_not_belong_together_are_refused() {
        assert_eq!(address("{}").unwrap(), None);
        let plain = address("store: etcd://a:1").unwrap().unwrap();
        assert_eq!((plain.prefix.as_str(), plain.identity), ("/mainstay", None));
        let flags = plain_flags("store: etcd://a:1");
        assert_eq!(flags, "--store etcd://a:1");
        let all = "{store: 'etcd://a,b', prefix: /c, cafile: d, certfile: e, keyfile: f}";
        assert_eq!(
            plain_flags(all),
            "--store etcd://a,b --etcd-prefix /c --etcd-cafile d --etcd-certfile e --etcd-keyfile f"
        );
        for (file, part) in [
            ("cafile: a", "add --store"),
            ("prefix: /a", "add --store"),
            ("{store: 'etcd+http://a:1', cafile: a}", "without TLS"),
            ("{store: 'etcd://a:1', certfile: a}", "--etcd-keyfile"),
            ("{store: 'etcd://a:1', keyfile: a}", "--etcd-certfile"),
            ("{store: 'etcd://a:1', prefix: a}", "slash"),
            ("{store: 'etcd://a:1', prefix: /}", "slash"),
            ("store: b", "etcd://HOST:PORT"),
        ] {
            let refused = address(file).unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
