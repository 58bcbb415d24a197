//! Remedies for missing configuration of a container: ConfigMaps, Secrets, users, mounts.

use std::collections::BTreeSet;

use json_tree::json;
use pod_lifecycle::diagnosis::Remedy;
use pod_lifecycle::diagnosis::remedy::{quoted, template};
use pod_lifecycle::diagnosis::text::between;

use super::DiagnosedPod;

/// The UID of a user that is not root.
const SOME_USER: i64 = 1000;

/// The kinds of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    /// The kind that a word in a message names.
    fn of(word: &str) -> Option<Self> {
        match word.to_lowercase().as_str() {
            "configmap" => Some(Self::ConfigMap),
            "secret" => Some(Self::Secret),
            _ => None,
        }
    }

    fn create(self) -> &'static str {
        match self {
            Self::ConfigMap => "create configmap",
            Self::Secret => "create secret generic",
        }
    }

    fn kind_name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// The missing object or key.
#[derive(Debug, PartialEq, Eq)]
enum Missing<'m> {
    /// The whole object.
    Object(Kind, &'m str),
    /// One key of an object.
    Key(Kind, &'m str, &'m str),
}

impl<'m> Missing<'m> {
    /// Parses messages such as `configmap "settings" not found` and `couldn't find key a in Secret shop/db`.
    fn read(message: &'m str) -> Option<Self> {
        if let Some((key, rest)) = message
            .split_once("couldn't find key ")
            .and_then(|(_, rest)| rest.split_once(" in "))
        {
            let (kind, rest) = rest.split_once(' ')?;
            let (_, name) = rest.split_once('/')?;
            return Some(Self::Key(Kind::of(kind)?, name.trim(), key));
        }
        let (before, rest) = message.split_once(" \"")?;
        let (name, after) = rest.split_once('"')?;
        let kind = before.rsplit(' ').next().unwrap_or_default();
        match Kind::of(kind) {
            Some(kind) if after.starts_with(" not found") => Some(Self::Object(kind, name)),
            _ => Self::read(after),
        }
    }
}

impl DiagnosedPod<'_> {
    pub(super) fn configuration(&self) -> Option<Remedy> {
        let message = &self.diagnosis.message;
        if message.contains("runAsNonRoot") {
            let change = json!({ "securityContext": { "runAsUser": SOME_USER } });
            let text = "say as which user it runs: one that is not root and that the program can \
                        do with";
            return Some(self.by(text, self.change_container(change)));
        }
        if let Some(volume) = between(message, "subPath for volumeMount \"", "\"") {
            return self.sub_path(volume);
        }
        Some(self.supply(&Missing::read(message)?))
    }

    /// The remedy that mounts another path of the volume.
    fn sub_path(&self, volume: &str) -> Option<Remedy> {
        let mut mounts = self.container()?.volume_mounts.iter().flatten();
        let mount = mounts.find(|mount| {
            mount.name == volume && (mount.sub_path.is_some() || mount.sub_path_expr.is_some())
        })?;
        let change = json!({ "volumeMounts": [
            { "mountPath": mount.mount_path, "name": volume, "subPath": "PATH" },
        ] });
        let text = "take a path that is a file or directory inside the volume, or that can be made";
        Some(self.by(text, self.change_container(change)))
    }

    fn supply(&self, missing: &Missing<'_>) -> Remedy {
        let edit = self.kubectl(&format!("edit {}", template(self.pod)));
        match missing {
            Missing::Object(kind, name) => {
                let keys = self.keys(*kind, name).into_iter();
                let keys = keys.map(|key| format!(" --from-literal={key}=VALUE"));
                let keys: String = keys.collect();
                let create = self.kubectl(&format!("{} {name}{keys}", kind.create()));
                let kind = kind.kind_name();
                Remedy::new(format!(
                    "create the {kind}, or correct the reference ({edit})"
                ))
                .with(create)
            }
            Missing::Key(kind, name, key) => {
                let (what, field) = match kind {
                    Kind::ConfigMap => ("configmap", "data"),
                    Kind::Secret => ("secret", "stringData"),
                };
                let patch = quoted(&json!({ field: { *key: "VALUE" } }).to_string());
                let patch = self.kubectl(&format!("patch {what} {name} --type merge -p {patch}"));
                let kind = kind.kind_name();
                Remedy::new(format!(
                    "add the key to the {kind}, or correct the reference ({edit})"
                ))
                .with(patch)
            }
        }
    }

    /// The keys that the pod needs from a ConfigMap or Secret.
    fn keys(&self, kind: Kind, name: &str) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        let mut wants = |of: Kind, from: &str, key: &str| {
            if of == kind && from == name {
                keys.insert(key.to_owned());
            }
        };
        let env = self.containers().flat_map(|it| it.env.iter().flatten());
        for source in env.filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(from) = &source.config_map_key_ref {
                wants(Kind::ConfigMap, &from.name, &from.key);
            }
            if let Some(from) = &source.secret_key_ref {
                wants(Kind::Secret, &from.name, &from.key);
            }
        }
        let volumes = self.spec.and_then(|spec| spec.volumes.as_ref());
        for volume in volumes.into_iter().flatten() {
            if let Some(from) = &volume.config_map {
                for item in from.items.iter().flatten() {
                    wants(Kind::ConfigMap, &from.name, &item.key);
                }
            }
            if let Some(from) = &volume.secret {
                for item in from.items.iter().flatten() {
                    let name = from.secret_name.as_deref().unwrap_or_default();
                    wants(Kind::Secret, name, &item.key);
                }
            }
        }
        keys
    }

    /// The remedy for a volume that cannot be mounted; `message` is the node's warning.
    pub fn mount(&self, message: &str) -> Option<Remedy> {
        let name = between(message, "failed for volume \"", "\"")?;
        let mut volumes = self.spec?.volumes.iter().flatten();
        let volume = volumes.find(|volume| volume.name == name)?;
        let (_, message) = message.split_once("\" : ")?;
        if let Some(source) = &volume.host_path
            && message.contains("hostPath type check failed")
        {
            let edit = self.kubectl(&format!("edit {}", template(self.pod)));
            let created_type = match source.type_.as_deref() {
                Some("Directory" | "DirectoryOrCreate") => "DirectoryOrCreate",
                Some("File" | "FileOrCreate") => "FileOrCreate",
                _ => return Some(Remedy::new(format!("correct the path or its type: {edit}"))),
            };
            let change = json!({ "volumes": [
                { "name": name, "hostPath": { "path": source.path, "type": created_type } },
            ] });
            let text = format!("have the node make it, or correct the path ({edit})");
            return Some(self.by(text, self.change(change)));
        }
        if volume.persistent_volume_claim.is_some()
            && let Some(path) = between(message, "path \"", "\" does not exist")
        {
            let text = "restore the volume: mount its disk, or use a backup; to continue with an empty volume, on the node";
            return Some(Remedy::new(text).with(format!("mkdir -m 0777 {}", quoted(path))));
        }
        let (_, key) = message.rsplit_once(" key: ").unwrap_or_default();
        if message.contains("references non-existent")
            && let Some(key) = key.split_whitespace().next()
        {
            if let Some(source) = &volume.config_map {
                return Some(self.supply(&Missing::Key(Kind::ConfigMap, &source.name, key)));
            }
            let secret = volume.secret.as_ref()?.secret_name.as_deref()?;
            return Some(self.supply(&Missing::Key(Kind::Secret, secret, key)));
        }
        Some(self.supply(&Missing::read(message)?))
    }

    /// The remedy for a process that cannot be started.
    pub(super) fn command(&self) -> Remedy {
        let change = json!({ "command": ["COMMAND"] });
        let text = "correct its command; or take an image that has the program";
        self.by(text, self.change_container(change))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings U36
    #[test]
    fn what_is_missing_is_read_out_of_the_messages() {
        for (message, missing) in [
            (
                "container main cannot be configured: configmap \"a\" not found",
                Missing::Object(Kind::ConfigMap, "a"),
            ),
            ("secret \"b\" not found", Missing::Object(Kind::Secret, "b")),
            (
                "couldn't find key k in ConfigMap shop/a",
                Missing::Key(Kind::ConfigMap, "a", "k"),
            ),
            (
                "x: couldn't find key k in Secret shop/b",
                Missing::Key(Kind::Secret, "b", "k"),
            ),
        ] {
            assert_eq!(Missing::read(message), Some(missing), "{message}");
        }
        assert_eq!(Missing::read("image \"a\" is gone"), None);
        assert_eq!(Missing::read("nothing"), None);
    }
}
